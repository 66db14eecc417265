"""How a journal holds token ids, and journals of an earlier version; what kills and damage do is in test_durable.py."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt_datasets.corpus.journal import MAGIC, Journal, _completion, _payload
from ipt_datasets.synthesis.engines import Completion


@given(
    st.lists(st.integers(0, 2**33) | st.integers(0, 2**80) | st.integers(0, 50_000)),
    st.text(st.characters()),
    st.sampled_from(["stop", "length", "error"]),
)
def test_any_completion_comes_back_from_a_record(ids, error, finish_reason):
    completion = Completion(ids, finish_reason, error=error)
    assert _completion(_payload(7, "0123456789abcdef", completion)) == completion


def test_ids_of_a_model_take_four_bytes_each():
    ids = list(range(40_000, 40_200))
    without = len(_payload(0, "chain", Completion([], "stop")))
    assert len(_payload(0, "chain", Completion(ids, "stop"))) == without + 4 * len(ids)


def version_1(path: Path, magic: bytes, kept: list[tuple[int, int, str, Completion]]) -> None:
    """Write a journal as version 1 did."""
    last = hashlib.blake2b(magic, digest_size=8).digest()
    with path.open("wb") as file:
        file.write(magic)
        for row, start, chain, one in kept:
            payload = json.dumps([start, chain, one.token_ids, one.finish_reason, one.error]).encode()
            head = last + struct.pack("<QI", row, len(payload))
            last = hashlib.blake2b(head + payload, digest_size=8).digest()
            file.write(struct.pack("<IQ8s", len(payload), row, last) + payload)


KEPT = [(4, 0, "a", Completion([5, 70_000, 2], "stop")), (4, 0, "a", Completion([2**70, 1], "length"))]


def test_a_journal_of_version_1_is_read_and_goes_on_as_a_new_one(tmp_path):
    path = tmp_path / "journal"
    version_1(path, b"ipt-datasets journal 1\n", KEPT)
    with Journal(path) as journal:
        journal.keep(6, 10, "b", Completion([3], "stop"))
        assert list(journal.known(4, 0, "a")) == [one for *_, one in KEPT]
    assert path.read_bytes().startswith(MAGIC)
    with Journal(path) as journal:
        assert list(journal.known(4, 0, "a")) == [one for *_, one in KEPT]
        assert list(journal.known(6, 10, "b")) == [Completion([3], "stop")]


@pytest.mark.parametrize("magic", [b"ipt-datasets journal 3\n", b"ipt-datasets journal 0\n"])
def test_a_journal_of_a_version_that_is_not_known_is_said_and_not_read(magic, tmp_path, caplog):
    path = tmp_path / "journal"
    version_1(path, magic, KEPT)
    with Journal(path) as journal:
        assert list(journal.known(4, 0, "a")) == []
    assert "of another version" in caplog.text
