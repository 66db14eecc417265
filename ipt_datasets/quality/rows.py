"""What a synthesizer is scored on: texts with their gold pairs, read anew for every pass."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ipt_datasets.corpus.source import check_text_column, iter_rows, open_source
from ipt_datasets.errors import InputError
from ipt_datasets.schema import Pair

TextWithPairs = tuple[str | None, list[Pair]]
"""A raw text and its gold pairs, none where there is no gold."""


@dataclass(frozen=True)
class Rows:
    """Texts with gold pairs, to be iterated over as often as needed; nothing is held in memory.

    A gold pair without an instruction or a response is left aside; `as_given` gives these, too.

    Attributes:
        source: rows, each a mapping or a (text, pairs) tuple; the pairs are whatever `Pair.read` reads.
        text_column: where a mapping holds the text; its gold pairs are in `pairs`, which may be missing or null.
        limit: only the first so many; None: all.
        skip: rows at the beginning that are left aside, not counted in `limit`.
    """

    source: Iterable[Any]
    text_column: str = "text"
    limit: int | None = None
    skip: int = 0

    def __iter__(self) -> Iterator[TextWithPairs]:
        for text, pairs in self.as_given():
            yield text, complete(pairs)

    def as_given(self) -> Iterator[TextWithPairs]:
        """Give the rows with all their gold pairs, an instruction or a response being "" where it is missing."""
        end = None if self.limit is None else self.skip + self.limit
        for number, row in enumerate(islice(self.source, self.skip, end), self.skip):
            try:
                read = _read(row, self.text_column)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise InputError(
                    f"row {number} is {row!r:.200}; expected a text in {self.text_column!r} and in 'pairs' a list of "
                    "gold pairs, each with an instruction and a response"
                ) from error
            yield read


def _read(row: Any, text_column: str) -> TextWithPairs:
    text, pairs = (row[text_column], row.get("pairs")) if isinstance(row, Mapping) else row
    gold = [Pair.read(pair) for pair in pairs or ()]
    gold = [replace(pair, instruction=pair.instruction or "", response=pair.response or "") for pair in gold]
    strings = [part for pair in gold for part in (pair.instruction, pair.response, pair.rationale, *pair.options)]
    if not all(isinstance(part, str) for part in strings) or not isinstance(text, str | None):
        raise TypeError("a text or a part of a pair is not a string")
    return text, gold


def complete(pairs: Iterable[Pair]) -> list[Pair]:
    """Give the pairs that have both an instruction and a response."""
    return [pair for pair in pairs if pair.instruction.strip() and pair.response.strip()]


class _Source:
    """The rows of an opened source, every time from the beginning."""

    def __init__(self, dataset: Any, source: str) -> None:
        self._dataset, self._source = dataset, source

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter_rows(self._dataset, self._source)


def read_rows(
    source: str,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    text_column: str = "text",
) -> Rows:
    """Open a set of task rows (`schema.TASK_FEATURES`), or a raw corpus, whose texts have no gold pairs.

    Args:
        source: whatever `open_source` takes: a folder, a file or a Hub id.
        split: which split.
        config_name: which config of a folder or a Hub id.
        revision: branch, tag or commit of a Hub id.
        text_column: the column of raw texts.

    Raises:
        InputError: there is no such source, or it has no such column of texts.
    """
    dataset = open_source(source, split=split, config_name=config_name, revision=revision)
    check_text_column(dataset, text_column, source)
    return Rows(_Source(dataset, source), text_column)
