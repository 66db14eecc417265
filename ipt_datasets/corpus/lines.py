"""What reading and diagnosing local files share: kinds, lines with their places, words for errors."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec

FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4")


def format_of(file: str) -> str | None:
    """Give the suffix out of `FORMATS` that a file or pattern has under its compression; None for any other."""
    path = file.split("?")[0] if "://" in file else file
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def lines(file: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, byte offset (after decompression) and bytes of every line."""
    offset = 0
    with fsspec.open(file, "rb", compression="infer") as stream:
        for number, line in enumerate(stream, start=1):
            yield number, offset, line
            offset += len(line)


def decoded(file: str) -> Iterator[tuple[str | None, str]]:
    """Yield every line as text, beside the fault where it is not UTF-8."""
    for number, offset, line in lines(file):
        try:
            yield None, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            where = f"byte 0x{line[error.start]:02x} at offset {offset + error.start}"
            guess = "it looks like UTF-16; " if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
            yield f"{file}, line {number}: not UTF-8 ({where}); {guess}convert the file to UTF-8", ""


def show(value: Any) -> str:
    """Give a value for a message, shortened."""
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
