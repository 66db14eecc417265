"""The output folder of a run: shards that are final when they carry their name, one writer at a time.

`text/train-00000.parquet` and `pairs/train-00000.parquet` hold the same stretch of the input; the shard of pairs is
written last, so what it covers is whole. The card is written when everything else is there, and the journal of an
unfinished run disappears after it: a folder with a `README.md` and without a `.journal` is finished.

While a finished corpus grows, its card names the shards that it had, so that whoever loads it gets the corpus as it was
until the card of the grown one takes its place.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value
from filelock import FileLock, Timeout

from ipt_datasets.durable import TEMPORARY, flush, replacing
from ipt_datasets.errors import OutputError
from ipt_datasets.schema import TypedColumn

CARD, RECIPE, AUDIT, LOCK, JOURNAL = "README.md", "recipe.json", "audit.json", ".lock", ".journal"
SHARDS = "shards"
"""Where the jobs of a run in parts have a folder each, until `join` makes one corpus of them."""
OURS = {CARD, RECIPE, AUDIT, LOCK, JOURNAL, "text", "pairs", "packed"}

PLAIN = {"string", "bool", "int32", "int64", "float32", "float64"}
"""Types of columns whose values Arrow takes as they are."""

Permit = Callable[[str, Any, Any], bool]
"""Tells whether a key of the recipe may change from one value to another when a run goes on."""


class OutputFolder:
    """A folder that one run writes.

    Args:
        path: the folder; made where it is not there.
        timeout: so many seconds another run that writes there is waited for.

    Raises:
        OutputError: the path is a file, or another run writes there now.
    """

    def __init__(self, path: str | Path, timeout: float = 0) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / LOCK)
            self._lock.acquire(timeout=timeout)
        except Timeout:
            raise OutputError(
                f"{path} is in use: another run writes there; wait for it or name another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; name another folder") from error

    def close(self) -> None:
        """Let others write here."""
        self._lock.release()

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.close()
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise unwritable(self.path, error) from error

    @property
    def is_finished(self) -> bool:
        """Whether a run was finished here."""
        return (self.path / CARD).exists() and not (self.path / JOURNAL).exists()

    def check(
        self,
        recipe: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        permit: Permit = lambda key, before, now: False,
    ) -> None:
        """Make sure that a run may write here; changes nothing.

        Args:
            recipe: everything that decides the output; kept beside it.
            resume: go on where a run with the same recipe stopped.
            overwrite: replace what an earlier run wrote here.
            permit: which keys of the recipe may change when a run goes on.

        Raises:
            OutputError: the folder holds what no run wrote, or a run's output and neither was asked for, or
                another recipe's output.
        """
        there = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(TEMPORARY)} - {LOCK}
        if SHARDS in there:
            raise OutputError(
                f"{self.path} holds the shards of a run in parts: make one corpus of them with `ipt join {self.path}`, "
                "or name another folder"
            )
        if foreign := sorted(there - OURS):
            raise OutputError(
                f"{self.path} holds files that no run wrote ({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)}); "
                "name an empty or a new folder"
            )
        if there and not resume and not overwrite:
            raise OutputError(
                f"{self.path} already holds {'a finished' if self.is_finished else 'an unfinished'} run; "
                "go on with --resume, replace it with --overwrite, or name another folder"
            )
        if resume and there and (RECIPE in there or self.shards("pairs")):
            self._check_same(recipe, permit)

    def begin(self, recipe: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Take the folder for a run that `check` allowed: clear it where asked to, and write the recipe."""
        if overwrite:
            self._clear()
        for leftover in (*self.path.glob(f"{TEMPORARY}*"), *self.path.glob(f"*/{TEMPORARY}*")):
            _remove(leftover)
        if not (self.path / RECIPE).exists():  # shards without a recipe beside them are what a clearing run left
            for config_name in ("text", "packed"):
                self.drop_shards(config_name, 0)
        self.write_text(RECIPE, json.dumps(recipe, indent=2, ensure_ascii=False) + "\n")

    def shards(self, config_name: str) -> list[Path]:
        """List the final shards of a config, in order."""
        return sorted((self.path / config_name).glob("train-*.parquet"))

    def digest(self, config_name: str) -> str:
        """Hash the names and contents of a config's shards: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for shard in self.shards(config_name):
            with shard.open("rb") as file:
                digest.update(f"{shard.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()[:16]

    def rows_done(self) -> int:
        """Count the input rows that final shards cover."""
        return sum(pq.read_metadata(shard).num_rows for shard in self.shards("pairs"))

    def write_shard(self, config_name: str, number: int, columns: Mapping[str, Any], features: Features) -> None:
        """Write a shard: under a temporary name, flushed to the disk, then renamed."""
        folder = self.path / config_name
        folder.mkdir(exist_ok=True)
        arrays = {name: _array(values, features[name]) for name, values in columns.items()}
        table = pa.table(arrays).replace_schema_metadata(features.arrow_schema.metadata)
        with replacing(folder / shard_name(number)) as file, pq.ParquetWriter(file, table.schema) as writer:
            if table.num_rows:  # datasets cannot read an empty row group, a file without any it can
                writer.write_table(table)

    def drop_shards(self, config_name: str, first: int) -> None:
        """Delete the shards from a number on."""
        for shard in self.shards(config_name):
            if shard.name >= shard_name(first):
                shard.unlink()

    def write_text(self, name: str, content: str) -> None:
        """Write a small file at once or not at all."""
        with replacing(self.path / name) as file:
            file.write(content.encode())

    def _clear(self) -> None:
        (self.path / CARD).unlink(missing_ok=True)  # the card first: without it nothing here counts as finished
        # A kill in the middle leaves all pairs or none, and what is left without pairs counts for nothing.
        for name in ("pairs", JOURNAL, RECIPE, AUDIT, "text", "packed"):
            path = self.path / name
            if path.exists():
                away = self.path / f"{TEMPORARY}old-{name}"
                _remove(away)
                path.rename(away)
        flush(self.path)

    def _check_same(self, recipe: Mapping[str, Any], permit: Permit) -> None:
        try:
            before = json.loads((self.path / RECIPE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path / RECIPE} cannot be read ({error}); start anew with --overwrite") from error
        differing = sorted(differences(before, json.loads(json.dumps(recipe)), permit=permit))
        if differing:
            raise OutputError(
                f"{self.path} was begun with another recipe or input; these differ: {'; '.join(differing)}; "
                "use the same settings, another folder, or --overwrite"
            )


def differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    prefix: str = "",
    permit: Permit = lambda key, before, now: False,
) -> list[str]:
    """Name the keys in which two recipes differ, with their values; the package's version does not count.

    Args:
        before: a recipe, maybe nested.
        now: another.
        prefix: stands before the names.
        permit: which differences do not count either.
    """
    found: list[str] = []
    for key in sorted({*before, *now}):
        old, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.", permit)
        elif old != new and name != "package" and not permit(name, old, new):
            found.append(f"{name} (was {old!r:.60}, is {new!r:.60})")
    return found


def unwritable(path: Path, error: OSError) -> OutputError:
    """Say in one line that a folder cannot be written."""
    return OutputError(f"{path} cannot be written: {error.strerror or error}; make room there, or name another folder")


def shard_name(number: int) -> str:
    """Give the file name of a shard."""
    return f"train-{number:05d}.parquet"


def _array(values: Any, feature: Any) -> Any:
    """Give a column as Arrow holds it."""
    if isinstance(values, pa.ChunkedArray):
        return values
    if isinstance(values, TypedColumn):
        return pa.array(values)
    if isinstance(feature, Value) and feature.dtype in PLAIN:
        with suppress(pa.ArrowException):  # `datasets` takes more values than Arrow, such as numbers for strings
            return pa.array(values, type=feature.pa_type)
    # `datasets` looks at every value by itself and then hashes the table, which for texts alone would be a waste.
    dataset = Dataset.from_dict({"column": values}, features=Features({"column": feature}))
    return dataset.with_format("arrow")[:].column("column")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
