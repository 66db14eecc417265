"""A second look at local files that could not be read: which file, which line or row, and why.

Only called after a failure, so that reading itself pays nothing for good messages. It goes through the files in order
and stops at the first fault.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets.table import table_cast

from ipt_datasets.corpus.json_faults import json_faults
from ipt_datasets.corpus.lines import decoded, format_of, show
from ipt_datasets.errors import one_line


def find_fault(files: Sequence[str], features: Features | None, *, columns_may_differ: bool = False) -> str | None:
    """Find the first place at which a local file is broken or does not fit.

    Args:
        files: local paths, read in this order.
        features: the columns that every row must fit; None where they are not known.
        columns_may_differ: a column that is not in `features` is no fault.

    Returns:
        One line: file, line or row (both counted from 1), and what is wrong there; None where all files look whole.
    """
    return next(_faults(files, features, columns_may_differ), None)


def _faults(files: Sequence[str], features: Features | None, columns_may_differ: bool) -> Iterator[str]:
    for file in files:
        kind = format_of(file)
        try:
            if kind == ".parquet":
                yield from _parquet_faults(file, features)
            elif kind in (".jsonl", ".ndjson", ".json"):
                yield from json_faults(file, features, columns_may_differ)
            elif kind in (".csv", ".tsv"):
                yield from _csv_faults(file, features)
            else:
                yield from (fault for fault, _ in decoded(file) if fault)
        except (EOFError, OSError, ValueError, RecursionError, pa.ArrowException) as error:
            yield f"{file} cannot be read to its end: {one_line(error)}"


def _csv_faults(file: str, features: Features | None) -> Iterator[str]:
    broken = False
    for fault, _ in decoded(file):
        if fault:
            broken = True
            yield fault
    if broken:
        return
    delimiter = "\t" if format_of(file) == ".tsv" else ","
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(_text(file), delimiter=delimiter)
        header = next(reader, [])
        start, first = reader.line_num + 1, reader.line_num + 1
        for record in reader:
            at, start, first = f"{file}, line {start}", reader.line_num + 1, start
            if len(record) > len(header):
                yield f"{at}: has {len(record)} fields, the header {len(header)}; quote fields that hold {delimiter!r}"
            for column, value in zip(header, record, strict=False):
                kind: Any = features.get(column) if features else None
                numeric = isinstance(kind, Value) and kind.dtype.startswith(("int", "uint", "float"))
                if numeric and not _is_number(value):
                    yield f"{at}: column {column!r} holds {show(value)}, expected {kind.dtype} as in the first rows"
        try:
            list(csv.reader(islice(_text(file), first - 1, None), delimiter=delimiter, strict=True))
        except csv.Error:
            yield f"{file}, line {first}: a quoted field begins here and never ends; close it or double its quotes"
    finally:
        csv.field_size_limit(limit)


def _text(file: str) -> Iterable[str]:
    with fsspec.open(file, "rt", encoding="utf-8-sig", newline="", compression="infer") as stream:
        yield from stream


def _parquet_faults(file: str, features: Features | None) -> Iterator[str]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        yield f"{file}: not a whole Parquet file, perhaps cut off while it was written or copied ({one_line(error)})"
        return
    names = parquet.schema_arrow.names
    if features is not None and set(names) != set(features):
        yield f"{file}: has the columns {', '.join(names)}, expected {', '.join(features)} as in the first file"
    row = 0
    for group in range(parquet.num_row_groups):
        try:
            for batch in parquet.iter_batches(256, row_groups=[group]):
                for index in range(len(batch)) if _refusal(batch, features) else ():
                    if refusal := _refusal(batch.slice(index, 1), features):
                        yield f"{file}, row {row + index + 1}: {refusal}"
                row += len(batch)
        except (pa.ArrowException, OSError) as error:
            yield f"{file}, row {row + 1} or after: cannot be decoded, the file is damaged ({one_line(error)})"
            return


def _refusal(batch: Any, features: Features | None) -> str | None:
    table = pa.Table.from_batches([batch])
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            return f"column {name!r} is not valid, e.g. a text that is not UTF-8 ({one_line(error)})"
    try:
        if features is not None and set(table.column_names) == set(features):
            table_cast(table, features.arrow_schema)
    except (pa.ArrowException, TypeError, ValueError) as error:
        return one_line(error)
    return None


def _is_number(value: str) -> bool:
    try:
        float(value or "0")
    except ValueError:
        return value in ("NA", "N/A", "NULL", "null", "None", "n/a", "#N/A", "<NA>")
    return True
