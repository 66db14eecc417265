"""A small sample of a corpus, spread over it, of stretches of consecutive rows: what becomes chains stays together."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import Features

from ipt_datasets.corpus.source import check_text_column, iter_rows, known_rows, open_source
from ipt_datasets.errors import InputError, RecipeError

READ_ROWS = 1_000_000
"""Where the number of rows is known, no more than so many are read for a sample."""
READ_FILES = 16
"""So many files, spread evenly, the rows are then read from."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn.

    Attributes:
        stretches: consecutive rows each, in the order of the input.
        features: of the input.
        total: rows of the whole input.
        said: in words, where the total is from and which rows had a chance to be drawn.
    """

    stretches: list[list[Row]]
    features: Features
    total: int
    said: list[str]

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the input."""
        return [row for stretch in self.stretches for row in stretch]


def draw_sample(
    source: str,
    text_column: str,
    *,
    rows: int,
    stretch: int,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    total: int | None = None,
    seed: int = 0,
    ready: Callable[[], object] | None = None,
) -> Sample:
    """Draw stretches of consecutive rows from an input.

    The input is read as a stream and memory does not grow with it: whole where its rows must be counted, else
    READ_ROWS rows at most.

    Args:
        source: whatever `load_dataset` takes.
        text_column: the column that holds the raw texts.
        rows: how many to draw; all where there are no more.
        stretch: rows a stretch.
        split: of the source.
        config_name: of the source.
        revision: of the source, where it is a Hub id.
        total: rows of the whole input, where the user knows; None: what the files say, else they are counted.
        seed: decides which.
        ready: called when the input is known to be readable and before its rows are read, which may take hours: for
            what should fail before that. None: nothing.

    Raises:
        InputError: the source cannot be read, or has no such text column.
        RecipeError: a number is out of range.
    """
    if rows < 2 * stretch:
        raise RecipeError(f"sample={rows!r}: expected at least two chains of {stretch}, so {2 * stretch}")
    if total is not None and total < 1:
        raise RecipeError(f"texts={total!r}: expected a whole number of at least 1")
    opened = open_source(source, split=split, config_name=config_name, revision=revision)
    check_text_column(opened, text_column, source)
    if ready:
        ready()
    drawn = random.Random(f"sample:{seed}")
    number, how = total, "as you say"
    if number is None:
        number, how = known_rows(opened, source), "as the input says of itself"
    where = "all of it"
    if number is None:
        stretches, number = _drawn_from(iter_rows(opened, source), rows // stretch, stretch, drawn)
        how = "counted"
    elif number > READ_ROWS:
        stretches, n_read = _drawn_from(_thinned(opened, source), rows // stretch, stretch, drawn)
        where = f"{n_read:,} rows: the first of each of up to {READ_FILES} of its files"
    else:
        places = _spread(number, rows // stretch, stretch, drawn)
        stretches, n_read = _taken_at(islice(iter_rows(opened, source), number), places, stretch)
        if len(stretches) < len(places):
            number, how = n_read, f"counted: not {number:,}, {how}"
    if not stretches:
        raise InputError(f"{source} holds {number:,} rows, {how}; leave --texts out, and they are counted first")
    return Sample(stretches, opened.features, number, [f"{number:,} texts ({how})", f"the sample is from {where}"])


def _spread(total: int, count: int, stretch: int, drawn: random.Random) -> list[int]:
    """Choose stretches, one in each of `count` equal parts of the input."""
    there = -(-total // stretch)
    if there <= count:
        return list(range(there))
    return [int((part + drawn.random()) * there / count) for part in range(count)]


def _taken_at(rows: Iterable[Row], places: list[int], stretch: int) -> tuple[list[list[Row]], int]:
    """Take the stretches at some places; gives them and how many rows were read."""
    wanted, taken, n_read = set(places), [], 0
    for place, some in enumerate(_stretches(rows, stretch)):
        n_read += len(some)
        if place in wanted:
            taken.append(some)
            if len(taken) == len(wanted):
                break
    return taken, n_read


def _drawn_from(rows: Iterable[Row], count: int, stretch: int, drawn: random.Random) -> tuple[list[list[Row]], int]:
    """Draw `count` stretches, each with the same chance, from rows whose number is not known before their end."""
    held: list[tuple[int, list[Row]]] = []
    n_read = 0
    for place, some in enumerate(_stretches(rows, stretch)):
        n_read += len(some)
        if place < count:
            held.append((place, some))
        elif (at := drawn.randrange(place + 1)) < count:
            held[at] = place, some
    return [some for _, some in sorted(held, key=lambda pair: pair[0])], n_read


def _stretches(rows: Iterable[Row], stretch: int) -> Iterator[list[Row]]:
    left = iter(rows)
    return iter(lambda: list(islice(left, stretch)), [])


def _thinned(opened: Any, source: str) -> Iterator[Row]:
    """Read the first rows of files that are spread evenly over the input."""
    files = min(opened.num_shards, READ_FILES)
    for number in range(files):
        part = opened
        if opened.num_shards > 1:
            part = opened.shard(num_shards=opened.num_shards, index=number * opened.num_shards // files)
        yield from islice(iter_rows(part, source), READ_ROWS // files)
