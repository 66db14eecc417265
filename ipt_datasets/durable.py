"""Files that are whole when they carry their name, also after a kill or a power cut."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ipt_datasets.errors import OutputError

TEMPORARY = ".writing-"
"""Begins the names of files that are being written; whoever owns the folder may delete what a kill left of them."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file at once or not at all.

    Gives a file under a temporary name beside `path`. When the block ends, it is flushed to the disk and takes the
    place of `path`; when the block fails, it is deleted and `path` stays as it was.

    Raises:
        OSError: the folder cannot be written, or is full.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Write an absent or empty folder at once or not at all.

    Gives an empty folder beside it, which gets its name when the block ends and everything is on the disk; when the
    block fails, nothing is left. Only one process at a time may write a folder: what a dead one left is swept away.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    temporary = folder.parent / f".{folder.name}.tmp"
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            flush(path)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(folder.parent)


def check_writable(path: Path) -> None:
    """Make sure, before hours of work, that `write_json` will find a folder to write to.

    Raises:
        OutputError: the path is a folder, or lies in none.
    """
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"{path} cannot be written; expected a file in a folder that is there and may be written to")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that a user named, at once or not at all; equal contents give equal bytes.

    Lone surrogates, which UTF-8 cannot hold, are written as JSON's own escapes.

    Raises:
        OutputError: the file cannot be written.
    """
    written = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        with replacing(path) as file:
            file.write(f"{written}\n".encode(errors="backslashreplace"))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; name another file") from error


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
