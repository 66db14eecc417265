"""The documents of one source, in a seeded order, with their tokens counted a batch ahead."""

import hashlib
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from ipt_datasets.corpus.mixing.layouts import Layout, Skipped, find_layout
from ipt_datasets.corpus.mixing.sources import MixSource
from ipt_datasets.corpus.source import iter_rows, open_source
from ipt_datasets.corpus.tokenizing import DocumentTokenizer
from ipt_datasets.errors import InputError

BATCH_DOCUMENTS, BATCH_CHARACTERS = 256, 1_000_000
BUFFER_CHARACTERS = 64_000_000
"""A shuffle buffer holds no more than this, so that long documents do not fill the memory."""


@dataclass(slots=True)
class Document:
    """One row of a source.

    Attributes:
        text: of the document; "" for a row that is passed over.
        row: the row's `id`, or its number in the source, as `file:number` where it has several files.
        repeat: how often the source was begun anew before.
        skipped: why the row is passed over, "" where it is not.
        tokens: of the document with BOS and EOS; 0 until they are counted.
    """

    text: str
    row: str
    repeat: int
    skipped: str = ""
    tokens: int = 0


class DocumentStream:
    """Gives the documents of a source one after the other, and begins anew where that was asked.

    Args:
        asked: the source.
        tokenizer: counts the tokens.
        seed: decides the order.
        shuffle_buffer: so many documents wait at a time, and a seeded one of them is next; 0: in the source's order.

    Attributes:
        asked: the source.
        layout: how its rows are read.
        skipped: rows that were passed over, by reason.

    Raises:
        InputError: the source cannot be read.
    """

    def __init__(self, asked: MixSource, tokenizer: DocumentTokenizer, seed: int, shuffle_buffer: int) -> None:
        self.asked = asked
        self.skipped: Counter[str] = Counter()
        self._opened = open_source(
            asked.source, split=asked.split, config_name=asked.config_name, revision=asked.revision
        )
        if self._opened.features is None:
            raise InputError(f"the columns of {asked.source} are not known; give its dataset card features")
        self.layout: Layout = find_layout(self._opened.features, asked.columns, asked.name, asked.source)
        self._tokenizer, self._seed, self._buffer = tokenizer, seed, shuffle_buffer
        self._documents = self._all_passes()
        self._ahead: deque[Document] = deque()

    def peek(self) -> Document | None:
        """Give the next document, its tokens counted; None when the source has ended."""
        while True:
            self._read_ahead()
            if not self._ahead:
                return None
            if not self._ahead[0].skipped:
                return self._ahead[0]
            self.skipped[self._ahead.popleft().skipped] += 1

    def take(self) -> Document:
        """Take the document that `peek` gave."""
        return self._ahead.popleft()

    def replay(self) -> Document | None:
        """Take the next document without counting its tokens; only before the first `peek`."""
        for document in self._documents:
            if not document.skipped:
                return document
            self.skipped[document.skipped] += 1
        return None

    def _read_ahead(self) -> None:
        if self._ahead:
            return
        characters = 0
        for document in self._documents:
            self._ahead.append(document)
            characters += len(document.text)
            if len(self._ahead) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
                break
        texts = [document for document in self._ahead if not document.skipped]
        for document, tokens in zip(texts, self._tokenizer.count([one.text for one in texts]), strict=True):
            document.tokens = tokens

    def _all_passes(self) -> Iterator[Document]:
        repeats = {"repeat": self.asked.max_repeats}.get(self.asked.on_end, 0)
        for repeat in count() if repeats is None else range(repeats + 1):
            found_any = False
            why: Counter[str] = Counter()
            for document in self._one_pass(repeat):
                found_any = found_any or not document.skipped
                why[document.skipped] += 1
                yield document
            if not found_any:
                reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(why.items()))
                raise InputError(
                    f"{self.asked.source} (source {self.asked.name!r}, read as {self.layout.description}) holds no "
                    f"document ({reasons or 'no rows'}); leave the source out or choose its columns with --columns"
                )

    def _one_pass(self, repeat: int) -> Iterator[Document]:
        if not self._buffer:
            return self._in_order(range(self._opened.num_shards), repeat)
        draws = random.Random(keyed_seed(self._seed, self.asked.name, repeat))
        files = list(range(self._opened.num_shards))
        draws.shuffle(files)
        return shuffled(self._in_order(files, repeat), self._buffer, draws)

    def _in_order(self, files: Iterable[int], repeat: int) -> Iterator[Document]:
        total = self._opened.num_shards
        for file in files:
            part = self._opened.shard(num_shards=total, index=file) if total > 1 else self._opened
            for number, row in enumerate(iter_rows(part, self.asked.source)):
                name = row.get("id")
                if name is None:
                    name = f"{file}:{number}" if total > 1 else number
                try:
                    yield Document(self.layout.read(row), str(name), repeat)
                except Skipped as skipped:
                    yield Document("", str(name), repeat, skipped.reason)


def shuffled(documents: Iterable[Document], size: int, draws: random.Random) -> Iterator[Document]:
    """Give the documents in a random order within a window of at most `size` of them."""
    window: list[Document] = []
    characters = 0
    for document in documents:
        window.append(document)
        characters += len(document.text)
        while len(window) > size or characters > BUFFER_CHARACTERS:
            place = draws.randrange(len(window))
            window[place], window[-1] = window[-1], window[place]
            characters -= len(window[-1].text)
            yield window.pop()
    draws.shuffle(window)
    yield from window


def keyed_seed(*parts: Any) -> int:
    """Hash what a decision rests on into a seed of its own."""
    key = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=16, person=b"mix-order").digest())
