"""`augment`: raw texts in, a corpus of instruction-augmented texts out, streaming."""

import gc
import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ipt_datasets.corpus.budget import Budget
from ipt_datasets.corpus.card import pinned_card
from ipt_datasets.corpus.counts import Counts
from ipt_datasets.corpus.covered import peek, skip_covered
from ipt_datasets.corpus.finish import finish_folder, verify_folder
from ipt_datasets.corpus.folder import CARD, JOURNAL, OutputFolder, unwritable
from ipt_datasets.corpus.input import Input
from ipt_datasets.corpus.journal import Journal
from ipt_datasets.corpus.shard_writer import Meter, ShardWriter
from ipt_datasets.corpus.share import ROWS_PER_SHARD, Share, check_shards
from ipt_datasets.errors import BudgetSpent, EngineError, OutputError
from ipt_datasets.synthesis.dealing import SynthesizedRow
from ipt_datasets.synthesis.synthesizer import Synthesizer
from ipt_datasets.templating.templatizer import Templatizer

_log = logging.getLogger(__name__)


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
    rows_per_shard: int = ROWS_PER_SHARD,
    shard: tuple[int, int] | None = None,
    budget_tokens: int | None = None,
    budget_hours: float | None = None,
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
        rows_per_shard: raw texts a shard. Chains end where a shard does.
        shard: (I, N): only the shards I, I + N, I + 2N, ... of the corpus, as one of N jobs that may all run at once.
            They go to a folder of their own, `output/shards/I-of-N`, with its own lock and journal; `join` makes of all
            N the folder that one run would have written.
        budget_tokens: stop when about so many tokens were generated in this run; None: at the end of the input.
        budget_hours: stop when the run takes so long, loading included; None: at the end of the input.
        progress: show a progress bar.

    Raises:
        BudgetSpent: a budget is used up before the input is; no chain was cut, and `resume` goes on with a new budget.
        InputError: the source cannot be read, or has no such text column.
        OutputError: the folder is in use, not empty, full, or belongs to another recipe, input or number of jobs.
        RecipeError: a setting is out of range.
        EngineError: the engine cannot be built, or died; what was written stays, and `resume` goes on.
    """
    started = time.monotonic()
    synthesizer = synthesizer or Synthesizer(seed=seed)
    budget = Budget(budget_tokens, budget_hours, first_guess=synthesizer.recipe.max_new_tokens // 2)
    templatizer = templatizer or Templatizer(seed=seed, text_column=synthesizer.recipe.text_column)
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
    opened = Input(given, synthesizer.recipe.text_column)
    share = Share(*(shard or (0, 1)), rows_per_shard)
    recipe = run_recipe(opened, synthesizer, templatizer)
    if shard:
        check_shards(output, share)
        output = share.folder(output)
        recipe["shard"] = share.told(opened)
    has_warned = shard is not None and _warn_if_empty(share, opened)
    with OutputFolder(output) as folder:
        folder.check(recipe, resume=resume, overwrite=overwrite, permit=is_growth)
        rows = share.take(opened.rows())
        counts = write_share(
            *(folder, opened, rows, share, recipe, synthesizer, templatizer),
            budget=budget,
            overwrite=overwrite,
            progress=progress,
        )
    if shard and not has_warned and not counts.rows:  # how many rows there are was not known, or is not true
        _log.warning(
            "shard %s of %s is empty: no row came to it; fewer jobs or a lower --rows-per-shard (%d) use all",
            *(share, opened.source, share.block_rows),
        )
    return Augmented(folder.path, counts, time.monotonic() - started)


def run_recipe(opened: Input, synthesizer: Synthesizer, templatizer: Templatizer) -> dict[str, Any]:
    """Give everything that decides what a run over an input writes."""
    return {
        "input": opened.given,
        "synthesis": synthesizer.recipe.to_dict(),
        "templating": asdict(templatizer.recipe),
        "package": version("ipt-datasets"),
    }


def write_share(
    folder: OutputFolder,
    opened: Input,
    rows: Iterator[dict[str, Any]],
    share: Share,
    recipe: Mapping[str, Any],
    synthesizer: Synthesizer,
    templatizer: Templatizer,
    *,
    budget: Budget | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Counts:
    """Write a share of an input into a folder that `OutputFolder.check` allowed, or go on with it, or check it.

    Args:
        folder: where to.
        opened: the input.
        rows: the rows of the share, from the first on.
        share: which those are.
        recipe: see `run_recipe`.
        synthesizer: writes the pairs.
        templatizer: renders them.
        budget: what this run may use; None: all it takes.
        overwrite: replace what an earlier run wrote.
        progress: show a progress bar.

    Returns:
        What the folder holds then.

    Raises:
        BudgetSpent: the budget is used up; full shards are written, the journal has the rest.
    """
    before = verify_folder(folder) if folder.is_finished and not overwrite else None
    done = 0 if overwrite else skip_covered(rows, folder, opened.features, opened.source)
    has_more, rows = peek(rows)
    if before and not has_more:
        if "shard" in recipe:
            folder.begin(recipe)  # the input may have grown by rows of other jobs, and `join` compares
        return before
    if has_more:
        synthesizer.open()  # before anything is written: a model that cannot be loaded leaves the folder as it was
    bar = tqdm(
        total=opened.total if opened.total is None else share.rows_of(opened.total),
        initial=done,
        unit=" texts",
        miniters=0,  # so that the figures move with every shot, not only with every finished text
        disable=not progress,
    )
    given = opened.given
    with _said_how_to_go_on(folder), bar, _frozen():
        folder.begin(recipe, overwrite=overwrite)
        with Journal(folder.path / JOURNAL, done) as journal:
            _pin_card(folder)
            writer = ShardWriter(folder, journal, templatizer, synthesizer.features(opened.features), share, done)
            if has_more:
                select = None if given["fraction"] == 1 else partial(_is_drawn, given["fraction"], given["seed"])
                budget = budget or Budget()
                how = {"select": select, "journal": journal, "first_row": done, "block_rows": share.block_rows}
                heeded = {"on_shot": budget.counting(Meter(bar).add), "admits": budget.admits}
                for row, written in _synthesized(rows, synthesizer, {**how, **heeded}):
                    writer.add(row, written)
                    bar.update()
                if budget.spent:
                    raise BudgetSpent(budget.spent)
            journal.check_used()
            writer.flush()
            counts = finish_folder(folder, recipe)
            journal.remove()
    return counts


def is_growth(key: str, before: Any, now: Any) -> bool:
    """Tell whether a setting changed so that there is only more to do."""
    if key == "shard.input":
        return True  # its rows are compared with those that are covered
    return key == "input.limit" and before is not None and (now is None or now > before)


def _warn_if_empty(share: Share, opened: Input) -> bool:
    """Warn, before any work, of a share that will have no rows; tells whether it did."""
    if opened.total is None or share.rows_of(opened.total):
        return False
    blocks = -(-opened.total // share.block_rows)
    _log.warning(
        "shard %s of %s is empty: its %d rows make %d blocks of %d; fewer jobs or a lower --rows-per-shard use all",
        *(share, opened.source, opened.total, blocks, share.block_rows),
    )
    return True


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep what is there by now, the libraries and the model, out of garbage collections for a while.

    There are half a million such objects, and to look through them took a quarter of a second every few thousand texts,
    in which nothing was asked of the engine.
    """
    if gc.get_freeze_count():  # somebody else did, and would miss it afterwards
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
