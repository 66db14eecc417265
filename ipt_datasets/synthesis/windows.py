"""Long texts in windows: cut at paragraph or sentence bounds so that each fits a prompt, counted in tokens."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

BOUNDS = (
    re.compile(r"\n\s*\n"),  # between paragraphs
    re.compile(r"\n"),
    re.compile(r"[.!?…]['\"”’)\]]*\s+|[。！？]['\"”’)\]」』]*\s*"),  # between sentences
    re.compile(r"[;:,]\s+|[，；：、]"),
    re.compile(r"\s+"),
    re.compile(r"(?=[^\u0300-\u036f\u200d\ufe00-\ufe0f])", re.DOTALL),  # anywhere but before a combining character
)
"""Where a text may be cut, best first; a cut stands behind the match."""

MIN_SHARE = 0.5
"""A better kind of bound is taken if the window keeps at least this share of what would fit."""


class Window(NamedTuple):
    """A stretch of a raw text that makes a shot of its own.

    Attributes:
        start: the first character.
        end: behind the last character.
        ids: the token ids of the text with the markup around it.
    """

    start: int
    end: int
    ids: list[int]


CHARACTERS_A_TOKEN = 4
"""So many a window is first taken to hold."""


def beginning(text: str, room: int) -> str:
    """Give what `split_text` encodes first: the whole text, mostly."""
    return text[: room * CHARACTERS_A_TOKEN]


def split_text(
    text: str, encode: Callable[[str], list[int]], room: int, begins: list[int] | None = None
) -> Iterator[Window]:
    """Cut a text into windows of at most `room` tokens that together are the whole text.

    Only stretches of about twice the room are ever encoded, so that time and memory stay proportional to the text
    however long it is. Windows come lazily: who wants only the first pays only for it.

    Args:
        text: the raw text, not empty.
        encode: gives the ids of a stretch with the markup around it; longer stretches give more ids.
        room: the most ids a window may have; large enough for one character.
        begins: the ids of the text's `beginning`, where they are known.
    """
    start, guess = 0, room * CHARACTERS_A_TOKEN
    while start < len(text):
        window = _longest_window(text, start, encode, room, guess, begins)
        begins = None
        yield window
        # The next window probably holds about as many characters a token; a little more saves an encoding.
        guess = (window.end - start) * room * 11 // (10 * max(len(window.ids), 1)) + 1
        start = window.end


def _longest_window(
    text: str, start: int, encode: Callable[[str], list[int]], room: int, guess: int, begins: list[int] | None
) -> Window:
    end = min(start + guess, len(text))
    ids = encode(text[start:end]) if begins is None else begins
    while len(ids) <= room and end < len(text):
        end = min(start + 2 * (end - start), len(text))
        ids = encode(text[start:end])
    if len(ids) <= room:
        return Window(start, end, ids)
    while True:
        share = min(room / len(ids), 0.98)
        target = start + max(int((end - start) * share), 1)
        if end == start + 1:
            raise ValueError(f"one character of the text takes {len(ids)} tokens and a window has room for {room}")
        end = _cut_before(text, start, target)
        ids = encode(text[start:end])
        if len(ids) <= room:
            return Window(start, end, ids)


def _cut_before(text: str, start: int, limit: int) -> int:
    """Give the best place to cut between `start` and `limit`, as near to `limit` as its kind allows."""
    stretch = text[start:limit]
    for bound in BOUNDS:
        ends = [match.end() for match in bound.finditer(stretch)]
        if ends and ends[-1] >= max(MIN_SHARE * len(stretch), 1):
            return start + ends[-1]
    return limit
