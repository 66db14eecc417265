"""The files of a task set, row by row."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ipt_datasets.corpus.source import iter_rows, open_source
from ipt_datasets.errors import InputError

JSON_SUFFIXES = (".json", ".jsonl", ".jsonlines", ".ndjson")


def read_files(name: str, patterns: Iterable[str], data: Path) -> Iterator[Any]:
    """Read the rows of a set: JSON of any nesting as it is, everything else as `load_dataset` does.

    Args:
        name: of the set, for messages.
        patterns: files or globs, relative to `data`.
        data: the folder of the sets.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    for pattern in patterns:
        paths = sorted(data.glob(pattern))
        if not paths:
            raise InputError(f"[{name}] there is no file {data / pattern}; say where the sets are with --data")
        for path in paths:
            if path.suffix in JSON_SUFFIXES:
                yield from _json_rows(name, path)
            else:
                yield from iter_rows(open_source(str(path), split="train"), str(path))


def _json_rows(name: str, path: Path) -> Iterator[Any]:
    """Read JSON lines, or one value: an array or an object's array `data` by its elements, or an object of objects."""
    try:
        with path.open(encoding="utf-8") as file:
            try:
                content = json.load(file) if path.suffix == ".json" else None
            except json.JSONDecodeError:
                content = None  # JSON lines are often named .json, too
            if content is None:
                file.seek(0)
                yield from _json_lines(name, path, file)
            elif isinstance(content, list):
                yield from content
            elif isinstance(content, dict) and isinstance(content.get("data"), list):
                yield from content["data"]
            elif isinstance(content, dict) and content and all(isinstance(each, dict) for each in content.values()):
                yield from content.values()
            else:
                yield content
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"[{name}] {path} cannot be read: {error}; expected JSON in UTF-8") from error


def _json_lines(name: str, path: Path, file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"[{name}] {path}, line {number} is not JSON: {error}") from error
