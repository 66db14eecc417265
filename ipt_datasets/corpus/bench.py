"""`bench`: a few settings of an engine, tried on the user's own machine and corpus."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tqdm.auto import tqdm

from ipt_datasets.corpus.sample import draw_sample
from ipt_datasets.errors import EngineError, RecipeError
from ipt_datasets.recipe import Recipe
from ipt_datasets.synthesis.engines.choose import choose_engine
from ipt_datasets.synthesis.synthesizer import Synthesizer

Options = Mapping[str, Any]

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}
"""Speculative decoding that guesses the next tokens from the prompt: answers copy from the text."""

TRIES: Mapping[str, tuple[Options, ...]] = {
    "transformers": ({}, {"batch_size": 4}, {"batch_size": 8}, {"batch_size": 32}, {"batch_size": 64}),
    "vllm": (
        {},
        {"max_num_seqs": 64},
        {"max_num_seqs": 512},
        {"max_num_batched_tokens": 16384},
        {"speculative_config": NGRAM},
    ),
    "vllm on a CPU": ({}, {"max_num_seqs": 16}, {"max_num_batched_tokens": 16384}),
    "server": ({}, {"max_concurrency": 16}, {"max_concurrency": 256}),
    "scripted": ({}, {"max_requests": 1}, {"max_requests": 256}),
}
"""Engine options to try, by engine. None of them changes what the model is: quantised weights write other pairs, and
whether those are as good only `ipt evaluate` can tell."""

GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Tried:
    """One try.

    Attributes:
        options: of the engine.
        runs: what each run measured, see `bench_try.measure`.
        error: why it died, "" where it did not.
    """

    options: Options
    runs: tuple[Mapping[str, float], ...]
    error: str = ""

    def rate(self, tokens: str) -> float:
        """Give the median of a number of tokens a second: "raw_tokens" or "output_tokens"."""
        return median(run[tokens] / max(run["seconds"], 1e-9) for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The slowest and the fastest run, in raw tokens a second."""
        rates = [run["raw_tokens"] / max(run["seconds"], 1e-9) for run in self.runs]
        return min(rates), max(rates)

    def to_dict(self) -> dict[str, Any]:
        """Give the try as JSON holds it."""
        of_rates = {} if self.error else {f"{name}_per_second": self.rate(name) for name in RATES}
        return {"options": dict(self.options), "error": self.error, **of_rates, "runs": [*map(dict, self.runs)]}


RATES = ("raw_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured.

    Attributes:
        engine: that ran the tries.
        texts: of each run.
        tries: in the order in which they were given.
    """

    engine: str
    texts: int
    tries: tuple[Tried, ...]

    @property
    def best(self) -> Tried | None:
        """The try that reads the most raw tokens a second; None where all died."""
        return max(
            (tried for tried in self.tries if not tried.error), key=lambda one: one.rate("raw_tokens"), default=None
        )


def bench(
    source: str,
    settings: Mapping[str, Any],
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    texts: int = 48,
    tries: Sequence[Options] | None = None,
    repeats: int = 3,
    run_minutes: float = 15.0,
    seed: int = 0,
    progress: bool = True,
) -> Bench:
    """Try engine options on a sample of a corpus, each run in a process of its own, the tries in turn.

    Args:
        source: whatever `load_dataset` takes.
        settings: arguments of `Synthesizer` that JSON can hold; its `engine_options` hold for every try.
        split: of the source.
        config_name: of the source.
        revision: of the source, where it is a Hub id.
        texts: of the sample, drawn by `seed` in whole chains.
        tries: engine options each; None: those of TRIES.
        repeats: runs of each try, of which the median counts.
        run_minutes: a run that takes longer, loading included, is ended, and its try counts as failed.
        seed: draws the sample.
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, or has no such text column.
        RecipeError: a setting is out of range.
        EngineError: the server cannot be asked.
    """
    Synthesizer(**settings)  # loads nothing, and refuses what no try could run with
    if repeats < 1:
        raise RecipeError(f"repeats={repeats!r}: expected a whole number of at least 1")
    if not run_minutes > 0:
        raise RecipeError(f"run_minutes={run_minutes!r}: expected a number above 0")
    engine = choose_engine(settings.get("engine", "auto"))
    asked = tuple(TRIES[_kind(engine)] if tries is None else tries)
    if not asked or not all(isinstance(options, Mapping) for options in asked):
        raise RecipeError(f'tries={tries!r:.200}: expected a list of engine options, e.g. [{{}}, {{"batch_size": 8}}]')
    column = settings.get("text_column", Recipe.text_column)
    shots = settings.get("shots", Recipe.shots)
    drawn = draw_sample(
        source,
        column,
        rows=texts,
        stretch=shots,
        split=split,
        config_name=config_name,
        revision=revision,
        seed=seed,
    )
    sample = [row[column] for row in drawn.rows]
    if engine == "server":  # it keeps its prefix cache from run to run: without this the first try alone would fill it
        warmed = _run(settings, sample, run_minutes)
        if said := warmed.get("error"):
            raise EngineError(f"the server cannot be measured: {said}")
    runs: list[list[Mapping[str, float]]] = [[] for _ in asked]
    errors = [""] * len(asked)
    with tqdm(total=repeats * len(asked), unit=" runs", disable=not progress) as bar:
        for _ in range(repeats):
            for number, options in enumerate(asked):
                bar.set_postfix_str(written(options))
                if not errors[number]:
                    tried = {**settings, "engine_options": {**settings.get("engine_options", {}), **options}}
                    found = _run(tried, sample, run_minutes)
                    failed = found.get("errors", 0)
                    errors[number] = str(found.pop("error", "")) or (f"{failed} requests failed" if failed else "")
                    runs[number] += [] if errors[number] else [found]
                bar.update()
    return Bench(engine, len(sample), tuple(map(Tried, asked, map(tuple, runs), errors)))


def written(options: Options) -> str:
    """Write engine options as the command line takes them."""
    said = " ".join(f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in options.items())
    return said or "as it is"


def _kind(engine: str) -> str:
    if engine != "vllm":
        return engine
    import torch

    return "vllm" if torch.cuda.is_available() else "vllm on a CPU"


def _run(settings: Mapping[str, Any], texts: Sequence[str | None], minutes: float) -> dict[str, Any]:
    """Measure in a process of its own, so that the memory of one run is free again before the next."""
    with tempfile.TemporaryDirectory(prefix="ipt-bench-") as folder:
        asked, measured, said = (Path(folder) / name for name in ("asked.json", "measured.json", "said"))
        asked.write_text(json.dumps({"settings": dict(settings), "texts": texts}), "utf-8")
        command = [sys.executable, "-m", "ipt_datasets.corpus.bench_try", str(asked), str(measured)]
        with said.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            try:
                status = process.wait(minutes * 60)
            except subprocess.TimeoutExpired:
                return {"error": f"not finished after {minutes:g} minutes"}
            finally:
                _end(process)
        if status == 0 and measured.exists():
            found: dict[str, Any] = json.loads(measured.read_text("utf-8"))
            return found
        return {"error": _why(status, said.read_text("utf-8", errors="replace"))}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a run that still goes on, with all that its engine started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _why(status: int, said: str) -> str:
    """Say in one line why a process died."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = f": {lines[-1]:.300}" if lines else ""
    if status < 0:
        hint = ", maybe because the memory ran out" if -status == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}{last}"
    return f"ended with exit status {status}{last}"
