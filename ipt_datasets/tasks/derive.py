"""What is made of gold pairs before a synthesizer learns them: their order, options, reasons, longer texts.

Extractive sets ask for facts alone. The same facts become multiple choice, with other answers about the same text as
the wrong options, and chain of thought, with the sentence that holds the answer as the reason.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from ipt_datasets.quality.overlap import WORD
from ipt_datasets.schema import Pair
from ipt_datasets.tasks.converters import LeftOut, TaskText
from ipt_datasets.templating.draw import Draw

MAX_OPTION_WORDS = 8
"""Longer answers do not make good options."""

LEADS = ("The text says: {}", "According to the text, {}", "It is stated that {}", "{}")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|(?<=[。！？])|\n+")


def gather(texts: Iterable[TaskText | LeftOut]) -> Iterator[TaskText | LeftOut]:
    """Bring pairs about the same text together, keep one of those that ask the same, pass on what is left out."""
    gathered: dict[str, list[TaskText]] = {}
    for found in texts:
        if isinstance(found, LeftOut):
            yield found
        else:
            gathered.setdefault(" ".join(found.text.split()), []).append(found)
    for parts in gathered.values():
        pairs: dict[str, Pair] = {}
        for pair in (pair for part in parts for pair in part.pairs):
            if (key := _plain(pair.instruction)) in pairs:
                yield LeftOut("duplicate", pair.instruction)
            else:
                pairs[key] = pair
        yield replace(parts[0], pairs=tuple(pairs.values()))


def join_neighbours(texts: Iterable[TaskText | LeftOut], words: int) -> Iterator[TaskText | LeftOut]:
    """Join neighbouring texts of one document as long as they have at most so many words together."""
    open_text: TaskText | None = None
    for found in texts:
        if isinstance(found, LeftOut):
            yield found
        elif (
            open_text
            and found.document
            and found.document == open_text.document
            and len(WORD.findall(open_text.text)) + len(WORD.findall(found.text)) <= words
        ):
            open_text = replace(
                open_text, text=f"{open_text.text}\n\n{found.text}", pairs=open_text.pairs + found.pairs
            )
        else:
            if open_text:
                yield open_text
            open_text = found
    if open_text:
        yield open_text


def first_of_each_answer(pairs: Iterable[Pair]) -> tuple[tuple[Pair, ...], list[LeftOut]]:
    """Of free-form pairs with the same response keep the first: who learns the others learns to ask one thing twice."""
    kept: dict[str, Pair] = {}
    left = []
    for pair in pairs:
        key = _plain(pair.response) if not (pair.options or pair.rationale) else _plain(pair.instruction)
        if kept.setdefault(key, pair) is not pair:
            left.append(LeftOut("same_answer", pair.instruction))
    return tuple(kept.values()), left


def order_by_place(text: str, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Order pairs as the text answers them: a model that writes so knows what was asked already and what comes next."""
    sentences = _sentences(text)
    return tuple(sorted(pairs, key=lambda pair: _place(text, sentences, pair)))


def add_options(text: str, pairs: tuple[Pair, ...], share: float, seed: int) -> tuple[Pair, ...]:
    """Turn a share of free-form pairs into multiple choice; other answers about the text are the wrong options."""
    draw = Draw.seeded(seed).within(text)
    answers = list(dict.fromkeys(pair.response.strip(" .") for pair in pairs if not pair.options))
    made = []
    for at, pair in enumerate(pairs):
        right = pair.response.strip(" .")
        wrong = [other for other in answers if _are_alternatives(right, other)]
        is_drawn = draw.fraction(f"options of {at}") < share
        if pair.options or pair.rationale or not is_drawn or len(wrong) < 2 or _is_yes_no(right):
            made.append(pair)
            continue
        order = draw.permutation(f"wrong of {at}", len(wrong))[:3]
        options = [right, *(wrong[other] for other in order)]
        shuffled = [options[other] for other in draw.permutation(f"order of {at}", len(options))]
        made.append(replace(pair, response=right, options=tuple(shuffled)))
    return tuple(made)


def add_rationales(text: str, pairs: tuple[Pair, ...], share: float, seed: int) -> tuple[Pair, ...]:
    """Give a share of pairs the sentence that holds the answer as their reason."""
    draw = Draw.seeded(seed).within(text)
    sentences = _sentences(text)
    made = []
    for at, pair in enumerate(pairs):
        answer = pair.response.strip(" .")
        holding = [text[start:end].strip() for start, end in sentences if answer and answer in text[start:end]]
        is_one_sentence = (
            len(holding) == 1 and 5 <= len(holding[0].split()) <= 50 and len(answer) * 2 <= len(holding[0])
        )
        if is_one_sentence and not pair.rationale and draw.fraction(f"rationale of {at}") < share:
            lead = LEADS[draw.permutation(f"lead of {at}", len(LEADS))[0]]
            pair = replace(pair, rationale=lead.format(" ".join(holding[0].split())))
        made.append(pair)
    return tuple(made)


def shuffle_some(text: str, pairs: tuple[Pair, ...], share: float, seed: int) -> tuple[Pair, ...]:
    """Shuffle the pairs of a share of texts: where the order says nothing, the question alone leads to its answer."""
    draw = Draw.seeded(seed).within(text)
    if draw.fraction("shuffled") >= share:
        return pairs
    return tuple(pairs[at] for at in draw.permutation("order of pairs", len(pairs)))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _sentences(text: str) -> list[tuple[int, int]]:
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [(start, end) for start, end in pairwise(cuts) if text[start:end].strip()]


def _place(text: str, sentences: list[tuple[int, int]], pair: Pair) -> int:
    asked = set(_plain(f"{pair.instruction} {pair.response} {pair.rationale}").split())
    overlaps = [(len(asked & set(_plain(text[start:end]).split())), start, end) for start, end in sentences]
    answer = pair.response.strip(" .")
    holding = [each for each in overlaps if answer and answer in text[each[1] : each[2]]]
    _, start, end = max(holding or overlaps, key=lambda each: (each[0], -each[1]), default=(0, len(text), len(text)))
    at = text.find(answer, start, end) if holding else -1
    return at if at >= 0 else start


def _are_alternatives(right: str, other: str) -> bool:
    """Whether another answer could be taken for the right one: of the same kind and about the same length."""
    if right.lower() in other.lower() or other.lower() in right.lower() or _is_yes_no(other):
        return False
    if max(len(right.split()), len(other.split())) > MAX_OPTION_WORDS:
        return False
    return _kind(right) == _kind(other)


def _kind(answer: str) -> str:
    if re.search(r"\d", answer):
        return "number"
    return "name" if answer[:1].isupper() else "words"


def _is_yes_no(answer: str) -> bool:
    return answer.lower() in ("yes", "no", "maybe", "no answer")
