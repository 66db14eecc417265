"""What a corpus holds, counted from its own shards, so that a card can say nothing else."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq


@dataclass(slots=True)
class Counts:
    """Sums over a corpus.

    Attributes:
        rows: raw texts.
        statuses: rows by status; they add up to `rows`.
        pairs: pairs by kind: "free-form", "multiple choice", "chain of thought", "multiple choice, chain of thought".
        rejected: pieces of completions by the reason why they are no pairs.
        shots: how often the synthesizer was asked.
        prompt_tokens: tokens of all prompts.
        completion_tokens: tokens of all completions.
        texts: training texts.
    """

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    shots: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    texts: int = 0

    @property
    def n_pairs(self) -> int:
        """All pairs."""
        return self.pairs.total()


KINDS: Mapping[tuple[bool, bool], str] = {
    (False, False): "free-form",
    (True, False): "multiple choice",
    (False, True): "chain of thought",
    (True, True): "multiple choice, chain of thought",
}
"""The kinds of pairs, by whether they have options and whether they have a rationale."""


def count_shards(pairs: Iterable[Path], texts: Iterable[Path]) -> Counts:
    """Count the shards of a corpus's configs `pairs` and `text`, a batch at a time."""
    counts = Counts()
    for shard in pairs:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(columns=["status", "pairs", "shots", "rejected"]):
                counts.rows += batch.num_rows
                counts.statuses.update(batch.column("status").to_pylist())
                shots = pc.list_flatten(batch.column("shots"))
                counts.shots += len(shots)
                counts.prompt_tokens += pc.sum(shots.field("prompt_tokens")).as_py() or 0
                counts.completion_tokens += pc.sum(shots.field("completion_tokens")).as_py() or 0
                counts.rejected.update(pc.list_flatten(batch.column("rejected")).field("reason").to_pylist())
                written = pc.list_flatten(batch.column("pairs"))
                has_options = pc.greater(pc.list_value_length(written.field("options")), 0).to_pylist()
                has_rationale = pc.greater(pc.utf8_length(written.field("rationale")), 0).to_pylist()
                counts.pairs.update(KINDS[key] for key in zip(has_options, has_rationale, strict=True))
    counts.texts = sum(pq.read_metadata(shard).num_rows for shard in texts)
    return counts
