"""From one line of a released corpus to rows: whatever the line holds, nothing here raises.

A line is a list of entries `{"context", "QA_list", "inherit_from_prev"}`, in the order in which they were read. An
entry whose `inherit_from_prev` is true goes on with the chain of the entry before it, any other begins one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ipt_datasets.schema import Pair, Rejected
from ipt_datasets.synthesis.chains import Shot, Stretch, chain_id
from ipt_datasets.synthesis.dealing import SynthesizedRow
from ipt_datasets.synthesis.markup import PAPER

QUESTION_KEYS = ("q", "question", "instruction")
ANSWER_KEYS = ("a", "answer", "response")


class Entry(NamedTuple):
    """One text of a line with what was written about it.

    Attributes:
        text: None where it was null.
        qa_list: as it stands there.
        follows: whether it goes on with the chain of the entry before it.
        status: why nothing can be made of the text, from `schema.STATUSES`; "" where something can.
    """

    text: str | None
    qa_list: Any
    follows: bool
    status: str


def read_collection(line: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Read a line.

    Args:
        line: what JSON gave: a list of entries; a list in it is read as a line of its own, an object as a list of one.

    Returns:
        A row for every entry whose `context` is null or a string, with the columns `text` and those of
        `schema.SYNTHESIS_FEATURES`; and what cannot be read, in words.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for values in flat_lists(line):
        chain: list[Entry] = []
        for entry in map(_read_entry, values):
            if isinstance(entry, str) or not entry.follows:
                rows += _chain_rows(chain)
                chain = []
            if isinstance(entry, str):
                problems.append(entry)
            elif entry.status:
                # Arrow cannot hold what is not Unicode.
                text = entry.text if entry.status == "empty" else None
                rows.append({"text": text, **SynthesizedRow(entry.status).columns()})
                if entry.qa_list:
                    problems.append(f"a QA_list without a text to it ({entry.status})")
            else:
                chain.append(entry)
        rows += _chain_rows(chain)
    return rows, problems


def flat_lists(line: Any) -> Iterator[list[Any]]:
    """Yield the stretches of a nested list that no bracket parts, in order; of any other value, itself alone."""
    waiting: list[Any] = [line]
    stretch: list[Any] = []
    while waiting:
        value = waiting.pop()
        if not isinstance(value, list):
            stretch.append(value)
            continue
        if stretch:
            yield stretch
            stretch = []
        if value:
            waiting += [[], *reversed(value)]  # the empty list: the bracket that closes
    if stretch:
        yield stretch


def read_qa_list(value: Any) -> Iterator[tuple[str, str] | Rejected]:
    """Read a `QA_list`: objects with the keys Q and A in any case, or lists of two.

    Yields:
        A question and an answer, stripped and neither of them empty, or what cannot be used, as JSON.
    """
    for entry in value if isinstance(value, list) else () if value is None else (value,):
        question, answer = map(_string, _question_and_answer(entry))
        if question is None or answer is None or not is_unicode(question + answer):
            yield Rejected("unreadable", shown(entry))
        elif not question:
            yield Rejected("empty_question", shown(entry))
        elif not answer:
            yield Rejected("empty_answer", shown(entry))
        else:
            yield question, answer


def is_unicode(text: str) -> bool:
    """Tell whether Arrow can hold a text, which it cannot with a lone surrogate in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """Give a value as JSON that Arrow can hold."""
    try:
        return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply to be shown"


def _read_entry(value: Any) -> Entry | str:
    """Give an entry, or why there is none."""
    context = value.get("context", 0) if isinstance(value, Mapping) else 0
    if not isinstance(context, str | None):
        return f"holds {shown(value):.60}, expected an object with a string as its 'context'"
    status = "" if context and context.strip() else "empty"
    if context and not is_unicode(context):
        status = "not_unicode"
    follows = value.get("inherit_from_prev") is True and not status
    return Entry(context, value.get("QA_list"), follows, status)


def _chain_rows(chain: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    texts = [entry.text or "" for entry in chain]
    name = chain_id([Stretch(0, text, 0, len(text), []) for text in texts])
    for position, (text, entry) in enumerate(zip(texts, chain, strict=True)):
        pairs, rejected = _read_pairs(entry.qa_list)
        shot = Shot(
            row=0,
            chain=name,
            position=position,
            start=0,
            end=len(text),
            follows=position > 0,
            completion="",
            finish_reason="",
            prompt_tokens=0,
            completion_tokens=0,
            pairs=tuple(pairs),
            rejected=tuple(rejected),
        )
        yield {"text": text, **SynthesizedRow("ok" if pairs else "no_pairs", [shot]).columns()}


def _read_pairs(qa_list: Any) -> tuple[list[Pair], list[Rejected]]:
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    asked: set[str] = set()
    for found in read_qa_list(qa_list):
        if isinstance(found, Rejected):
            rejected.append(found)
            continue
        question, answer = found
        pair = PAPER.read_pair(question, answer)
        if not pair.instruction or not pair.response:
            rejected.append(Rejected("empty_question", shown({"Q": question, "A": answer})))
        elif question.lower() in asked:
            rejected.append(Rejected("duplicate", shown({"Q": question, "A": answer})))
        else:
            asked.add(question.lower())
            pairs.append(pair)
    return pairs, rejected


def _question_and_answer(entry: Any) -> tuple[Any, Any]:
    """Find the two in an entry; False, which neither can be, where the entry is none."""
    if isinstance(entry, list) and len(entry) == 2:
        return entry[0], entry[1]
    if not isinstance(entry, Mapping):
        return False, False
    if "Q" in entry and "A" in entry:
        return entry["Q"], entry["A"]
    values = {key.lower(): value for key, value in entry.items()}
    question, answer = (
        next((values[key] for key in keys if key in values), None) for keys in (QUESTION_KEYS, ANSWER_KEYS)
    )
    return question, answer


def _string(value: Any) -> str | None:
    """Give a question or an answer as a string, "" where it is null; None where it is something else."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else None
