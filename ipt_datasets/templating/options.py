"""Multiple choice: which options are right, in what order they are shown, and how."""

import functools
import re
from collections.abc import Sequence, Set
from typing import NamedTuple

from ipt_datasets.templating.draw import Draw
from ipt_datasets.templating.library import normalised
from ipt_datasets.templating.template_file import Template

# What may stand before an answer, "Answer: b" or "The correct option is (B)".
_ANNOUNCED = re.compile(
    r"\s*(?:the\s+)?(?:correct\s+|right\s+)?(?:answer|option|choice)s?(?:\s+(?:is|are))?\s*:?\s+", re.I
)
_LABEL = r"(?:\((?:[A-Za-z]|\d{1,2})\)|\[(?:[A-Za-z]|\d{1,2})\]|[A-Za-z][.):]?)"
_JOINT = r"\s*(?:,\s*and\b|[,;/&\n]|\band\b)\s*"
_LABELS = re.compile(rf"\s*{_LABEL}(?:{_JOINT}{_LABEL})*\s*\.?\s*")
_BARE_LABEL = re.compile(r"\b(?:[A-Za-z]|\d{1,2})\b")
_BETWEEN_TEXTS = re.compile(_JOINT)
# "B) text": behind a digit only with a space, because of 1.5 and 2:30.
_LABELLED = re.compile(r"\s*[\(\[]?(?:([A-Za-z])[\)\].:]\s*|(\d{1,2})[\)\].:]\s+)(?=\S)")
# "Both A and B", "A or C only": an option that names others by the labels they had.
# Normalised, as it is compared: a search that minds the case takes less.
_NAME = r"\(?[a-h]\)?"
_NAMES_OTHERS = re.compile(
    rf"(?:only |both |either |neither |options? |answers? )*{_NAME}(?:\s*(?:,\s*and|,|and|or|nor|&)\s*{_NAME})+"
    r"(?: only)?"
)
_NAMES_LETTER = re.compile(r"\b(?i:option|choice|answer)s?(?:\s+is|\s+are|\s*[:=–-])?\s*\(?[A-H]\)?(?!['\w])|\([A-H]\)")
_NAMES_DIGIT = re.compile(r"\b(?i:option|choice)s? \(?[1-9]\)?(?![\w%])")
_NAMING = ("option", "choice", "answer", "(")
"""One of these stands in whatever `_NAMES_LETTER` or `_NAMES_DIGIT` finds."""
_ON_ONE_LINE = 160
_CROWDED = re.compile(r"[,;/|\n\r]")
_MOST_RIGHT = 100


class Arranged(NamedTuple):
    """A question's options in the order in which they are shown.

    Attributes:
        options: the texts, byte for byte, without blank and repeated ones.
        right: where the right ones stand in `options`; empty if the response is none of them.
        response: the answer in words: as given, or the option's text where only a label was given.
        labels: "" for any; "A" or "1" where something names them by letters or digits, "none" where they bring labels
            of their own; their order is then the given one.
        short: they may stand on one line.
    """

    options: tuple[str, ...]
    right: tuple[int, ...]
    response: str
    labels: str
    short: bool


def arrange(
    options: Sequence[str], response: str, rationale: str, last: Set[str], draw: Draw, decision: str
) -> Arranged:
    """Find the right options and shuffle; those in `last` ("none of the above") stay behind the others.

    Args:
        options: as given, with at least one that is not blank.
        response: an option, several, a label or labels, or anything else.
        rationale: "" for none; if it names options by their labels, the given order is kept.
        last: normalised phrases.
        draw: the scope of the shot.
        decision: names the pair.
    """
    texts = [normalised(option) for option in options]
    given, shown = match(options, response, last, texts)
    labels = "none" if _own_labels(options) else _labels_named(texts, rationale)
    kept: list[str] = [option for option in (options if labels else dict.fromkeys(options)) if option.strip()]
    if not labels:
        order = draw.permutation(decision, len(kept))
        if not last.isdisjoint(texts):
            tail = [at for at, option in enumerate(kept) if normalised(option) in last]
            order = [at for at in order if at not in tail] + tail
        kept = [kept[at] for at in order]
    right = tuple(sorted(kept.index(text) for text in {options[at] for at in given}))
    joined = "".join(kept)
    short = len(joined) <= _ON_ONE_LINE and not _CROWDED.search(joined)
    return Arranged(tuple(kept), right, shown, labels, short)


def match(
    options: Sequence[str], response: str, last: Set[str] = frozenset(), texts: Sequence[str] | None = None
) -> tuple[tuple[int, ...], str]:
    """Say which options a response means.

    It may be an option's text (case and a closing full stop aside), several joined by commas, semicolons or "and", a
    label such as "(B)", "B." or "A and C", a label with its text, and any of them behind "Answer:". Words win over
    labels, and letters are labels only where no option is itself a single letter or a number.

    Args:
        options: as given.
        response: as given.
        last: normalised phrases of the kind of "none of the above".
        texts: the options normalised, where they are known already.

    Returns:
        Indices into `options`, empty for no match, and the answer in words: the response as given, or the texts of the
        options where it was a label or had one.
    """
    if response in options and response.strip():
        return (options.index(response),), response
    texts = [normalised(option) for option in options] if texts is None else texts
    said = normalised(response)
    if found := _by_text(texts, said):
        return found, response
    alike = [at for at, text in enumerate(texts) if text in last and text.split(" ")[0] == said.split(" ")[0]]
    if said in last and len(alike) == 1:  # "None." for "None of the above"
        return (alike[0],), response
    announced = _ANNOUNCED.match(response)
    body = response[announced.end() :] if announced else response
    labelled = _LABELLED.match(body)
    for words in (body, body[labelled.end() :] if labelled else ""):
        if found := _by_text(texts, normalised(words)):
            return found, _in_words(options, found)
    if not any(len(text) == 1 or text.isdigit() for text in texts) and _LABELS.fullmatch(body):
        found = tuple(dict.fromkeys(_place(label) for label in _BARE_LABEL.findall(body)))
        if all(0 <= at < len(options) and options[at].strip() for at in found):
            return found, _in_words(options, found)
    return (), response


def _by_text(texts: Sequence[str], response: str) -> tuple[int, ...]:
    if not response:
        return ()
    if response in texts:
        return (texts.index(response),)
    longest_first = sorted((at for at, text in enumerate(texts) if text), key=lambda at: -len(texts[at]))
    dead_ends: set[tuple[int, int]] = set()

    def segment(start: int, more: int) -> tuple[int, ...]:
        if not more or (start, more) in dead_ends:
            return ()
        for at in longest_first:
            if response.startswith(texts[at], start):
                end = start + len(texts[at])
                if end == len(response):
                    return (at,)
                joint = _BETWEEN_TEXTS.match(response, end)
                if joint and (rest := segment(joint.end(), more - 1)):
                    return (at, *rest)
        dead_ends.add((start, more))
        return ()

    return tuple(dict.fromkeys(segment(0, min(len(texts), _MOST_RIGHT))))


def _place(label: str) -> int:
    return int(label) - 1 if label.isdigit() else ord(label.upper()) - ord("A")


def _in_words(options: Sequence[str], found: Sequence[int]) -> str:
    *front, final = [options[at] for at in found]
    return f"{', '.join(front)} and {final}" if front else final


def _labels_named(texts: Sequence[str], rationale: str) -> str:
    if any(map(_NAMES_OTHERS.fullmatch, texts)):
        return "A"
    folded = rationale.casefold()
    if not any(word in folded for word in _NAMING):  # nearly always, and a search by an expression takes long
        return ""
    return "A" if _NAMES_LETTER.search(rationale) else "1" if _NAMES_DIGIT.search(rationale) else ""


def _own_labels(options: Sequence[str]) -> bool:
    for at, label in enumerate(map(_LABELLED.match, options)):
        if label is None or _place(label[1] or label[2]) != at:
            return False
    return len(options) > 1


class OptionStyle(NamedTuple):
    """How the options of a shot are shown: forms out of options.toml."""

    item: Template
    lead_in: str
    delimiter: str
    response: Template


def show(arranged: Arranged, style: OptionStyle) -> tuple[str, str]:
    """Write the block of options, and the answer with or without its label."""
    counter = style.item.counter
    items = [
        style.item.fill({"option": option, counter: count(counter, at)}) for at, option in enumerate(arranged.options)
    ]
    one_line = "\n" not in style.delimiter and arranged.short and (counter or style.item.source == "{option}")
    block = (style.delimiter if one_line or "\n" in style.delimiter else "\n").join(items)
    if style.lead_in:
        block = f"{style.lead_in}{' ' if one_line else chr(10)}{block}"
    if not counter or not arranged.right:
        return block, arranged.response
    label = ", ".join(count(counter, at) for at in arranged.right)
    item = style.item.fill({"option": arranged.response, counter: label}).removeprefix("- ")
    return block, style.response.fill({"response": arranged.response, "label": label, "item": item})


@functools.lru_cache(maxsize=1024)
def count(counter: str, at: int) -> str:
    """Write the label of the place `at` (from 0) in a counter of `COUNTERS`; letters go on after Z with AA, AB, ..."""
    if counter in ("A", "a"):
        letters = ""
        number = at + 1
        while number:
            number, letter = divmod(number - 1, 26)
            letters = chr(ord(counter) + letter) + letters
        return letters
    if counter in ("i", "I"):
        roman = roman_numeral(at + 1)
        return roman if counter == "I" else roman.lower()
    return str(at + 1)


_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def roman_numeral(number: int) -> str:
    """Write a number from 1 in capital roman numerals."""
    written = ""
    for value, numeral in _ROMAN:
        times, number = divmod(number, value)
        written += numeral * times
    return written
