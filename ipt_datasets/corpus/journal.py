"""The journal of an open shard: every completion that a run received and no final shard holds yet.

An append-only file of framed records. A frame is the length of its payload, the row where its chain begins, a checksum,
and the payload. The checksum covers all that stands before it in the file, so that a torn or flipped byte loses what
stands behind it and never yields a wrong record. A record goes to the operating system at once: a kill loses nothing.
Records are flushed to the disk as a group, by the first record that comes SYNC_SECONDS after the oldest of the group:
about so much work a power cut can cost.
"""

import hashlib
import json
import logging
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ipt_datasets.durable import flush, replacing
from ipt_datasets.errors import OutputError
from ipt_datasets.synthesis.engines import Completion

MAGIC = b"ipt-datasets journal 2\n"
SYNC_SECONDS = 5.0

_HEAD = struct.Struct("<IQ8s")  # length of the payload, row, checksum
_PLACE = struct.Struct("<QI")  # row, length of the payload
_MAGICS = (MAGIC, b"ipt-datasets journal 1\n")
"""How a journal that can be read begins; version 1 differs only in that all token ids are a list in the JSON."""
_dumps = json.JSONEncoder(separators=(",", ":")).encode

Place = tuple[int, int]
"""Where a chain begins: a row of the input and a character of its text."""

_log = logging.getLogger(__name__)


class Journal:
    """What an interrupted run keeps of its open shard; `synthesis.dealing.Journal` says how synthesis uses it.

    Opening it reads what an earlier run left and drops what is torn or stands in final shards already.

    Args:
        path: the file; made where it is not there.
        first_row: the first row that no final shard holds.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, first_row: int = 0) -> None:
        self.path = path
        self._known: dict[Place, tuple[str, list[bytes]]] = {}
        self._last = b""
        self._highest_row = -1
        self._unsynced_since: float | None = None
        self._descriptor = -1
        self._size = 0
        self._begin_with(list(self._read(first_row)))

    def known(self, row: int, start: int, chain: str) -> Sequence[Completion]:
        """Give the first completions of a chain, as far as an earlier run had them.

        Raises:
            OutputError: the input is not the one that the earlier run read.
        """
        before, payloads = self._known.pop((row, start), (chain, []))
        if before == chain:
            return [_completion(payload) for payload in payloads]
        # The last chain of an input that has grown since goes on with new texts, so it is another one now.
        if any(place > (row, start) for place in self._known):
            raise OutputError(
                f"the input has changed since the run in {self.path.parent} was begun, in row {row} or right behind "
                "it: give the same input, name another folder, or use --overwrite"
            )
        return ()

    def keep(self, row: int, start: int, chain: str, completion: Completion) -> None:
        """Take the next completion of a chain.

        Raises:
            OSError: the disk is full, or the like.
        """
        self._append(row, _payload(start, chain, completion))
        self._highest_row = max(self._highest_row, row)
        now = time.monotonic()
        if self._unsynced_since is None:
            self._unsynced_since = now
        if now - self._unsynced_since >= SYNC_SECONDS:
            self._sync()

    def check_used(self) -> None:
        """Make sure, at the end of the input, that all of its chains came again.

        Raises:
            OutputError: the input ends before rows that the earlier run read.
        """
        if self._known:
            raise OutputError(
                f"the input is shorter than when the run in {self.path.parent} was begun: there was row "
                f"{max(row for row, _ in self._known)}; give the same input, name another folder, or use --overwrite"
            )

    def forget(self, first_row: int) -> None:
        """Drop the chains that begin before a row: a final shard holds them now.

        Raises:
            OSError: the disk is full, or the like.
        """
        # Mostly the shard holds all there is, and then nothing needs to be read back.
        kept = _frames(self.path) if self._highest_row >= first_row else ()
        frames = [(row, payload) for row, payload in kept if row >= first_row]
        self._close_file()
        self._begin_with(frames)

    def remove(self) -> None:
        """Delete the file: the run is done."""
        self._close_file()
        self.path.unlink()
        flush(self.path.parent)

    def close(self) -> None:
        """Flush the file to the disk and let go of it."""
        if self._descriptor >= 0:
            with suppress(OSError):  # what a full disk did not take is computed again
                self._sync()
            self._close_file()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, first_row: int) -> Iterator[tuple[int, bytes]]:
        """Give the records of an earlier run that are still needed, and hold them for `known`."""
        if not self.path.exists():
            return
        for row, payload in _frames(self.path):
            if row < first_row:
                continue
            start, chain = json.loads(payload.partition(b"\n")[0])[:2]
            if self._known.get((row, start), ("", []))[0] != chain:
                self._known[row, start] = chain, []
            self._known[row, start][1].append(payload)
            yield row, payload

    def _begin_with(self, frames: list[tuple[int, bytes]]) -> None:
        """Put a new file in the place of the old one, with these records."""
        self._last = _first_checksum(MAGIC)
        with replacing(self.path) as file:
            file.write(MAGIC)
            for row, payload in frames:
                file.write(self._frame(row, payload))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._descriptor).st_size
        self._highest_row = max((row for row, _ in frames), default=-1)
        self._unsynced_since = None

    def _frame(self, row: int, payload: bytes) -> bytes:
        self._last = _checksum(self._last, row, payload)
        return _HEAD.pack(len(payload), row, self._last) + payload

    def _append(self, row: int, payload: bytes) -> None:
        before = self._last
        left = memoryview(self._frame(row, payload))
        size = self._size + len(left)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BaseException:
            # So that the file ends where a record does, should somebody go on with this journal.
            self._last = before
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size = size

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._unsynced_since = None

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give row and payload of each record, up to the first that is torn or damaged."""
    number = 0
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic not in _MAGICS:
            _log.warning("%s is damaged or of another version: all of it is computed again", path)
            return
        last = _first_checksum(magic)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, row, checksum = _HEAD.unpack(head)
            left = os.fstat(file.fileno()).st_size - file.tell()
            payload = file.read(min(length, left))
            last = _checksum(last, row, payload)
            if len(payload) < length or last != checksum:
                break
            yield row, payload
            number += 1
        if head:
            _log.warning("%s is torn or damaged behind record %d: what stood there is computed again", path, number)


def _first_checksum(magic: bytes) -> bytes:
    return hashlib.blake2b(magic, digest_size=8).digest()


def _checksum(last: bytes, row: int, payload: bytes) -> bytes:
    return hashlib.blake2b(last + _PLACE.pack(row, len(payload)) + payload, digest_size=8).digest()


def _payload(start: int, chain: str, completion: Completion) -> bytes:
    """Write a record: a line of JSON, and behind it the token ids in four bytes each, for speed."""
    ids, told = completion.token_ids, (completion.finish_reason, completion.error)
    try:
        return _dumps([start, chain, *told]).encode() + b"\n" + struct.pack(f"<{len(ids)}I", *ids)
    except struct.error:  # ids larger than any vocabulary's, such as the scripted tokenizer's: as in version 1
        return _dumps([start, chain, ids, *told]).encode()


def _completion(payload: bytes) -> Completion:
    """Read a record of this version or of version 1."""
    line, newline, ids = payload.partition(b"\n")
    _, _, *listed, finish_reason, error = json.loads(line)
    token_ids = list(struct.unpack(f"<{len(ids) // 4}I", ids)) if newline else listed[0]
    return Completion(token_ids, finish_reason, error=error)
