"""What can be wrong with a JSON or JSON Lines file, said with its line or item."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.json
from datasets import Features, Json, LargeList, List, Value

from ipt_datasets.corpus.lines import decoded, format_of, lines, show
from ipt_datasets.errors import one_line

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def find_surrogate(files: Sequence[str]) -> str | None:
    """Find the first lone surrogate in JSON files, which no text in Arrow can hold; one line, or None."""
    for file in files:
        for number, _, line in lines(file):
            if _SURROGATE_ESCAPE.search(line):
                row = _loads_or_none(line)
                if not isinstance(row, dict):
                    if fault := next(_json_document_faults(file, None, True), None):
                        return fault
                    break
                if found := _surrogate_in(row):
                    return f"{file}, line {number}: {found}"
    return None


def holds_json(feature: Any) -> bool:
    """Tell whether a feature has a part that mixes types, which `datasets` keeps as encoded JSON."""
    if isinstance(feature, dict):
        return any(holds_json(inner) for inner in feature.values())
    return isinstance(feature, Json) or (isinstance(feature, List | LargeList) and holds_json(feature.feature))


def json_faults(file: str, features: Features | None, columns_may_differ: bool) -> Iterator[str]:
    """Yield every fault of one file as a line; arguments as for `diagnosis.find_fault`."""
    for number, (fault, line) in enumerate(decoded(file), start=1):
        at = f"{file}, line {number}"
        if fault:
            yield fault
        if fault or not line.strip():
            continue
        if number == 1 and line.lstrip()[0] == "[":
            yield from _json_document_faults(file, features, columns_may_differ)
            return
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == 1 and format_of(file) == ".json":
                yield from _json_document_faults(file, features, columns_may_differ)
                return
            cut = "the file ends inside this line; " if not line.endswith("\n") else ""
            yield f"{at}: {cut}not JSON ({error.msg}, character {error.colno}); complete or remove the line"
            continue
        yield from (f"{at}: {fault}" for fault in _row_faults(row, features, columns_may_differ))
    yield from _arrow_faults(file, features)


def _json_document_faults(file: str, features: Features | None, columns_may_differ: bool) -> Iterator[str]:
    """Find faults in a file that is one JSON value over all its lines."""
    with fsspec.open(file, "rb", compression="infer") as stream:
        text = stream.read().decode("utf-8-sig")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        yield f"{file}, line {error.lineno}: not JSON ({error.msg}, character {error.colno})"
        return
    rows = document if isinstance(document, list) else [document]
    for number, row in enumerate(rows, start=1):
        row = {"text": row} if isinstance(row, str) else row
        yield from (f"{file}, item {number}: {fault}" for fault in _row_faults(row, features, columns_may_differ))


def _row_faults(row: Any, features: Features | None, columns_may_differ: bool) -> Iterator[str]:
    if found := _surrogate_in(row):
        yield found
    if not isinstance(row, dict):
        yield f"holds {show(row)}, expected a JSON object; remove the line or make it one"
        return
    for column, value in row.items():
        if features is None:
            continue
        if column not in features:
            if not columns_may_differ:
                names = ", ".join(features)
                yield f"has a column {column!r} that the first rows have not ({names}); give all rows the same columns"
        elif not _fits(value, features[column]):
            kind = features[column].dtype if isinstance(features[column], Value) else "another structure"
            yield f"column {column!r} holds {show(value)}, expected {kind}; use one type a column"


def _arrow_faults(file: str, features: Features | None) -> Iterator[str]:
    """Ask Arrow about each line: nested types, doubled keys, numbers out of range."""
    if features is None:
        return
    plain = [field for field in features.arrow_schema if not holds_json(features[field.name])]
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(plain))
    for number, _, line in lines(file):
        if line.strip():
            try:
                block = pyarrow.json.ReadOptions(block_size=len(line) + 1)
                pyarrow.json.read_json(io.BytesIO(line), read_options=block, parse_options=options)
            except pa.ArrowException as error:
                yield f"{file}, line {number}: {one_line(error)}"


def _surrogate_in(value: Any, column: str = "") -> str | None:
    """Tell of the first lone surrogate in a JSON value."""
    if isinstance(value, str):
        found = next((character for character in value if "\ud800" <= character <= "\udfff"), None)
        where = f" in column {column!r}" if column else ""
        shown = f"lone surrogate \\u{ord(found):04x}{where}" if found else ""
        return f"{shown}, which is not a character; repair or remove it" if found else None
    inner: Iterable[tuple[Any, str]] = ()
    if isinstance(value, dict):
        inner = [(key, "") for key in value] + [(item, column or str(key)) for key, item in value.items()]
    elif isinstance(value, list):
        inner = [(item, column) for item in value]
    return next((found for item, name in inner if (found := _surrogate_in(item, name))), None)


def _fits(value: Any, feature: Any) -> bool:
    """Tell whether a JSON value goes into a column; what Arrow must decide counts as fitting."""
    if value is None or isinstance(feature, Json):
        return True
    if isinstance(feature, List | LargeList):
        return isinstance(value, list)
    if not isinstance(feature, Value):
        return True
    if feature.dtype in ("string", "large_string"):
        return isinstance(value, str)
    if feature.dtype == "bool" or isinstance(value, bool):
        return feature.dtype == "bool" and isinstance(value, bool)
    if feature.dtype.startswith(("int", "uint")):
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return not feature.dtype.startswith("float") or isinstance(value, int | float)


def _loads_or_none(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
