"""The host's side of `augment`, stage by stage, with a real tokenizer and completions that were written beforehand."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ipt_datasets.corpus.augment import augment
from ipt_datasets.corpus.counts import count_shards
from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.corpus.journal import Journal
from ipt_datasets.corpus.source import iter_rows, open_source
from ipt_datasets.schema import SYNTHESIS_FEATURES, TEXT_FEATURES, TypedColumn
from ipt_datasets.synthesis.dealing import ENCODED_AT_ONCE
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.scripted import write_pairs
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.synthesizer import Synthesizer
from ipt_datasets.synthesis.tokens import HFTokenizer
from ipt_datasets.synthesis.windows import beginning
from ipt_datasets.templating.templatizer import Templatizer
from tests.benchmarks.figures import demo_texts, write_texts

ROOM = 3000
UNFINISHED_EVERY = 5
"""One completion in so many breaks off, as those of small models do: its shot is written anew for the next prompt."""


class CannedEngine:
    """Answers every request with one of a few completions that were written beforehand.

    Args:
        tokenizer: a real one.
        completions: token ids, handed out one after the other.
    """

    kind = "scripted"

    def __init__(self, tokenizer: Any, completions: Sequence[Completion]) -> None:
        self.tokenizer = tokenizer
        self.max_model_len, self.max_requests = 4096, 64
        self.kv_tokens: int | None = 200_000
        self._completions = completions
        self._answered = 0
        self._pending: list[int] = []

    def submit(self, request_id: int, request: Request) -> None:
        self._pending.append(request_id)

    def step(self) -> list[tuple[int, Completion]]:
        finished = []
        for request_id in self._pending:
            finished.append((request_id, self._completions[self._answered % len(self._completions)]))
            self._answered += 1
        self._pending = []
        return finished

    def abort(self, request_ids: list[int]) -> None:
        self._pending = []

    def close(self) -> None:
        pass


class Watched:
    """Stands before an object and adds up the time inside some of its methods."""

    def __init__(self, inner: Any, methods: Sequence[str], clock: Callable[[], float]) -> None:
        self._inner = inner
        self.seconds, self.calls = 0.0, 0
        for name in methods:
            setattr(self, name, partial(self._timed, getattr(inner, name), clock))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _timed(self, method: Callable[..., Any], clock: Callable[[], float], *args: Any) -> Any:
        began = clock()
        try:
            return method(*args)
        finally:
            self.seconds += clock() - began
            self.calls += 1


def clock_seconds() -> float:
    """Tell what reading the processor's clock takes: on some machines as long as a small stage."""
    began = time.process_time()
    for _ in range(1000):
        time.process_time()
    return (time.process_time() - began) / 1000


def load_tokenizer(name: str, folder: Path) -> HFTokenizer:
    """Load the tokenizer of smol, or that of Mistral-7B-v0.1 out of mistral-common."""
    if name == "smol":
        from ipt_datasets.models.embedded import prepare_smol

        return HFTokenizer.from_pretrained(prepare_smol())
    import mistral_common

    folder.mkdir()
    shutil.copy(Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return HFTokenizer.from_pretrained(folder)


def canned(tokenizer: HFTokenizer, texts: Sequence[str]) -> list[Completion]:
    """Write a completion about each text: four or five pairs of all kinds."""
    made = []
    for at, text in enumerate(texts):
        ids = tokenizer.encode_continuation(PAPER.render_pairs(write_pairs(text)))
        if at % UNFINISHED_EVERY:
            made.append(Completion([*ids, tokenizer.eos_id], "stop"))
        else:
            made.append(Completion(ids[: len(ids) * 3 // 4], "length"))
    return made


class HostPath:
    """One corpus on its way from the file to the folder, each stage with what it needs from the ones before."""

    def __init__(self, n_texts: int, tokenizer: HFTokenizer, folder: Path, characters: int | None = None) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.texts = demo_texts(n_texts, characters)
        self.source = folder / "corpus.jsonl"
        write_texts(self.source, self.texts)
        self.completions = canned(tokenizer, self.texts[:200])
        self.prompter = Prompter(tokenizer, PAPER)
        self.tokens = sum(len(tokenizer.encode(text)) for text in self.texts)
        self.rows = list(self.read())
        self.written = list(self.synthesize())
        self.columns = self._columns(self.made())
        self.typed = {name: TypedColumn(self.columns[name], feature) for name, feature in SYNTHESIS_FEATURES.items()}
        self.rendered = self.templatize()
        self.features = Synthesizer(engine="scripted").features(open_source(str(self.source)).features)
        self._said = [self.prompter.completion_text(one.token_ids) for one in self.completions]

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Name the stages; `chains` holds `encode`, `decode` and `parse`, with dealing, prompts and histories."""
        return {
            "read": lambda: list(self.read()),
            "encode": self.encode,
            "decode": self.decode,
            "parse": self.parse,
            "chains": lambda: list(self.synthesize()),
            "journal": self.journal,
            "rows": self.made,
            "templatize": self.templatize,
            "write": self.write,
        }

    def floor(self) -> None:
        """Tokenize every text, in batches, and keep nothing."""
        backend = self.tokenizer.tokenizer.backend_tokenizer
        for at in range(0, len(self.texts), 256):
            backend.encode_batch_fast(self.texts[at : at + 256], add_special_tokens=False)

    def read(self) -> Any:
        return iter_rows(open_source(str(self.source)), str(self.source))

    def encode(self) -> None:
        for at in range(0, len(self.texts), ENCODED_AT_ONCE):
            self.prompter.encode_texts([beginning(text, ROOM) for text in self.texts[at : at + ENCODED_AT_ONCE]])

    def decode(self) -> None:
        for at in range(len(self.texts)):
            self.prompter.completion_text(self.completions[at % len(self.completions)].token_ids)

    def parse(self) -> None:
        for at in range(len(self.texts)):
            self.prompter.markup.parse(self._said[at % len(self._said)])

    def synthesize(self) -> Any:
        synthesizer = Synthesizer(engine=CannedEngine(self.tokenizer, self.completions), model="smol")
        return synthesizer.synthesize(self.texts)

    def journal(self) -> None:
        file = self.folder / "journal"
        with Journal(file) as journal:
            for at in range(len(self.texts)):
                journal.keep(at, 0, "0123456789abcdef", self.completions[at % len(self.completions)])
            journal.remove()

    def made(self) -> list[dict[str, Any]]:
        return [{**row, **one.columns()} for row, one in zip(self.rows, self.written, strict=True)]

    def _columns(self, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {name: [row[name] for row in rows] for name in rows[0]}

    def templatize(self) -> Any:
        return Templatizer()(self.columns)

    def write(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as name, OutputFolder(Path(name) / "out") as out:
            out.write_shard("text", 0, self.rendered, TEXT_FEATURES)
            out.write_shard("pairs", 0, {**self.columns, **self.typed}, self.features)
            count_shards(out.shards("pairs"), out.shards("text"))
            for config_name in ("text", "pairs"):
                out.digest(config_name)

    def whole(self) -> float:
        """Augment; give the processor time of it all."""
        return self.augment_with(self.tokenizer)

    def apart(self) -> float:
        """Augment; give the processor time of all but the tokenizer and the clock that watches it."""
        tokenizer = self.watched_tokenizer()
        return self.augment_with(tokenizer) - tokenizer.seconds - tokenizer.calls * clock_seconds()

    def watched_tokenizer(self) -> Watched:
        """Give the tokenizer with a clock on all that it does."""
        return Watched(self.tokenizer, ("encode", "encode_batch", "encode_continuation", "decode"), time.process_time)

    def augment_with(self, tokenizer: Any) -> float:
        """Augment with the tokenizer; give the processor time of it all."""
        synthesizer = Synthesizer(engine=CannedEngine(tokenizer, self.completions), model="smol")
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            began = time.process_time()
            augment(str(self.source), Path(name) / "out", synthesizer, progress=False)
            return time.process_time() - began
