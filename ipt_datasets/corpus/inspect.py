"""`inspect_folder`: what a corpus holds, how varied it is, and a look at some of its texts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ipt_datasets.corpus.counts import Counts, count_shards
from ipt_datasets.corpus.folder import RECIPE
from ipt_datasets.errors import InputError
from ipt_datasets.templating.report import DiversityReport, diversity_report
from ipt_datasets.templating.templatizer import Templatizer

DIVERSITY_ROWS = 5_000
"""The diversity report looks at so many rows; more would change its shares by little."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_folder` found.

    Attributes:
        counts: sums over the whole corpus.
        samples: the first training texts that show pairs.
        diversity: of the first DIVERSITY_ROWS rows; None for a folder without the config `pairs`, or one that was
            rendered through templates of the user's own.
    """

    counts: Counts
    samples: list[dict[str, Any]]
    diversity: DiversityReport | None


def inspect_folder(folder: Path, n_samples: int = 3) -> Inspection:
    """Count a corpus that a command of ours wrote and pick the first texts that show pairs.

    Raises:
        InputError: the folder is not there, or holds no config `text`.
    """
    pairs, texts = (sorted((folder / name).glob("train-*.parquet")) for name in ("pairs", "text"))
    if not texts:
        raise InputError(f"{folder} holds no text/train-*.parquet; expected a folder that `ipt augment` wrote")
    samples = list(islice((row for row in _rows(texts) if row["n_pairs"]), max(n_samples, 0)))
    return Inspection(count_shards(pairs, texts), samples, folder_diversity(folder))


def folder_diversity(folder: Path) -> DiversityReport | None:
    """Count how varied the first DIVERSITY_ROWS rows of a folder are shown; None where that cannot be told."""
    pairs = sorted((folder / "pairs").glob("train-*.parquet"))
    if not pairs or not (folder / RECIPE).exists():
        return None
    recipe = json.loads((folder / RECIPE).read_text("utf-8")).get("templating")
    if not recipe or recipe["templates"]:  # the recipe names the user's files by their hashes and does not hold them
        return None
    templatizer = Templatizer(recipe["seed"], recipe["text_column"], frame_weights=recipe["frame_weights"])
    return diversity_report(islice(_rows(pairs), DIVERSITY_ROWS), templatizer)


def _rows(shards: list[Path]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
