"""What final shards cover of an input: when a run goes on, its input must begin with exactly those rows."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features, Value

from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.errors import OutputError
from ipt_datasets.schema import SYNTHESIS_FEATURES

_ADVICE = "give the same input (new rows go to its end), name another folder, or use --overwrite"


def skip_covered(rows: Iterator[dict[str, Any]], folder: OutputFolder, features: Features, source: str) -> int:
    """Take from an input the rows that final shards hold, and make sure that they are those rows.

    Columns of strings, whole numbers and truth values are compared; texts are always among them.

    Args:
        rows: the input from its first row on; afterwards it stands at the first row that is not covered.
        folder: whose shards of the config `pairs` are compared.
        features: the columns of the input.
        source: for messages.

    Returns:
        How many rows are covered.

    Raises:
        OutputError: the input or its columns differ from what the shards hold.
    """
    shards = folder.shards("pairs")
    if missing := {shard.name for shard in shards} - {shard.name for shard in folder.shards("text")}:
        raise OutputError(f"{folder.path} is damaged: text/{min(missing)} is missing; write it anew with --overwrite")
    for shard in shards:
        _check_columns(shard, folder, features, source)
    names = [name for name, feature in features.items() if _is_plain(feature)]
    number = 0
    for before in _rows(shards, names):
        row = next(rows, None)
        if row is None:
            raise OutputError(
                f"{source} has {number} rows, {folder.path} already covers {folder.rows_done()}: {_ADVICE}"
            )
        if differing := [name for name in before if before[name] != row[name]]:
            name = differing[0]
            raise OutputError(
                f"{source} is not what {folder.path} was begun with: row {number} differs in column {name!r} "
                f"(was {before[name]!r:.60}, is {row[name]!r:.60}); {_ADVICE}"
            )
        number += 1
    return number


def _check_columns(shard: Path, folder: OutputFolder, features: Features, source: str) -> None:
    before = Features.from_arrow_schema(pq.read_schema(shard))
    names = sorted({*before, *features} - {*SYNTHESIS_FEATURES})
    if differing := [name for name in names if before.get(name) != features.get(name)]:
        raise OutputError(
            f"{source} has other columns than {folder.path} was begun with ({', '.join(differing[:5])}): {_ADVICE}"
        )


def _is_plain(feature: Any) -> bool:
    return isinstance(feature, Value) and (
        feature.dtype in ("string", "large_string", "string_view", "bool") or "int" in feature.dtype
    )


def _rows(shards: list[Path], names: list[str]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        with pq.ParquetFile(shard, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=256, columns=names):
                yield from batch.to_pylist()


def peek(rows: Iterator[dict[str, Any]]) -> tuple[bool, Iterator[dict[str, Any]]]:
    """Tell whether an iterator has another row, and give it as it was."""
    first = list(islice(rows, 1))

    def whole() -> Iterator[dict[str, Any]]:
        yield from first
        yield from rows

    return bool(first), whole()
