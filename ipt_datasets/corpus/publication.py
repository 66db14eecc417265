"""What of a finished folder goes to the Hub, and under which names there."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from huggingface_hub import DatasetCard

from ipt_datasets.corpus.folder import CARD, RECIPE, OutputFolder
from ipt_datasets.errors import OutputError, RecipeError, one_line

_CONFIG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class Shard:
    """A data file: where it lies here and there, its rows, its size, and its size when read, in bytes."""

    local: Path
    remote: str
    rows: int
    size: int
    bytes_read: int


@dataclass(frozen=True)
class Config:
    """A config of a folder, under the name that it gets on the Hub.

    Attributes:
        name: on the Hub.
        local_name: in the folder.
        entry: what the card's header says of it, with paths on the Hub.
        splits: its shards.
        features: its columns.
    """

    name: str
    local_name: str
    entry: Mapping[str, Any]
    splits: Mapping[str, list[Shard]]
    features: Features

    @property
    def shards(self) -> list[Shard]:
        """All shards, in order."""
        return [shard for shards in self.splits.values() for shard in shards]

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(shard.rows for shard in self.shards)

    @property
    def info(self) -> DatasetInfo:
        """What the Hub and `load_dataset` are told beforehand: columns, rows, sizes."""
        splits = SplitDict()
        for name, shards in self.splits.items():
            n_bytes = sum(shard.bytes_read for shard in shards)
            splits.add(SplitInfo(name, num_bytes=n_bytes, num_examples=sum(shard.rows for shard in shards)))
        return DatasetInfo(
            config_name=self.name,
            features=self.features,
            splits=splits,
            download_size=sum(shard.size for shard in self.shards),
            dataset_size=sum(split.num_bytes for split in splits.values()),
        )


@dataclass(frozen=True)
class Publication:
    """A finished folder as it is to stand on the Hub.

    Attributes:
        path: the folder.
        configs: the first, or the one the folder's card calls so, is the default one.
        default: the name of the default config on the Hub.
    """

    path: Path
    configs: tuple[Config, ...]
    default: str

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What made the folder; empty where it says nothing."""
        file = self.path / RECIPE
        loaded: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return loaded

    @cached_property
    def card(self) -> DatasetCard:
        """The folder's own card."""
        return DatasetCard((self.path / CARD).read_text("utf-8"))

    @property
    def documents(self) -> dict[str, Path]:
        """Small files beside the shards, by their path on the Hub: where no other publication's can be."""
        folder = "" if self.default == "text" else f"{self.default}/"
        return {f"{folder}{file.name}": file for file in sorted(self.path.glob("[!.]*.json"))}

    @property
    def shards(self) -> list[Shard]:
        """The shards of all configs."""
        return [shard for config in self.configs for shard in config.shards]


def open_finished(folder: Path) -> OutputFolder:
    """Open a finished folder, so that no run writes there while it is read; close it after.

    Raises:
        OutputError: it is no finished folder of ours, or a run writes there now.
    """
    if not folder.is_dir():
        raise OutputError(f"{folder} is no folder; expected one that `ipt augment` or another command wrote")
    opened = OutputFolder(folder)
    if not opened.is_finished:
        opened.close()
        raise OutputError(f"{folder} is not finished; finish the run that writes it (with --resume), then publish")
    return opened


def read_publication(opened: OutputFolder, config_name: str | None = None) -> Publication:
    """Read what a finished folder holds, from its card's header and its shards' footers.

    Args:
        opened: see `open_finished`.
        config_name: the name of its default config on the Hub; other configs are called NAME-THEIRS there.

    Raises:
        OutputError: its card cannot be read, or its shards are damaged or not those of its card.
        RecipeError: the name cannot be a config's.
    """
    if config_name is not None and not _CONFIG_NAME.fullmatch(config_name):
        raise RecipeError(f"config_name={config_name!r}: expected letters, digits, '.', '_' and '-', e.g. seed1")
    folder = opened.path
    named = _entries(folder)
    patterns = {name: _patterns(entry["data_files"]) for name, entry in named.items()}
    default = next((name for name, entry in named.items() if entry.get("default")), next(iter(named)))
    configs = []
    for name, entry in named.items():
        remote = name if config_name is None else config_name if name == default else f"{config_name}-{name}"
        _check_digest(opened, name, str(entry.get("description", "")))
        configs.append(_read_config(folder, name, remote, entry, patterns[name]))
    return Publication(folder, tuple(configs), config_name or default)


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what a folder's card says of each of its configs."""
    try:
        card = DatasetCard((folder / CARD).read_text("utf-8"))
        entries = [dict(entry) for entry in card.data.get("configs") or ()]
        named = {str(entry["config_name"]): entry for entry in entries}
        for entry in entries:
            _patterns(entry["data_files"])
    except Exception as error:  # a person may have written anything into it
        raise OutputError(
            f"{folder / CARD} has no header that can be read ({one_line(error)}); write it anew"
        ) from None
    if not named:
        raise OutputError(
            f"{folder / CARD} names no configs; expected a folder that `ipt augment` or another command wrote"
        )
    return named


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Give the patterns of each split, whatever form they are written in."""
    if isinstance(data_files, str):
        return {"train": [data_files]}
    found: dict[str, list[str]] = {}
    for item in data_files:
        split, paths = ("train", item) if isinstance(item, str) else (item["split"], item["path"])
        found.setdefault(str(split), []).extend([paths] if isinstance(paths, str) else list(paths))
    return found


def _read_config(
    folder: Path, name: str, remote: str, entry: Mapping[str, Any], patterns: Mapping[str, list[str]]
) -> Config:
    splits: dict[str, list[Shard]] = {}
    features = None
    for split, globs in patterns.items():
        files = sorted({file for pattern in globs for file in folder.glob(pattern)})
        if not files:
            raise OutputError(f"{folder} holds no {', '.join(globs)} for its config {name!r}; write it anew")
        splits[split] = [_read_shard(file, f"{remote}/{file.name}") for file in files]
        features = features or Features.from_arrow_schema(pq.read_schema(files[0]))
    data_files = [{"split": split, "path": f"{remote}/{split}-*.parquet"} for split in splits]
    for split, shards in splits.items():
        if strange := [
            shard.local.name for shard in shards if not re.fullmatch(rf"{split}-.*\.parquet", shard.local.name)
        ]:
            raise OutputError(f"{folder}: expected files {split}-*.parquet for the split {split!r}, found {strange[0]}")
    kept = {key: value for key, value in entry.items() if key not in ("config_name", "data_files", "default")}
    return Config(
        remote, name, {"config_name": remote, **kept, "data_files": data_files}, splits, features or Features()
    )


def _read_shard(file: Path, remote: str) -> Shard:
    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"{file} is damaged: {one_line(error)}; write the folder anew with --overwrite") from error
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    bytes_read = sum(group.total_byte_size for group in groups)
    return Shard(file, remote, footer.num_rows, file.stat().st_size, bytes_read)


def check_digests(opened: OutputFolder) -> None:
    """Make sure that a finished folder's shards are those its card was written for.

    Raises:
        OutputError: they are not, or the card cannot be read.
    """
    for name, entry in _entries(opened.path).items():
        _check_digest(opened, name, str(entry.get("description", "")))


def _check_digest(opened: OutputFolder, config_name: str, description: str) -> None:
    """Make sure that the shards are those the card was written for: one of them may have been lost since."""
    told = re.fullmatch(r"content ([0-9a-f]{16})", description)
    if told and opened.digest(config_name) != told[1]:
        raise OutputError(
            f"the shards of config {config_name!r} in {opened.path} are not those its {CARD} was written for; "
            "write it anew with --overwrite"
        )
