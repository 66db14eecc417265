"""The arithmetic of packing: documents of token ids in, rows of equally many with their bounds out."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Ids = npt.NDArray[np.int32]
Starts = npt.NDArray[np.bool_]

TOKENS_AT_ONCE = 2**20
"""The arithmetic takes about fifty bytes a token, so it is done for so many of a block at a time."""

NO_LOSS = -100
"""What transformers takes for a label without loss."""


def cut_blocks(documents: Iterable[Sequence[int]], size: int, begun: int = 0) -> Iterator[tuple[Ids, Starts]]:
    """Lay documents one behind the other and cut that into blocks.

    Args:
        documents: the ids of each, at least one.
        size: tokens of a block; the last one may be shorter.
        begun: so many tokens of the first document were in an earlier block.

    Yields:
        The ids of a block, and for each whether a document starts there.
    """
    ids: list[Ids] = []
    starts: list[Starts] = []
    filled = 0
    for document in documents:
        left = np.asarray(document, dtype=np.int32)[begun:]
        is_start = np.zeros(len(left), dtype=np.bool_)
        is_start[:1] = begun == 0
        begun = 0
        while filled + len(left) >= size:
            cut = size - filled
            block = np.concatenate([*ids, left[:cut]]), np.concatenate([*starts, is_start[:cut]])
            ids, starts, filled = [], [], 0
            yield block
            del block  # a block is large: not held while the next one fills
            left, is_start = left[cut:], is_start[cut:]
        ids.append(left)
        starts.append(is_start)
        filled += len(left)
    if filled:
        yield np.concatenate(ids), np.concatenate(starts)


def columns_of(ids: Ids, starts: Starts, length: int) -> dict[str, Any]:
    """Give the columns of `schema.PACKED_FEATURES` for a block.

    Args:
        ids: of the block, at least one.
        starts: whether a document starts at each.
        length: tokens a row; the last one may be shorter.
    """
    step = length * max(1, TOKENS_AT_ONCE // length)
    parts = [_columns_of(ids[at : at + step], starts[at : at + step], length) for at in range(0, len(ids), step)]
    return {name: pa.chunked_array([part[name] for part in parts]) for name in parts[0]}


def _columns_of(ids: Ids, starts: Starts, length: int) -> dict[str, Any]:
    places = np.arange(len(ids), dtype=np.int64)
    begins = starts | (places % length == 0)  # a row begins a piece: it cannot see the row before
    pieces = np.flatnonzero(begins)
    bounds = np.append(places[::length], len(ids))
    positions = places - np.maximum.accumulate(np.where(begins, places, 0))
    lengths = np.diff(np.append(pieces, len(ids)))
    pieces_before = np.append(0, np.cumsum(np.bincount(pieces // length)))
    return {
        "input_ids": _lists(ids, bounds),
        "position_ids": _lists(positions, bounds),
        "labels": _lists(np.where(begins, NO_LOSS, ids), bounds),
        "seq_lengths": _lists(lengths, pieces_before),
        "continues": pa.array(~starts[::length]),
    }


def place_behind(shards: Iterable[Path], eos_id: int) -> tuple[int, int]:
    """Tell where in the source the shards end.

    Args:
        shards: all that there are, in order.
        eos_id: ends every document, and stands nowhere else.

    Returns:
        How many documents are whole in them, and how many tokens of the next one they hold.
    """
    begun = held = 0
    last_id: int | None = None
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(1_000, columns=["seq_lengths", "continues"]):
                pieces = batch.column("seq_lengths").to_pylist()
                for lengths, continues in zip(pieces, batch.column("continues").to_pylist(), strict=True):
                    begun += len(lengths) - continues
                    held = held + lengths[0] if continues and len(lengths) == 1 else lengths[-1]
            last_rows = file.read_row_group(file.num_row_groups - 1, columns=["input_ids"])
            last_id = last_rows.column("input_ids")[-1].as_py()[-1]
    return (begun, 0) if last_id in (eos_id, None) else (begun - 1, held)


def tokens_of(shard: Path) -> int:
    """Count the tokens of a shard."""
    with pq.ParquetFile(shard) as file:
        batches = file.iter_batches(columns=["seq_lengths"])
        return sum(int(np.sum(batch.column("seq_lengths").flatten().to_numpy())) for batch in batches)


def _lists(values: npt.NDArray[Any], bounds: npt.NDArray[Any]) -> Any:
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(values.astype(np.int32, copy=False)))
