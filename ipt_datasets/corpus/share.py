"""Cutting an input in blocks and dealing the blocks to jobs, so that several can write one corpus.

A block is `block_rows` consecutive rows, the last may be shorter. No chain goes over a block's end, so that what is
written about a block is the same whoever does it, and alone or beside others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipt_datasets.corpus.folder import CARD, LOCK, SHARDS
from ipt_datasets.corpus.input import Input
from ipt_datasets.durable import TEMPORARY
from ipt_datasets.errors import OutputError, RecipeError

ROWS_PER_SHARD = 10_000
"""Raw texts a shard, and a block, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one job does of an input: every `count`-th block, from block `index` on.

    The rows of a share are numbered as they come, without those of other jobs in between; its blocks begin at the
    multiples of `block_rows` in this numbering, too.

    Attributes:
        index: of the job, from 0.
        count: of the jobs.
        block_rows: rows a block.

    Raises:
        RecipeError: there is no such share.
    """

    index: int
    count: int
    block_rows: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise RecipeError(
                f"shard {self.index}/{self.count}: expected I/N with I from 0 to N - 1, e.g. 0/8 for the first of 8"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def folder(self, output: str | Path) -> Path:
        """Give the folder of this job below the output of all."""
        return Path(output) / SHARDS / f"{self.index}-of-{self.count}"

    def told(self, opened: Input) -> dict[str, Any]:
        """Give what the recipe of the job's folder says of the share."""
        return {"index": self.index, "count": self.count, "input": opened.state()}

    def take(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Give the rows of the share from all rows of the input."""
        for number, row in enumerate(rows):
            if number // self.block_rows % self.count == self.index:
                yield row

    def input_row(self, row: int) -> int:
        """Give the number that a row of the share has in the input."""
        block, at = divmod(row, self.block_rows)
        return (block * self.count + self.index) * self.block_rows + at

    def rows_of(self, total: int) -> int:
        """Tell how many rows of an input of `total` rows are the share's."""
        full, rest = divmod(total, self.block_rows)
        own = len(range(self.index, full, self.count)) * self.block_rows
        return own + rest * (full % self.count == self.index)


def check_shards(output: str | Path, share: Share) -> None:
    """Make sure that a job may put its share below an output; changes nothing.

    Raises:
        OutputError: the output holds something else than shares, or shares of another number of jobs.
    """
    output = Path(output)
    if not output.is_dir():
        return
    there = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith((TEMPORARY, LOCK)))
    if CARD in there:
        raise OutputError(
            f"{output} already holds a finished corpus, so there is no shard {share} to write; name another folder"
        )
    if foreign := [name for name in there if name != SHARDS]:
        raise OutputError(
            f"{output} holds other things than shards ({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)}): name a "
            "folder of the shards alone, or end what was begun there (`ipt join`, or `ipt augment --resume`)"
        )
    for folder in sorted((output / SHARDS).glob("*-of-*")):
        if not folder.name.endswith(f"-of-{share.count}"):
            raise OutputError(
                f"{folder} is there, so this corpus was begun in another number of parts than {share.count}; use the "
                "same N for all jobs, or another folder"
            )
