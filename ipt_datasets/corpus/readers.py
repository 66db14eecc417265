"""From the name of a source to the `datasets` builder that reads it: nothing is read, local sources need no network."""

import glob
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.text.text import Text

from ipt_datasets.corpus.lines import COMPRESSIONS, format_of
from ipt_datasets.errors import InputError

# The classes rather than their names: by name, load_dataset reports each use of a reader over the network.
_READERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    ".parquet": (Parquet, {}),
    ".jsonl": (Json, {}),
    ".ndjson": (Json, {}),
    ".json": (Json, {}),
    ".csv": (Csv, {}),
    ".tsv": (Csv, {"sep": "\t"}),
    ".txt": (Text, {"features": Features({"text": Value("string")})}),
}
_SLICE_ROWS = 256


class SlicedParquet(Parquet):  # type: ignore[misc]
    """Parquet read a few hundred rows at a time.

    The packaged reader decodes whole row groups, and files written in one go have a single row group: there the
    whole corpus would stand in memory. It also stumbles over a file without rows.
    """

    @classmethod
    def of(cls, builder: Parquet) -> "SlicedParquet":
        """Take over the local files of a packaged reader."""
        config = builder.config
        return cls(
            dataset_name=builder.dataset_name,
            config_name=config.name,
            data_files=config.data_files,
            columns=config.columns,
            features=builder.info.features,
        )

    def _generate_tables(self, files: list[str], row_groups_list: list[Any]) -> Iterator[tuple[Any, Any]]:
        for file_index, (file, row_groups) in enumerate(zip(files, row_groups_list, strict=True)):
            with pq.ParquetFile(file, buffer_size=1 << 20) as parquet:
                batches = parquet.iter_batches(_SLICE_ROWS, row_groups=row_groups, columns=self.config.columns)
                for batch_index, batch in enumerate(batches):
                    yield (file_index, batch_index), self._cast_table(pa.Table.from_batches([batch]))


def find_builder(source: str, config_name: str | None, revision: str | None, **options: Any) -> Any:
    """Give the `datasets` builder for a source; reads nothing but names."""
    if folder := local_folder(source):
        if revision is not None:
            raise InputError(f"{source} is a folder here, revision={revision!r} needs a Hub id: leave one of them out")
        return datasets.load_dataset_builder(folder, name=config_name, **options)
    if files := _file_patterns(source):
        for what, value in (("config", config_name), ("revision", revision)):
            if value is not None:
                raise InputError(f"{source} is a file, it has no {what} {value!r}: leave it out")
        reader, settings = _reader(source, files)
        return reader(data_files={"train": files}, **{**settings, **options})
    if source.isidentifier() and importlib.util.find_spec(f"datasets.packaged_modules.{source}"):
        raise InputError(f"no such file or folder: {source} (it names a reader of datasets, give the files themselves)")
    return datasets.load_dataset_builder(source, name=config_name, revision=revision, **options)


def local_folder(source: str) -> str | None:
    """Give the absolute path of a local folder: a folder named "text" must not be taken for the reader of that name."""
    path = os.path.abspath(os.path.expanduser(source))
    return path if "://" not in source and os.path.isdir(path) else None


def _file_patterns(source: str) -> list[str]:
    """Give the patterns of the files that a source names; none where it is a Hub id."""
    if "://" in source:
        return [source] if format_of(source) or glob.has_magic(source) else []
    path = os.path.expanduser(source)
    if os.path.isfile(path):
        return [glob.escape(os.path.abspath(path))]
    if glob.has_magic(path):
        files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not files:
            raise InputError(f"no file matches {source}: check the pattern, the folder it starts from is {os.getcwd()}")
        return [glob.escape(os.path.abspath(file)) for file in files]
    if format_of(path) or path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1:
        raise InputError(f"no such file or folder: {source}")
    return []


def _reader(source: str, files: list[str]) -> tuple[Any, Mapping[str, Any]]:
    """Give the reader for files of one kind, and its settings."""
    formats = {format_of(file) for file in files}
    if None in formats:
        kinds = f"{' '.join(_READERS)}, the text formats also with {' '.join(COMPRESSIONS)}"
        raise InputError(f"{source} is of a kind that is not read here; expected {kinds}: convert it")
    if len(formats) > 1:
        raise InputError(f"{source} mixes kinds of files ({' '.join(sorted(map(str, formats)))}): give one kind")
    for suffix, package in ((".zst", "zstandard"), (".lz4", "lz4")):
        if any(file.endswith(suffix) for file in files) and not importlib.util.find_spec(package):
            raise InputError(f"{source} needs a package to be read: pip install {package}, or decompress it")
    return _READERS[str(formats.pop())]
