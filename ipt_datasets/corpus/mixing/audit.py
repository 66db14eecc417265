"""What a mixture holds, source by source: what was planned and what came of it, counted from its own shards."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HEADINGS = ("source", "weight", "planned tokens", "tokens", "share", "documents", "repeats", "skipped", "read as")


@dataclass(frozen=True, slots=True)
class SourceAudit:
    """What a mixture holds of one source.

    Attributes:
        name: of the source.
        source: where it was read from.
        read_as: how its rows became texts.
        weight: as it was asked.
        share: of all tokens, as it was asked, from 0 to 1.
        planned_tokens: its share of what was asked, or of what there is where no number was asked.
        tokens: that there are, BOS and EOS of each document included.
        documents: that there are.
        repeats: how often the source was begun anew.
        skipped: rows that were passed over, by reason.
        on_end: what was to happen at its end.
    """

    name: str
    source: str
    read_as: str
    weight: str
    share: float
    planned_tokens: int
    tokens: int
    documents: int
    repeats: int
    skipped: Mapping[str, int]
    on_end: str


@dataclass(frozen=True, slots=True)
class MixAudit:
    """What a mixture holds.

    Attributes:
        sources: in the order they were given.
        tokenizer: whose tokens were counted.
        asked_tokens: the number of tokens that was asked for, if any.
        ended_by: the source whose end was the end of the mixture; None where the number asked for was reached.
    """

    sources: tuple[SourceAudit, ...]
    tokenizer: str
    asked_tokens: int | None
    ended_by: str | None

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(source.tokens for source in self.sources)

    @property
    def documents(self) -> int:
        """All documents."""
        return sum(source.documents for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Give the audit as JSON holds it."""
        return {**asdict(self), "tokens": self.tokens, "documents": self.documents}

    def table(self) -> str:
        """Write the audit as a table, for the screen and for a card."""
        rows = [HEADINGS, *(self._row(source) for source in self.sources)]
        planned = sum(source.planned_tokens for source in self.sources)
        skipped = sum(sum(source.skipped.values()) for source in self.sources)
        rows.append(("all", "", f"{planned:,}", f"{self.tokens:,}", "", f"{self.documents:,}", "", f"{skipped:,}", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        is_text = [heading in ("source", "read as") for heading in HEADINGS]

        def line(cells: Iterable[str]) -> str:
            padded = (
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(cells, widths, is_text, strict=True)
            )
            return f"| {' | '.join(padded)} |"

        rule = ("-" * width if left else f"{'-' * (width - 1)}:" for width, left in zip(widths, is_text, strict=True))
        return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])

    def remarks(self) -> list[str]:
        """Say in sentences what the table leaves open: where the mixture ended, and why rows were passed over."""
        of_asked = f": {self.tokens:,} of {self.asked_tokens:,} tokens" if self.asked_tokens else ""
        said = [f"Tokens are those of `{self.tokenizer}`, BOS and EOS of each document counted."]
        if self.ended_by:
            said.append(f"The mixture ends where `{self.ended_by}` had no document left{of_asked}.")
        for source in self.sources:
            if source.skipped:
                reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(source.skipped.items()))
                said.append(f"Rows of `{source.name}` passed over: {reasons}.")
        return said

    def _row(self, source: SourceAudit) -> tuple[str, ...]:
        return (
            source.name,
            source.weight,
            f"{source.planned_tokens:,}",
            f"{source.tokens:,}",
            f"{source.tokens / self.tokens:.3%}" if self.tokens else "",
            f"{source.documents:,}",
            f"{source.repeats:,}",
            f"{sum(source.skipped.values()):,}",
            source.read_as,
        )


@dataclass(slots=True)
class SourceCounts:
    """What shards hold of one source."""

    tokens: int = 0
    documents: int = 0
    repeats: int = 0


def count_mixture(shards: Iterable[Path]) -> dict[str, SourceCounts]:
    """Count the shards of a mixture by source, a batch at a time."""
    counts: dict[str, SourceCounts] = {}
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(columns=["source", "n_tokens", "repeat"]):
                tokens: Counter[str] = Counter()
                names = batch.column("source").to_pylist()
                for name, number in zip(names, batch.column("n_tokens").to_pylist(), strict=True):
                    tokens[name] += number
                repeats = dict(zip(names, batch.column("repeat").to_pylist(), strict=True))  # they only rise
                for name, documents in Counter(names).items():
                    of_source = counts.setdefault(name, SourceCounts())
                    of_source.tokens += tokens[name]
                    of_source.documents += documents
                    of_source.repeats = repeats[name]
    return counts
