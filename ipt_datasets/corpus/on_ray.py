"""`augment_on_ray`: the same corpus as `augment` writes, made by the machines of a Ray cluster.

Ray Data deals blocks of the input to a pool of actors, each of which holds the model. An actor writes each block as a
job of its own, `output/shards/B-of-N`, with a lock and a journal; when all are there, they are joined. Ray starts an
actor that died again, and whoever gets its block goes on with the journal.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ipt_datasets import errors
from ipt_datasets.corpus.augment import Augmented, is_growth, run_recipe, write_share
from ipt_datasets.corpus.folder import SHARDS, OutputFolder, differences
from ipt_datasets.corpus.input import Input
from ipt_datasets.corpus.join import is_finished, join_shards, read_recipe
from ipt_datasets.corpus.share import ROWS_PER_SHARD, Share, check_shards
from ipt_datasets.errors import EngineError, InputError, IPTError, OutputError, RecipeError, one_line
from ipt_datasets.synthesis.synthesizer import Synthesizer
from ipt_datasets.templating.templatizer import Templatizer

LOCK_SECONDS = 120.0
"""So long a block waits for the lock of an actor that Ray holds for dead: a shared disk may let go of it late."""

BLOCK_RETRIES = 3
"""So often a block is begun again when its actor dies: it may be the block that kills them."""

_log = logging.getLogger(__name__)


def augment_on_ray(
    source: str,
    output: str | Path,
    synthesizer: Synthesizer | None = None,
    templatizer: Templatizer | None = None,
    *,
    actors: int | None = None,
    gpus_per_actor: float = 0,
    cpus_per_actor: float = 1,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    fraction: float = 1.0,
    shuffle: bool = False,
    limit: int | None = None,
    seed: int = 0,
    resume: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: bool = True,
) -> Augmented:
    """Do what `augment` does on a Ray cluster: the one that is connected to, that RAY_ADDRESS names, or a local one.

    Every actor reads the input itself, from the first row on, and writes into the output: all machines have to see
    both under one name. A block of `rows_per_shard` rows is the unit of work; what is written equals what `augment`
    writes.

    Args:
        source: as for `augment`.
        output: as for `augment`; on a disk that all machines share.
        synthesizer: its engine "auto" is chosen for the machine that this function runs on: better name one. Its
            `workers` do not count, an actor has one engine.
        templatizer: as for `augment`.
        actors: how many models run; None: as many as fit into the cluster as it is now.
        gpus_per_actor: of Ray's resources.
        cpus_per_actor: of Ray's resources.
        split: as for `augment`, like all that follow.
        config_name: of the source.
        revision: of the source.
        fraction: the share of the texts that is augmented.
        shuffle: deal texts in a random order.
        limit: only so many rows.
        seed: draws the fraction and the order.
        resume: skip the blocks that are finished, and go on with those that are not. The input must not have grown.
        rows_per_shard: raw texts a shard, and a block.
        progress: show a progress bar.

    Raises:
        EngineError: Ray is not installed; or the engine cannot be built, or actors died again and again.
        RecipeError: a setting is out of range, or the actors do not fit into the cluster.
        InputError: as for `augment`.
        OutputError: as for `augment`.
    """
    started = time.monotonic()
    if find_spec("ray") is None:
        raise EngineError('Ray is not installed: run `pip install "ipt-datasets[ray]"`, or use `ipt augment --shard`')
    if actors is not None and actors < 1:
        raise RecipeError(f"actors={actors!r}: expected a whole number of at least 1")
    synthesizer = synthesizer or Synthesizer(seed=seed)
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
    recipe = run_recipe(opened, synthesizer, templatizer)
    with OutputFolder(output) as folder:
        shares = _begin(folder, opened, recipe, resume)
        todo = [share for share in shares if not is_finished(share.folder(folder.path))]
        if todo:
            job = {
                "cwd": os.getcwd(),
                "output": str(folder.path.resolve()),
                "given": given,
                "synthesizer": synthesizer,
                "templatizer": templatizer,
                "engine_options": synthesizer.engine_options,
            }
            size = _pool_size(actors, gpus_per_actor, cpus_per_actor, len(todo))
            done = _write_all(todo, job, size, num_gpus=gpus_per_actor, num_cpus=cpus_per_actor)
            for _ in tqdm(
                done, total=len(shares), initial=len(shares) - len(todo), unit=" blocks", disable=not progress
            ):
                pass
        return Augmented(folder.path, join_shards(folder), time.monotonic() - started)


class BlockWriter:
    """What an actor of Ray Data runs: holds the model, and writes the blocks that it is given.

    Args:
        job: what is the same for all blocks: the input, the output, the synthesizer and the templatizer.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._output = job["output"]
        self._synthesizer, self._templatizer = job["synthesizer"], job["templatizer"]
        self._synthesizer.engine_options = job["engine_options"]
        self._opened: Input | None = None
        self._stream: Iterator[dict[str, Any]] | None = None
        self._at = 0

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Write blocks.

        Args:
            batch: `index` and `count` of their shares.

        Returns:
            The same with `error` and `message`, empty where a block was written: of an exception in an actor Ray keeps
            neither type nor cause.
        """
        said = [self._try(int(index), int(count)) for index, count in zip(batch["index"], batch["count"], strict=True)]
        return {**batch, "error": [error for error, _ in said], "message": [message for _, message in said]}

    def _try(self, index: int, count: int) -> tuple[str, str]:
        try:
            if self._opened is None:
                with suppress(OSError):  # relative names of files mean the same as where the run was started
                    os.chdir(self._job["cwd"])
                self._opened = Input(self._job["given"], self._synthesizer.recipe.text_column)
            self._write(self._opened, Share(index, count, self._opened.given["rows_per_shard"]))
        except IPTError as error:
            self._stream = None  # it may have ended in the middle
            return type(error).__name__, str(error)
        return "", ""

    def _write(self, opened: Input, share: Share) -> None:
        recipe = run_recipe(opened, self._synthesizer, self._templatizer) | {"shard": share.told(opened)}
        with OutputFolder(share.folder(self._output), timeout=LOCK_SECONDS) as folder:
            folder.check(recipe, resume=True, permit=is_growth)
            rows = self._rows(opened, share)
            write_share(folder, opened, rows, share, recipe, self._synthesizer, self._templatizer)

    def _rows(self, opened: Input, share: Share) -> Iterator[dict[str, Any]]:
        """Read a block. Blocks mostly come in their order, so the input is read on and not begun anew for each."""
        first = share.input_row(0)
        if self._stream is None or self._at > first:
            self._stream, self._at = opened.rows(), 0
        for _ in islice(self._stream, first - self._at):
            self._at += 1
        for row in islice(self._stream, share.block_rows):
            self._at += 1
            yield row
        if share.index == share.count - 1 and next(self._stream, None) is not None:
            raise InputError(
                f"{opened.source} has more than the {self._at:,} rows that it says it has; take that many with "
                "--limit, or give its files"
            )


def _begin(folder: OutputFolder, opened: Input, recipe: Mapping[str, Any], resume: bool) -> list[Share]:
    """Make sure that a run may write here, and give its blocks."""
    if folder.is_finished:
        join_shards(folder)  # of a join that was killed when all was done
        folder.check(recipe, resume=resume)
    total = opened.total if opened.total is not None else sum(1 for _ in opened.rows())
    if folder.is_finished:
        if total != folder.rows_done():
            raise OutputError(
                f"{opened.source} has {total:,} rows, {folder.path} is finished with {folder.rows_done():,}: new rows "
                "are added by `ipt augment --resume`"
            )
        return []
    if not total:
        raise InputError(f"{recipe['input']['source']} holds no rows; expected texts to augment")
    block_rows = recipe["input"]["rows_per_shard"]
    shares = [Share(index, -(-total // block_rows), block_rows) for index in range(-(-total // block_rows))]
    begun = (folder.path / SHARDS).is_dir()
    if begun and not resume:
        raise OutputError(f"{folder.path} already holds an unfinished run; go on with --resume, or name another folder")
    check_shards(folder.path, shares[0])
    for share in shares:
        if begun and (before := read_recipe(share.folder(folder.path))):
            before.pop("shard", None)
            if differing := differences(before, json.loads(json.dumps(recipe))):
                raise OutputError(
                    f"{folder.path} was begun with another recipe or input; these differ: {'; '.join(differing)}; use "
                    "the same settings, or another folder"
                )
    return shares


def _pool_size(actors: int | None, gpus: float, cpus: float, most: int) -> int:
    """Tell how many actors to start: as many as were asked for or fit, but not more than there are blocks."""
    import ray

    if not ray.is_initialized():
        try:
            ray.init()
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise EngineError(
                f"no Ray cluster can be reached ({one_line(error)}): start one, or see to RAY_ADDRESS"
            ) from error
    have = ray.cluster_resources()
    fits = [int(have.get(name, 0) / each) for name, each in (("GPU", gpus), ("CPU", cpus)) if each]
    room = min(fits, default=most)
    if room < (actors or 1):
        raise RecipeError(
            f"actors={actors or 1} of {gpus:g} GPUs and {cpus:g} CPUs each do not fit into the Ray cluster, which "
            f"has {have.get('GPU', 0):g} GPUs and {have.get('CPU', 0):g} CPUs: start fewer, or add machines"
        )
    if (actors or 1) > most:
        _log.warning("actors=%d: the input makes %d blocks, so %d actors are started", actors, most, most)
    return min(actors or room, most)


def _write_all(
    shares: list[Share], job: Mapping[str, Any], size: int, **resources: float
) -> Iterator[Mapping[str, Any]]:
    """Let a pool of actors write blocks; gives each when it is finished.

    One row of the Ray data set is a whole block, by its number: however Ray cuts and bundles rows, no chain is cut.
    """
    import ray
    from ray.exceptions import RayActorError, RayError

    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    blocks = ray.data.from_items(
        [{"index": share.index, "count": share.count} for share in shares], override_num_blocks=len(shares)
    )
    written = blocks.map_batches(
        BlockWriter,
        fn_constructor_kwargs={"job": job},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        max_restarts=-1,
        max_task_retries=BLOCK_RETRIES,
        **resources,
    )
    kept = "what was finished is kept: go on with --resume"
    try:
        for row in written.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            yield row
    except RayActorError as error:
        raise EngineError(f"actors died {BLOCK_RETRIES + 1} times on one block: {one_line(error)}; {kept}") from error
    except RayError as error:  # a node that is gone, a full object store; or what an actor did not expect, as its cause
        said = one_line(getattr(error, "cause", None) or error)
        raise EngineError(f"Ray failed ({type(error).__name__}: {said}); {kept}") from error
    finally:
        context.enable_progress_bars = shown
