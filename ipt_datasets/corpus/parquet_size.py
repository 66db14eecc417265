"""How large rows will be in the shards of a corpus."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features


def parquet_bytes(columns: Mapping[str, Sequence[Any]], features: Features) -> tuple[int, int]:
    """Tell how many bytes rows take, and how many a shard takes once, for its schema and its dictionaries.

    Two halves of the rows take the latter twice, so that the two can be told apart.
    """
    plain = Dataset.from_dict({name: list(columns[name]) for name in features}, features=features)
    table = plain.with_format("arrow")[:]
    half = table.num_rows // 2
    whole, *halves = (_written(part) for part in (table, table[:half], table[half:]))
    once = min(max(sum(halves) - whole, 0), whole // 2)
    return whole - once, once


def _written(table: pa.Table) -> int:
    file = io.BytesIO()
    pq.write_table(table, file)
    return len(file.getvalue())
