"""Reading back what was published: every shard, its content, its rows, and nothing else beside it."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from ipt_datasets.corpus.hub_repo import HubRepo
from ipt_datasets.corpus.publication import Publication, Shard
from ipt_datasets.errors import OutputError


def is_ours(path: str, publication: Publication) -> bool:
    """Tell whether a file on the Hub would be read as a shard of these configs, or was one of an earlier split."""
    for config in publication.configs:
        splits = "|".join(map(re.escape, config.splits))
        if re.fullmatch(rf"{re.escape(config.name)}/(({splits})-[^/]*|\w+-\d{{5}}(-of-\d{{5}})?)\.parquet", path):
            return True
    return False


def verify(repo: HubRepo, commit: str, publication: Publication, hashes: Mapping[str, str]) -> None:
    """Read back what stands at a commit: each shard, its hash, its rows, and nothing else beside it.

    Raises:
        OutputError: it is not what was published.
    """
    there = repo.tree(commit)
    wrong = []
    for shard in publication.shards:
        entry = there.get(shard.remote)
        if entry is None:
            wrong.append(f"{shard.remote} is missing")
        elif entry.lfs is not None and entry.lfs.sha256 != hashes[shard.remote]:
            wrong.append(f"{shard.remote} has another content")
    paths = {shard.remote for shard in publication.shards}
    wrong += [f"{path} is left over" for path in there if path not in paths and is_ours(path, publication)]
    if not wrong:
        with ThreadPoolExecutor(8) as threads:
            counted = threads.map(lambda shard: _rows_at(repo, commit, shard), publication.shards)
            for shard, rows in zip(publication.shards, counted, strict=True):
                if rows != shard.rows:
                    wrong.append(f"{shard.remote} has {rows} rows, expected {shard.rows:,}")
    if wrong:
        raise OutputError(
            f"{repo.id} at {commit[:8]} is not what was published: {'; '.join(wrong[:3])}"
            f"{', ...' * (len(wrong) > 3)}; publish again, or look at what else writes there"
        )


def _rows_at(repo: HubRepo, commit: str, shard: Shard) -> str | int:
    """Count the rows of a shard at a commit; only its footer is transferred."""

    def counted() -> str | int:
        with repo.open(commit, shard.remote) as file:
            try:
                return int(pq.read_metadata(file).num_rows)
            except pa.ArrowException:
                return "unreadable"

    return repo.ask(counted)
