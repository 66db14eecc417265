"""Files that are whole when they carry their name, also after a kill or a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
