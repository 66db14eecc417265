"""`augment`: raw texts in, a corpus of instruction-augmented texts out, streaming."""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Features
from tqdm.auto import tqdm

from ipt_datasets.corpus.card import augmented_card, pinned_card
from ipt_datasets.corpus.counts import Counts, count_shards
from ipt_datasets.corpus.covered import peek, skip_covered
from ipt_datasets.corpus.folder import CARD, JOURNAL, OutputFolder, unwritable
from ipt_datasets.corpus.journal import Journal
from ipt_datasets.corpus.source import check_text_column, iter_rows, known_rows, open_source
from ipt_datasets.errors import EngineError, InputError, OutputError, RecipeError
from ipt_datasets.schema import TEXT_FEATURES
from ipt_datasets.synthesis.chains import Shot
from ipt_datasets.synthesis.dealing import SynthesizedRow
from ipt_datasets.synthesis.synthesizer import ADDED_COLUMNS, Synthesizer
from ipt_datasets.templating.templatizer import Templatizer

SHARD_CHARACTERS = 200_000_000
"""A shard is closed early when its raw texts reach this length, so that long documents do not fill the memory."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """What `augment` made.

    Attributes:
        path: the folder.
        counts: what it holds.
        seconds: how long this run took, loading the model included.
    """

    path: Path
    counts: Counts
    seconds: float


def augment(
    source: str,
    output: str | Path,
    synthesizer: Synthesizer | None = None,
    templatizer: Templatizer | None = None,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    fraction: float = 1.0,
    shuffle: bool = False,
    limit: int | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    rows_per_shard: int = 10_000,
    progress: bool = True,
) -> Augmented:
    """Write instruction-response pairs about every text of a corpus and render them as training texts.

    The input is read as a stream and memory does not grow with it. The folder holds, for `load_dataset`, the configs
    `text` (the default: one training text a row) and `pairs` (one raw text a row, in input order).

    Args:
        source: whatever `load_dataset` takes: a Hub id, a folder, a file, a glob, `hf://...`.
        output: the folder to write.
        synthesizer: writes the pairs; None: the embedded one.
        templatizer: renders them; None: the shipped templates with `seed`.
        split: of the source.
        config_name: of the source.
        revision: of the source, where it is a Hub id.
        fraction: the share of the texts, drawn by seed and content, that is augmented; the rest passes as plain text.
        shuffle: deal the texts into chains in a random order drawn by `seed` (this reads the whole source first, into
            the Arrow cache on the disk).
        limit: only so many rows; may be raised when a run goes on.
        seed: draws the fraction and the order.
        resume: go on where a run stopped: only completions that were on their way are asked for again. Starts one in
            an empty folder. Checks a finished one, and lets it grow by the rows that its input or `limit` has got
            since: chains that were finished stay as they are, a last short one among them.
        overwrite: replace what an earlier run wrote.
        rows_per_shard: raw texts a shard; a shard ends where a chain does.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, or has no such text column.
        OutputError: the folder is in use, not empty, full, or belongs to another recipe or input.
        RecipeError: a setting is out of range.
        EngineError: the engine cannot be built, or died; what was written stays, and `resume` goes on.
    """
    started = time.monotonic()
    if not 0 < fraction <= 1:
        raise RecipeError(f"fraction={fraction!r}: expected a number above 0 and at most 1")
    for name, value in (("limit", limit), ("rows_per_shard", rows_per_shard)):
        if value is not None and value < 1:
            raise RecipeError(f"{name}={value!r}: expected a whole number of at least 1")
    synthesizer = synthesizer or Synthesizer(seed=seed)
    text_column = synthesizer.recipe.text_column
    templatizer = templatizer or Templatizer(seed=seed, text_column=text_column)
    opened = open_source(source, split=split, config_name=config_name, revision=revision, streaming=not shuffle)
    check_text_column(opened, text_column, source)
    if clash := [name for name in ADDED_COLUMNS if name in opened.features]:
        raise InputError(
            f"{source} already has columns named {', '.join(clash)}, which synthesis adds; rename or remove them"
        )
    given = {
        "source": source,
        "split": split,
        "config_name": config_name,
        "revision": revision,
        "fraction": fraction,
        "shuffle": shuffle,
        "limit": limit,
        "seed": seed,
        "rows_per_shard": rows_per_shard,
    }
    recipe = {
        "input": given,
        "synthesis": synthesizer.recipe.to_dict(),
        "templating": asdict(templatizer.recipe),
        "package": version("ipt-datasets"),
    }
    rows = opened.shuffle(seed=seed) if shuffle else opened
    total = known_rows(opened, source)
    with OutputFolder(output) as folder:
        folder.check(recipe, resume=resume, overwrite=overwrite, permit=_is_growth)
        before = _verify(folder) if folder.is_finished and not overwrite else None
        stream: Iterator[dict[str, Any]] = islice(iter_rows(rows, source), limit)
        done = 0 if overwrite else skip_covered(stream, folder, opened.features, source)
        has_more, stream = peek(stream)
        if before and not has_more:
            return Augmented(folder.path, before, time.monotonic() - started)
        if has_more:
            synthesizer.open()  # before anything is written: a model that cannot be loaded leaves the folder as it was
        bar = tqdm(
            total=total if limit is None else min(limit, total or limit),
            initial=done,
            unit=" texts",
            miniters=0,  # so that the figures move with every shot, not only with every finished text
            disable=not progress,
        )
        with _said_how_to_go_on(folder), bar:
            folder.begin(recipe, overwrite=overwrite)
            with Journal(folder.path / JOURNAL, done) as journal:
                _pin_card(folder)
                features = synthesizer.features(opened.features)
                writer = _ShardWriter(folder, journal, templatizer, features, rows_per_shard, done)
                if has_more:
                    select = None if fraction == 1 else partial(_is_drawn, fraction, seed)
                    how = {"on_shot": _Meter(bar).add, "select": select, "journal": journal, "first_row": done}
                    for row, written in _synthesized(stream, synthesizer, how):
                        writer.add(row, written)
                        bar.update()
                journal.check_used()
                writer.flush()
                counts = count_shards(folder.shards("pairs"), folder.shards("text"))
                digests = {name: folder.digest(name) for name in ("text", "pairs")}
                folder.write_text(CARD, augmented_card(recipe, counts, digests))
                journal.remove()
    return Augmented(folder.path, counts, time.monotonic() - started)


def _is_growth(key: str, before: Any, now: Any) -> bool:
    """Tell whether a setting changed so that there is only more to do."""
    return key == "input.limit" and before is not None and (now is None or now > before)


@contextmanager
def _said_how_to_go_on(folder: OutputFolder) -> Iterator[None]:
    """Add to what ended a run that it can go on."""
    kept = "what was finished is kept: go on with --resume"
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{error}; {kept}") from error
    except ConnectionError:
        raise  # an OSError, but not of the disk
    except OSError as error:
        raise OutputError(f"{unwritable(folder.path, error)}; {kept}") from error


def _pin_card(folder: OutputFolder) -> None:
    """Where a finished corpus grows, let it be loaded as it was until it is whole again."""
    card = folder.path / CARD
    if card.exists():
        before = card.read_text("utf-8")
        now = pinned_card(before, {name: [shard.name for shard in folder.shards(name)] for name in ("text", "pairs")})
        if now != before:
            folder.write_text(CARD, now)


def _synthesized(
    rows: Iterable[dict[str, Any]], synthesizer: Synthesizer, how: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], SynthesizedRow]]:
    """Pair every row with what was written about it, in input order; `how` goes to `Synthesizer.synthesize`."""
    read: deque[dict[str, Any]] = deque()

    def texts() -> Iterator[str | None]:
        for row in rows:
            read.append(row)
            yield row[synthesizer.recipe.text_column]

    for written in synthesizer.synthesize(texts(), **how):
        yield read.popleft(), written


def _is_drawn(fraction: float, seed: int, text: str | None) -> bool:
    """Draw whether a text is augmented, whatever stands around it."""
    content = f"{seed}:".encode() + (text or "").encode(errors="surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8, person=b"fraction").digest()
    return int.from_bytes(digest) / 2**64 < fraction


class _ShardWriter:
    """Collects rows and writes them as shards that end where a chain ends."""

    def __init__(
        self,
        folder: OutputFolder,
        journal: Journal,
        templatizer: Templatizer,
        features: Features,
        rows_per_shard: int,
        first_row: int,
    ) -> None:
        self._folder, self._journal, self._templatizer, self._features = folder, journal, templatizer, features
        self._rows_per_shard = rows_per_shard
        self._number = len(folder.shards("pairs"))
        self._first_row = first_row
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        folder.drop_shards("text", self._number)  # a kill came between the two shards of a stretch

    def add(self, row: dict[str, Any], written: SynthesizedRow) -> None:
        self._rows.append({**row, **written.columns()})
        self._characters += len(row[self._templatizer.recipe.text_column] or "")
        is_full = len(self._rows) >= self._rows_per_shard or self._characters >= SHARD_CHARACTERS
        if is_full and written.ends_chain:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        columns = {name: [row[name] for row in self._rows] for name in self._features}
        ids = columns.get("id", range(self._first_row, self._first_row + len(self._rows)))
        texts = self._templatizer({**columns, "id": [str(id_) for id_ in ids]})
        self._folder.write_shard("text", self._number, texts, TEXT_FEATURES)
        self._folder.write_shard("pairs", self._number, columns, self._features)
        self._number += 1
        self._first_row += len(self._rows)
        self._journal.forget(self._first_row)
        self._rows, self._characters = [], 0


class _Meter:
    """Keeps the progress bar's figures, shot by shot: pairs, rejects, tokens a second in and out."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._started = time.monotonic()
        self._pairs = self._rejects = self._read = self._wrote = 0

    def add(self, shot: Shot) -> None:
        self._pairs += len(shot.pairs)
        self._rejects += len(shot.rejected)
        self._read += shot.prompt_tokens
        self._wrote += shot.completion_tokens
        figures = {"pairs": f"{self._pairs:,}", "rejects": f"{self._rejects:,}"}
        if (seconds := time.monotonic() - self._started) > 1:
            figures |= {"tok/s in": f"{self._read / seconds:,.0f}", "out": f"{self._wrote / seconds:,.0f}"}
        self._bar.set_postfix(figures, refresh=False)
        self._bar.update(0)


def _verify(folder: OutputFolder) -> Counts:
    """Check a finished folder: every shard can be read, and its texts and pairs are complete."""
    try:
        counts = count_shards(folder.shards("pairs"), folder.shards("text"))
    except Exception as error:
        raise OutputError(f"{folder.path} is damaged: {error}; write it anew with --overwrite") from error
    card = (folder.path / CARD).read_text("utf-8")
    if f"| raw texts | {counts.rows:,} |" not in card or f"\n{counts.texts:,} training texts." not in card:
        raise OutputError(
            f"{folder.path} holds {counts.rows:,} raw texts and {counts.texts:,} training texts, its card says "
            "otherwise; write it anew with --overwrite"
        )
    return counts
