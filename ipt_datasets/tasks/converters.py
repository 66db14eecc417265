"""From the layouts that task sets come in to one shape: a text and its pairs.

Every converter takes one row of a set, as a plain `dict`, and yields `TaskText`s, or a `LeftOut` with the reason where
a row or a part of it cannot be used. Nothing is dropped without one. Columns are given by name; a dot goes one level
down (`answers.text`), and a list of strings is joined by line breaks where one string is wanted.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.tasks.options import chosen_option, without_labels

LEFT_OUT: Mapping[str, str] = {
    "no_text": "the text is missing or empty",
    "no_question": "the question is missing or empty",
    "no_answer": "the answer is missing or empty",
    "not_in_options": "the answer is none of the options",
    "too_few_options": "fewer than two options",
    "no_match": "the prompt does not fit the pattern that takes the text out of it",
    "unreadable": "the row has not the layout that the converter reads",
    "no_pairs": "a text without any pair that can be used",
    "duplicate": "the same question was already asked about this text",
    "same_answer": "another pair about the text has this answer; left out of what is tuned on",
    "under_min_pairs": "fewer pairs than the set's texts must have",
    "over_max_pairs": "more pairs than the set may have on one text",
    "over_max_texts": "more texts than the set may have; those with most pairs were kept",
    "in_evaluation": "shares 13 words in a row with a text of an evaluation set",
    "not_unicode": "holds a lone surrogate, which no tokenizer can hold",
}
"""Why a row, a pair or a text of a task set is not used."""


@dataclass(frozen=True, slots=True)
class TaskText:
    """A text with its gold pairs.

    Attributes:
        text: the raw text.
        pairs: in the order in which they are to be written.
        document: names what the text is a part of, so that neighbouring parts can be joined; "" where unknown.
    """

    text: str
    pairs: tuple[Pair, ...]
    document: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that cannot be used, with a reason from `LEFT_OUT`; `what` shows it."""

    reason: str
    what: str


Converted = Iterator[TaskText | LeftOut]


def from_squad(row: Mapping[str, Any]) -> Converted:
    """Read an article of a SQuAD-style JSON file, `{"title", "paragraphs": [{"context", "qas": [...]}]}`.

    Questions marked `is_impossible` count as having no answer. A file's top level, `{"data": [...]}`, is taken too.
    """
    if "data" in row:
        for article in row["data"]:
            yield from from_squad(article)
        return
    for paragraph in row.get("paragraphs") or [row]:
        text = _string(paragraph.get("context"))
        pairs: list[Pair] = []
        for entry in paragraph.get("qas") or []:
            answer = None if entry.get("is_impossible") else _first(entry.get("answers", entry.get("answer")))
            made = _pair(entry.get("question"), answer)
            if isinstance(made, LeftOut):
                yield made
            else:
                pairs.append(made)
        yield _task_text(text, pairs, document=_string(row.get("title")))


def from_questions(
    row: Mapping[str, Any],
    *,
    text: str = "context",
    question: str = "question",
    answer: str = "answers",
    rationale: str | None = None,
) -> Converted:
    """Read a row with a context, a question and its answers (the first counts)."""
    made = _pair(_get(row, question), _first(_get(row, answer)), rationale=_get(row, rationale))
    yield _about(_get(row, text), made)


def from_multiple_choice(
    row: Mapping[str, Any],
    *,
    text: str = "context",
    question: str = "question",
    options: str = "options",
    answer: str = "answer",
    rationale: str | None = None,
) -> Converted:
    """Read a row with options; the answer is the text of one of them, its letter, or its number from 0.

    Options are a list, a string with one a line, or `{"text": [...], "label": [...]}`. Labels in front of them (`A)`,
    `(b)`, `C.`) are taken off where all options have theirs, in order: the "E." of "E. coli" is none.
    """
    listed: Any = _get(row, options)
    labels: Any = None
    if isinstance(listed, Mapping):
        labels, listed = listed.get("label"), listed.get("text")
    elif isinstance(listed, str):
        listed = listed.strip().splitlines()
    texts, were_labelled = without_labels([_string(option) for option in listed or []])
    if len(texts) < 2:
        yield LeftOut("too_few_options", _shown(_get(row, question)))
        return
    given = _first(_get(row, answer))
    if isinstance(given, int) and not labels and isinstance(listed[0], str):  # a number is none of these texts
        chosen = texts[given] if 0 <= given < len(texts) else None
    else:
        chosen = chosen_option(_string(given), texts, labels, were_labelled)
    if chosen is None:
        yield LeftOut("not_in_options", _shown(f"{_get(row, question)} -> {_get(row, answer)}"))
        return
    made = _pair(_get(row, question), chosen, options=texts, rationale=_get(row, rationale))
    yield _about(_get(row, text), made)


def from_yes_no(
    row: Mapping[str, Any],
    *,
    text: str = "passage",
    question: str = "question",
    answer: str = "answer",
    options: Sequence[str] = ("yes", "no"),
    rationale: str | None = None,
) -> Converted:
    """Read a row whose answer is yes, no or another word of `options`; `true` and 1 mean yes, `false` and 0 no."""
    given = _get(row, answer)
    word = {"true": "yes", "1": "yes", "false": "no", "0": "no"}.get(_string(given).lower(), _string(given).lower())
    if word not in options:
        yield LeftOut("not_in_options" if word else "no_answer", _shown(f"{_get(row, question)} -> {given}"))
        return
    made = _pair(_get(row, question), word, options=options, rationale=_get(row, rationale))
    yield _about(_get(row, text), made)


def from_summary(row: Mapping[str, Any], *, text: str = "document", asked: Mapping[str, str]) -> Converted:
    """Read a row whose columns hold what can be asked of the whole text: a summary, a title, a topic.

    Args:
        row: the row.
        text: the column of the text.
        asked: an instruction for each column that holds such a response.
    """
    pairs: list[Pair] = []
    for column, instruction in asked.items():
        made = _pair(instruction, _first(_get(row, column)))
        if isinstance(made, LeftOut):
            yield made
        else:
            pairs.append(made)
    yield _task_text(_string(_get(row, text)), pairs)


def from_chain_of_thought(
    row: Mapping[str, Any],
    *,
    text: str | None = None,
    question: str = "question",
    answer: str = "answer",
    rationale: str = "rationale",
) -> Converted:
    """Read a row with its reasoning; where there is no text, what stands before the question's last sentence is it.

    With an empty `rationale` the answer column holds both, the final answer behind `####` (GSM8K).
    """
    asked, said = _string(_get(row, question)), _string(_first(_get(row, answer)))
    reasons = _string(_get(row, rationale))
    if not rationale:
        reasons, _, said = said.rpartition("####")
        reasons = re.sub(r"<<[^<>]*>>", "", reasons)
    passage = _string(_get(row, text)) if text else ""
    if not text:
        cut = re.match(r"(?s)(.*[.!?])\s+(\S.*)\Z", asked)
        passage, asked = (cut[1], cut[2]) if cut else ("", asked)
    made = _pair(asked, said, rationale=reasons)
    yield _about(passage, made)


def from_prompts(
    row: Mapping[str, Any],
    *,
    pattern: str,
    prompt: str = "prompt",
    completion: str = "completion",
    options: str = r"\n\s*- ",
) -> Converted:
    r"""Read a prompt and its completion (P3, promptsource), taking the text out of the prompt again.

    Args:
        row: the row.
        pattern: a regular expression for the whole prompt, with the groups `text`, `question` and, where there are
            any, `options`; "." matches line breaks.
        prompt: the column of the prompt.
        completion: the column of the completion; an end marker like `<|endoftext|>` is taken off.
        options: what separates options.
    """
    written = _get(row, prompt) or ""
    found = re.fullmatch(pattern, written, flags=re.DOTALL)
    if not found:
        yield LeftOut("no_match", _shown(written))
        return
    groups = found.groupdict()
    answer = re.sub(r"<\|[a-z_]+\|>\s*\Z", "", _string(_get(row, completion))).strip()
    fields = {"text": groups["text"], "question": groups["question"], "answer": answer}
    if groups.get("options"):
        listed = [piece.strip() for piece in re.split(options, f"\n{groups['options'].strip()}")]
        yield from from_multiple_choice({**fields, "options": [piece for piece in listed if piece]}, text="text")
    else:
        yield from from_questions(fields, text="text", answer="answer")


def from_collection(row: Mapping[str, Any]) -> Converted:
    """Read a row of `instruction-pretrain/ft-instruction-synthesizer-collection`: `context`, `QA_list` of `Q`, `A`.

    Options and reasoning stand inside Q and A, as the paper's markup writes them.
    """
    pairs: list[Pair] = []
    for entry in row.get("QA_list") or []:
        question, answer = _string(_get(entry, "Q")), _string(_get(entry, "A"))
        if not question or not answer:
            yield LeftOut("no_answer" if question else "no_question", _shown(f"{question} -> {answer}"))
            continue
        pair = PAPER.read_pair(question, answer)
        if pair.options and pair.response not in pair.options:
            yield LeftOut("not_in_options", _shown(f"{question} -> {answer}"))
        else:
            pairs.append(pair)
    yield _task_text(_string(row.get("context")), pairs)


CONVERTERS: Mapping[str, Callable[..., Converted]] = {
    "squad": from_squad,
    "questions": from_questions,
    "multiple_choice": from_multiple_choice,
    "yes_no": from_yes_no,
    "summary": from_summary,
    "chain_of_thought": from_chain_of_thought,
    "prompts": from_prompts,
    "collection": from_collection,
}
"""The converters by the names that a task-set file uses."""

_ASKS = re.compile(
    r"(?i)(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|do|does|did|can|could|will|would|should|has|have"
    r"|had|in what|in which|at what|on what|for what|to what|by what|from what|under what|during what)\b"
)


def _get(row: Any, column: str | None) -> Any:
    for part in column.split(".") if column else [""]:
        row = row.get(part) if isinstance(row, Mapping) else None
    return row


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or isinstance(value, Mapping):
        return ""
    if isinstance(value, Sequence):
        return "\n".join(filter(None, (_string(piece) for piece in value)))
    return str(value)


def _first(value: Any) -> Any:
    """Give the first of several answers, in any of the ways they are written."""
    if isinstance(value, Mapping):
        return next((found for found in map(value.get, ("text", "answer", "string")) if _string(_first(found))), None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return next((found for found in map(_first, value) if _string(found)), None)
    return value


def _as_question(asked: str) -> str:
    """Write a question as people print it: a capital, and a question mark where it has lost its own."""
    asked = asked[:1].upper() + asked[1:]
    return f"{asked}?" if _ASKS.match(asked) and asked[-1] not in "?.!:" else asked


def _pair(question: Any, answer: Any, options: Sequence[str] = (), rationale: Any = None) -> Pair | LeftOut:
    instruction, response = _as_question(" ".join(_string(question).split())), _string(answer)
    if not instruction:
        return LeftOut("no_question", _shown(answer))
    if not response:
        return LeftOut("no_answer", instruction)
    return Pair(instruction, response, tuple(options), _string(rationale))


def _about(text: Any, made: Pair | LeftOut) -> TaskText | LeftOut:
    """Give a text with its one pair, or why there is none."""
    return made if isinstance(made, LeftOut) else _task_text(_string(text), [made])


def _task_text(text: str, pairs: Sequence[Pair], document: str = "") -> TaskText | LeftOut:
    if not text:
        return LeftOut("no_text", _shown(pairs[0].instruction if pairs else ""))
    if not pairs:
        return LeftOut("no_pairs", _shown(text))
    return TaskText(text, tuple(pairs), document)


def _shown(value: Any) -> str:
    return f"{' '.join(_string(value).split()):.120}"
