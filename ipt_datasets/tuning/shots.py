"""Task rows as finished shots: each exactly the ids that a prompt holds at inference, and which of them are learned."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ipt_datasets.errors import InputError
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.prompts import Prompter

LEFT_OUT: Mapping[str, str] = {
    "empty_text": "rows without a text: left out",
    "not_unicode": "rows with a lone surrogate, which no tokenizer can encode: left out",
    "no_pairs": "rows without a pair that has an instruction and a response: left out",
    "too_long": "rows whose text and first pair do not fit a sequence: left out",
    "pairs_empty": "pairs without an instruction or a response: left out",
    "pairs_cut": "pairs at the end of a long row, left out so that the row fits a sequence",
    "lone_sets": "sets of a single row: its sequences hold one shot",
}
"""What of the rows is not learned, or not as it was meant."""


@dataclass(frozen=True, slots=True)
class EncodedShot:
    """A finished shot.

    Attributes:
        ids: from its begin ids to the id that ends it.
        learned_from: where the pairs begin; what stands before is read, not learned.
    """

    ids: list[int]
    learned_from: int


@dataclass(frozen=True)
class ShotTable:
    """What dealing needs to know of the shots; a few bytes a shot.

    Attributes:
        keys: a hash of each shot's content.
        sets: the index of each shot's set in `set_names`.
        lengths: tokens of each shot, begin and end ids included.
        learned: how many of them are learned.
        set_names: sorted.
        shown_first: of each set, whether the first shot of a sequence is only read: the set teaches how to go on from
            an example, not what to write about a text that stands alone.
    """

    keys: npt.NDArray[np.uint64]
    sets: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    learned: npt.NDArray[np.int32]
    set_names: tuple[str, ...]
    shown_first: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keys)

    def fingerprint(self) -> str:
        """Hash the contents of all shots, whatever their order: 16 hexadecimal digits."""
        return hashlib.sha256(np.sort(self.keys).astype("<u8").tobytes()).hexdigest()[:16]


@dataclass
class TaskShots:
    """The shots of task rows; ids are encoded when they are asked for, only lengths are held.

    Attributes:
        table: one entry a shot.
        left_out: reasons from `LEFT_OUT`, counted.
    """

    rows: Sequence[Mapping[str, Any]]
    prompter: Prompter
    table: ShotTable
    left_out: Counter[str]
    _row: npt.NDArray[np.int64] = field(repr=False)
    _pairs: npt.NDArray[np.int32] = field(repr=False)

    def encode(self, shot: int) -> EncodedShot:
        """Give the ids of a shot that stands first in its sequence; in the paper's markup all shots begin alike."""
        text, pairs = _content(self.rows[int(self._row[shot])])
        return _encode(self.prompter, self.prompter.encode_text(text), pairs[: self._pairs[shot]])


def read_shots(
    rows: Sequence[Mapping[str, Any]],
    prompter: Prompter,
    max_length: int,
    source: str,
    shown_first: Sequence[str] = (),
) -> TaskShots:
    """Encode every row once, to know the lengths of the shots.

    Args:
        rows: with the columns `text`, `pairs` and `task_set` of `schema.TASK_FEATURES`; read again later, by index.
        prompter: of the model that is tuned; not for chat markup.
        max_length: the most tokens of a sequence; of longer shots the last pairs are left out.
        source: how messages name the rows.
        shown_first: the sets of whose sequences the first shot is read and not learned.

    Raises:
        InputError: the rows lack a column or hold something else in it, or none of them can be learned.
    """
    from datasets.utils import tqdm

    left_out: Counter[str] = Counter({"pairs_empty": 0})
    kept: list[tuple[int, int, int, int, int, str]] = []
    for number in tqdm(range(len(rows)), desc="Encoding rows", unit=" rows", leave=False):
        row = rows[number]
        text, pairs, name = _checked(row, number, source)
        left_out["pairs_empty"] += len(row["pairs"] or ()) - len(pairs)
        if reason := _unusable(text, pairs):
            left_out[reason] += 1
            continue
        text_ids = prompter.encode_text(text)
        shot = _encode(prompter, text_ids, pairs)
        used = len(pairs)
        while len(shot.ids) > max_length and used:
            used -= 1
            shot = _encode(prompter, text_ids, pairs[:used])
        if not used:
            left_out["too_long"] += 1
            continue
        left_out["pairs_cut"] += len(pairs) - used
        key = _key(name, text, pairs[:used])
        kept.append((number, used, key, len(shot.ids), len(shot.ids) - shot.learned_from, name))
    if not kept:
        reasons = "; ".join(f"{count:,} {LEFT_OUT[reason]}" for reason, count in (+left_out).items())
        raise InputError(f"{source} has no row to learn from ({reasons or 'it is empty'})")
    counts = Counter(name for *_, name in kept)
    left_out["lone_sets"] = sum(count == 1 for count in counts.values())
    names = sorted(counts)
    place = {name: number for number, name in enumerate(names)}
    table = ShotTable(
        np.array([entry[2] for entry in kept], np.uint64),
        np.array([place[entry[5]] for entry in kept], np.int32),
        np.array([entry[3] for entry in kept], np.int32),
        np.array([entry[4] for entry in kept], np.int32),
        tuple(names),
        np.array([name in shown_first for name in names], np.bool_),
    )
    row_numbers = np.array([entry[0] for entry in kept], np.int64)
    return TaskShots(rows, prompter, table, +left_out, row_numbers, np.array([entry[1] for entry in kept], np.int32))


def _encode(prompter: Prompter, text_ids: list[int], pairs: Sequence[Pair]) -> EncodedShot:
    begin = prompter.frame.first
    return EncodedShot(begin + prompter.finish(text_ids, pairs).ids, len(begin) + len(text_ids))


def _checked(row: Mapping[str, Any], number: int, source: str) -> tuple[str, list[Pair], str]:
    """Read a row.

    Raises:
        InputError: it lacks a column or holds something else in it.
    """
    for column in ("text", "pairs", "task_set"):
        if column not in row:
            raise InputError(
                f"{source} has no column {column!r}; its columns: {', '.join(row)}; expected those of TASK_FEATURES"
            )
    for column, expected in (("text", str), ("pairs", list), ("task_set", str)):
        if not isinstance(row[column], expected | None):
            given = type(row[column]).__name__
            raise InputError(
                f"column {column!r} of {source} holds {given} in row {number} ({row[column]!r:.60}); "
                f"expected {expected.__name__}"
            )
    try:
        text, pairs = _content(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"column 'pairs' of {source} holds {row['pairs']!r:.80} in row {number}; expected a list of pairs, each "
            "with the strings instruction and response"
        ) from error
    return text, pairs, row["task_set"] or ""


def _content(row: Mapping[str, Any]) -> tuple[str, list[Pair]]:
    pairs = [Pair.read(pair) for pair in row["pairs"] or ()]
    return row["text"] or "", [p for p in pairs if (p.instruction or "").strip() and (p.response or "").strip()]


def _unusable(text: str, pairs: Sequence[Pair]) -> str:
    if not text.strip():
        return "empty_text"
    if not pairs:
        return "no_pairs"
    try:
        repr_of = "".join(
            [text, *(part for p in pairs for part in (p.instruction, p.response, p.rationale, *p.options))]
        )
        repr_of.encode()
    except UnicodeEncodeError:
        return "not_unicode"
    return ""


def _key(name: str, text: str, pairs: Sequence[Pair]) -> int:
    digest = hashlib.blake2b(repr((name, text, pairs)).encode(), digest_size=8, person=b"task shot").digest()
    return int.from_bytes(digest, "big")
