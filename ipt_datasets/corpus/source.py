"""Opening any input that `load_dataset` takes, row by row, with errors that a person can act on.

Local files are opened without the network and read in pieces: a corpus is never held in memory. The one exception is a
`.json` file that is a single array, which can only be parsed whole.
"""

import glob
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Json, LargeList, List, Value
from datasets.packaged_modules.json.json import Json as JsonReader
from datasets.packaged_modules.parquet.parquet import Parquet

from ipt_datasets.corpus.diagnosis import find_fault
from ipt_datasets.corpus.json_faults import find_surrogate, holds_json
from ipt_datasets.corpus.lines import format_of
from ipt_datasets.corpus.readers import SlicedParquet, find_builder, local_folder
from ipt_datasets.errors import InputError, one_line

ROWS_AT_ONCE = 32
"""Rows are taken from `datasets` in batches of so many, which costs a third of taking each by itself."""

_STRING_TYPES = ("string", "large_string", "string_view", "null")


def open_source(
    source: str,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    streaming: bool = True,
) -> Any:
    """Open a corpus; read its rows through `iter_rows`.

    Args:
        source: a Hub id, a folder (also one that a command of ours wrote), a file .parquet .jsonl .json .csv .tsv .txt
            (text formats also compressed), a glob of such files, or a `hf://...` path.
        split: which split; a file or a glob has only `train`.
        config_name: which config of a folder or a Hub id; the default one where None.
        revision: branch, tag or commit of a Hub id.
        streaming: read rows when they are asked for; otherwise the corpus is first converted into the Arrow cache.

    Returns:
        A `datasets.IterableDataset`, or a `datasets.Dataset` if not `streaming`. Its `features` are known; columns that
        are null in all of the first rows count as strings, so that a later value does not break the reading.

    Raises:
        InputError: there is no such source, config, split or revision, or it holds no rows, or its first ones cannot
            be read.
    """
    if not source:
        raise InputError("the input is an empty name; expected a Hub id, a folder, a file or a glob")
    files: list[str] = []
    features = None
    try:
        builder = find_builder(source, config_name, revision)
        _check_split(builder, source, split, streaming)
        files = _local_files(builder, split)
        if isinstance(builder, Parquet) and files:
            builder = SlicedParquet.of(builder)
        features = _first_features(builder, split, is_local=bool(files))
        if isinstance(builder, JsonReader):
            _check_surrogates(features, files)
            # By default a string column that mixes types after the first 10 MB comes out as JSON, in quotes, silently.
            # Any other word turns that off; None would not reach the config of a folder or a Hub id.
            builder = find_builder(source, config_name, revision, features=features, on_mixed_types="raise")
        if streaming:
            dataset = builder.as_streaming_dataset(split=split)
            return dataset if dataset.features == features else dataset.cast(features)
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    except InputError:
        raise
    except StopIteration:
        raise InputError(f"{source} holds no rows") from None
    except Exception as error:
        raise _explained(error, source, files, features, config_name, revision) from error


def iter_rows(dataset: Any, source: str) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of what `open_source(source)` gave, turning what breaks on the way into one line.

    Only after a failure are the local files looked at once more, to name the file and the line or row.

    Raises:
        InputError: a file cannot be read on.
    """
    given = 0
    try:
        for batch in dataset.iter(batch_size=ROWS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                given += 1
                yield dict(zip(batch, values, strict=True))
    except Exception as error:
        if files := _files_of(dataset, source):
            yield from _rows_before_the_fault(dataset, given)
        raise _explained(error, source, files, dataset.features) from error


def _rows_before_the_fault(dataset: Any, given: int) -> Iterator[dict[str, Any]]:
    """Read anew, row by row, to give the sound rows that were in a batch with the fault."""
    with suppress(Exception):
        yield from islice(dataset, given, None)


def known_rows(dataset: Any, source: str) -> int | None:
    """Tell how many rows `open_source(source)` gave, where that costs next to nothing; None where it does not.

    Raises:
        InputError: a Parquet file is cut off; better known now than when the reading gets there.
    """
    if isinstance(dataset, datasets.Dataset):
        return len(dataset)
    files = _files_of(dataset, source)
    if files and all(file.endswith(".parquet") for file in files):
        try:
            return sum(int(pq.read_metadata(file).num_rows) for file in files)
        except (pa.ArrowException, OSError) as error:
            raise _explained(error, source, files, None) from error
    info = (dataset.info.splits or {}).get(str(dataset.split))
    return int(info.num_examples) if info and info.num_examples else None


def check_text_column(dataset: Any, name: str, source: str) -> None:
    """Make sure that `name` is a column of texts.

    Raises:
        InputError: there is no such column, or it holds something else; the message lists the columns there are.
    """
    features = dataset.features
    if features is None:
        raise InputError(f"the columns of {source} are not known: give the dataset features, e.g. by ds.cast(features)")
    columns = ", ".join(f"{column} ({_type_name(feature)})" for column, feature in features.items())
    if name not in features:
        raise InputError(f"{source} has no column {name!r}; its columns: {columns}; choose one with --text-column")
    feature = features[name]
    if isinstance(feature, Value) and feature.dtype in _STRING_TYPES:
        return
    if isinstance(feature, Json):
        text_only = Features({name: Value("string")})
        if fault := find_fault(_files_of(dataset, source), text_only, columns_may_differ=True):
            raise InputError(fault)
    raise InputError(
        f"column {name!r} of {source} holds {_type_name(feature)}, expected string; its columns: {columns}; "
        "choose one with --text-column"
    )


def _check_split(builder: Any, source: str, split: str, streaming: bool) -> None:
    there = [str(name) for name in builder.config.data_files or []]
    if "[" in split and streaming:
        raise InputError(
            f"split {split!r} is a slice, expected a whole split ({', '.join(there)}): take a part with --limit"
        )
    for name in (part.split("[")[0].strip() for part in split.split("+")):
        if there and name not in [*there, "all"]:
            raise InputError(f"{source} has no split {name!r}; its splits: {', '.join(there)}; choose one with --split")


def _local_files(builder: Any, split: str) -> list[str]:
    """List the local files behind a split; empty where any of them is remote."""
    data_files = builder.config.data_files or {}
    names = {re.split(r"[\[+]", part.strip())[0] for part in split.split("+")}
    files = [str(file) for name, of_split in data_files.items() if names & {name, "all"} for file in of_split]
    return files if all(os.path.isfile(file) for file in files) else []


def _files_of(dataset: Any, source: str) -> list[str]:
    """List the local files that `open_source(source)` reads; empty where they are remote."""
    if folder := local_folder(source):
        return _local_files(find_builder(folder, dataset.info.config_name, None), str(dataset.split or "all"))
    if os.path.isfile(os.path.expanduser(source)) or ("://" not in source and glob.has_magic(source)):
        return _local_files(find_builder(source, None, None), "all")
    return []


def _first_features(builder: Any, split: str, is_local: bool) -> Features:
    """Tell the columns from what is declared, or else from the first piece that the reader gives.

    Raises:
        StopIteration: there is no first piece; not noticed where the columns are declared and reading costs traffic.
    """
    # A slice is known to map-style data sets only; its columns are those of the whole split.
    dataset = builder.as_streaming_dataset(split=split.split("[")[0])
    features = dataset.features
    if features is None or is_local:
        table = next(dataset.with_format("arrow").iter(batch_size=1))
        features = features or Features.from_arrow_schema(table.schema)
    return Features(_null_as_string(dict(features)))


def _null_as_string(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _null_as_string(inner) for name, inner in feature.items()}
    if isinstance(feature, List | LargeList):
        return type(feature)(_null_as_string(feature.feature))
    return Value("string") if feature == Value("null") else feature


def _check_surrogates(features: Features, files: list[str]) -> None:
    """Refuse lone surrogates where the JSON reader would drop them silently: in arrays and beside mixed columns."""
    arrays = [file for file in files if format_of(file) == ".json"]
    if fault := find_surrogate(files if holds_json(dict(features)) else arrays):
        raise InputError(fault)


def _type_name(feature: Any) -> str:
    if isinstance(feature, Value):
        return str(feature.dtype)
    return "mixed types" if isinstance(feature, Json) else type(feature).__name__.lower()


def _explained(
    error: Exception,
    source: str,
    files: list[str],
    features: Features | None,
    config_name: str | None = None,
    revision: str | None = None,
) -> InputError:
    """Turn what the libraries raised into one line that names the place."""
    if isinstance(error, datasets.exceptions.DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if files and not any(os.path.getsize(file) for file in files):
        return InputError(f"{source} holds no rows")
    file = _file_being_read(error)
    if fault := find_fault([file] if file in files else files, features):
        return InputError(fault)
    said = one_line(error)
    if isinstance(error, datasets.exceptions.DatasetNotFoundError | ConnectionError) and "://" not in source:
        at = f" at revision {revision!r}" if revision else ""
        return InputError(f"there is no file or folder {source} here, and as a Hub id{at} it cannot be had: {said}")
    if not files and isinstance(error, ValueError) and ("BuilderConfig" in said or "Config name" in said):
        names = ", ".join(datasets.get_dataset_config_names(local_folder(source) or source, revision=revision))
        given = f"has no config {config_name!r}" if config_name else "has several configs and no default"
        return InputError(f"{source} {given}; its configs: {names}; choose one with --config-name")
    return InputError(f"{file or source} cannot be read: {type(error).__name__}: {said}")


def _file_being_read(error: Exception) -> str | None:
    """Give the file at which a reader of `datasets` stopped: its exceptions do not tell, the frames it left do."""
    readers = ("datasets.packaged_modules.", "ipt_datasets.corpus.readers")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(readers) and isinstance(frame.f_locals.get("file"), str):
            return str(frame.f_locals["file"])
    return None
