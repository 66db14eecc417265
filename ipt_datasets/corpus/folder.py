"""The output folder of a run: shards that are final when they carry their name, one writer at a time.

`text/train-00000.parquet` and `pairs/train-00000.parquet` hold the same stretch of the input; the shard of pairs is
written last, so what it covers is whole. The card is written when everything else is there: a folder with a
`README.md` is finished.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features
from filelock import FileLock, Timeout

from ipt_datasets.errors import OutputError

CARD, RECIPE, LOCK = "README.md", "recipe.json", ".lock"
OURS = {CARD, RECIPE, LOCK, "text", "pairs"}
TEMPORARY = ".writing-"


class OutputFolder:
    """A folder that one run writes.

    Args:
        path: the folder; made where it is not there.

    Raises:
        OutputError: the path is a file, or another run writes there now.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / LOCK)
            self._lock.acquire(timeout=0)
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

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_finished(self) -> bool:
        """Whether a run was finished here."""
        return (self.path / CARD).exists()

    def check(self, recipe: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> None:
        """Make sure that a run may write here; changes nothing.

        Args:
            recipe: everything that decides the output; kept beside it.
            resume: go on where a run with the same recipe stopped.
            overwrite: replace what an earlier run wrote here.

        Raises:
            OutputError: the folder holds what no run wrote, or a run's output and neither was asked for, or
                another recipe's output.
        """
        there = {entry.name for entry in self.path.iterdir()} - {LOCK}
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
        if there and resume:
            self._check_same(recipe)

    def begin(self, recipe: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Take the folder for a run that `check` allowed: clear it where asked to, and write the recipe."""
        if overwrite:
            self._clear()
        for leftover in self.path.glob(f"*/{TEMPORARY}*"):
            leftover.unlink()
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

    def write_shard(self, config_name: str, number: int, columns: Mapping[str, list[Any]], features: Features) -> None:
        """Write a shard: under a temporary name, flushed to the disk, then renamed."""
        folder = self.path / config_name
        folder.mkdir(exist_ok=True)
        dataset = Dataset.from_dict(dict(columns), features=features)
        table = dataset.with_format("arrow")[:].replace_schema_metadata(features.arrow_schema.metadata)
        temporary = folder / f"{TEMPORARY}{number:05d}"
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, table.schema) as writer:
                if table.num_rows:  # datasets cannot read an empty row group, a file without any it can
                    writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / f"train-{number:05d}.parquet")
        _flush(folder)

    def write_text(self, name: str, content: str) -> None:
        """Write a small file at once or not at all."""
        temporary = self.path / f".{name}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / name)
        _flush(self.path)

    def _clear(self) -> None:
        for name in (CARD, "text", "pairs", RECIPE):  # the card first: without it nothing here counts as finished
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check_same(self, recipe: Mapping[str, Any]) -> None:
        try:
            before = json.loads((self.path / RECIPE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path / RECIPE} cannot be read ({error}); start anew with --overwrite") from error
        differing = sorted(_differences(before, json.loads(json.dumps(recipe))))
        if differing:
            raise OutputError(
                f"{self.path} was begun with another recipe or input; these differ: {'; '.join(differing)}; "
                "use the same settings, another folder, or --overwrite"
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new and f"{prefix}{key}" != "package":
            found.append(f"{prefix}{key} (was {old!r:.60}, is {new!r:.60})")
    return found


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
