"""`augment`: raw texts in, a corpus of instruction-augmented texts out, streaming."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Features
from tqdm.auto import tqdm

from ipt_datasets.corpus.card import augmented_card
from ipt_datasets.corpus.counts import Counts, count_shards
from ipt_datasets.corpus.folder import CARD, OutputFolder
from ipt_datasets.corpus.source import check_text_column, iter_rows, known_rows, open_source
from ipt_datasets.errors import InputError, OutputError, RecipeError
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
        limit: only so many rows.
        seed: draws the fraction and the order.
        resume: go on where a run stopped; starts one in an empty folder, checks a finished one.
        overwrite: replace what an earlier run wrote.
        rows_per_shard: raw texts a shard; a shard ends where a chain does.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, or has no such text column.
        OutputError: the folder is in use, not empty, or belongs to another recipe.
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
        folder.check(recipe, resume=resume, overwrite=overwrite)
        if folder.is_finished and not overwrite:
            return Augmented(folder.path, _verify(folder), time.monotonic() - started)
        synthesizer.open()  # before anything is written: a model that cannot be loaded leaves the folder as it was
        folder.begin(recipe, overwrite=overwrite)
        done = folder.rows_done()
        stream = islice(iter_rows(rows, source), done, limit)
        bar = tqdm(
            total=total if limit is None else min(limit, total or limit),
            initial=done,
            unit=" texts",
            miniters=0,  # so that the figures move with every shot, not only with every finished text
            disable=not progress,
        )
        writer = _ShardWriter(folder, templatizer, synthesizer.features(opened.features), rows_per_shard, done)
        with bar:
            for row, written in _synthesized(stream, synthesizer, fraction, seed, _Meter(bar).add):
                writer.add(row, written)
                bar.update()
            writer.flush()
        counts = count_shards(folder.shards("pairs"), folder.shards("text"))
        digests = {name: folder.digest(name) for name in ("text", "pairs")}
        folder.write_text(CARD, augmented_card(recipe, counts, digests))
    return Augmented(folder.path, counts, time.monotonic() - started)


def _synthesized(
    rows: Iterable[dict[str, Any]],
    synthesizer: Synthesizer,
    fraction: float,
    seed: int,
    on_shot: Callable[[Shot], None],
) -> Iterator[tuple[dict[str, Any], SynthesizedRow]]:
    """Pair every row with what was written about it, in input order; unselected ones pass."""
    column = synthesizer.recipe.text_column
    read: deque[tuple[dict[str, Any], bool]] = deque()

    def selected_texts() -> Iterator[str | None]:
        for row in rows:
            is_selected = fraction == 1 or _draw(seed, row[column]) < fraction
            read.append((row, is_selected))
            if is_selected:
                yield row[column]

    for written in synthesizer.synthesize(selected_texts(), on_shot):
        while not read[0][1]:
            yield read.popleft()[0], SynthesizedRow(status="not_selected")
        yield read.popleft()[0], written
    while read:
        yield read.popleft()[0], SynthesizedRow(status="not_selected")


def _draw(seed: int, text: str | None) -> float:
    """Draw a number from 0 to 1 for a text, whatever stands around it."""
    digest = hashlib.blake2b(f"{seed}:".encode() + (text or "").encode(), digest_size=8, person=b"fraction").digest()
    return int.from_bytes(digest) / 2**64


class _ShardWriter:
    """Collects rows and writes them as shards that end where a chain ends."""

    def __init__(
        self, folder: OutputFolder, templatizer: Templatizer, features: Features, rows_per_shard: int, first_row: int
    ) -> None:
        self._folder, self._templatizer, self._features = folder, templatizer, features
        self._rows_per_shard = rows_per_shard
        self._number = len(folder.shards("pairs"))
        self._first_row = first_row
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        self._chain_goes_on = False

    def add(self, row: dict[str, Any], written: SynthesizedRow) -> None:
        self._rows.append({**row, **written.columns()})
        self._characters += len(row[self._templatizer.recipe.text_column] or "")
        if written.status != "not_selected":
            self._chain_goes_on = not written.ends_chain
        is_full = len(self._rows) >= self._rows_per_shard or self._characters >= SHARD_CHARACTERS
        if is_full and not self._chain_goes_on:
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
