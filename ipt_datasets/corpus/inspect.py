"""`inspect_folder`: what a corpus holds, and a look at some of its texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ipt_datasets.corpus.counts import Counts, count_shards
from ipt_datasets.errors import InputError


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_folder` found: sums, and the first texts that show pairs."""

    counts: Counts
    samples: list[dict[str, Any]]


def inspect_folder(folder: Path, n_samples: int = 3) -> Inspection:
    """Count a corpus that a command of ours wrote and pick the first texts that show pairs.

    Raises:
        InputError: the folder is not there, or holds no config `text`.
    """
    pairs, texts = (sorted((folder / name).glob("train-*.parquet")) for name in ("pairs", "text"))
    if not texts:
        raise InputError(f"{folder} holds no text/train-*.parquet; expected a folder that `ipt augment` wrote")
    samples: list[dict[str, Any]] = []
    for shard in texts:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=256):
                samples += [row for row in batch.to_pylist() if row["n_pairs"]][: n_samples - len(samples)]
                if len(samples) >= n_samples:
                    break
        if len(samples) >= n_samples:
            break
    return Inspection(count_shards(pairs, texts), samples)
