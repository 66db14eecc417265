"""What the host does around the engine: how fast it is without a model, stage by stage, and what it adds to one.

    python -m tests.benchmarks.host                      # 4,000 texts, two tokenizers; then 96 texts with smol on vLLM
    python -m tests.benchmarks.host --texts 400 --rounds 2 --no-model --profile

Without a model, an engine hands out completions that were written beforehand, and all else is what `augment` does with
a real tokenizer: read, cut and encode, deal into chains and build prompts, decode and parse, templatize, write. The
floor is what the tokenizer alone takes for the same texts, in batches on one core. All in processor time. The texts are
abstracts, and texts as long as those of the paper's general corpus; each gets about as many pairs, and as many tokens
of them, as there (about 5 and 260).

With a model, what counts is for how much of the time from the first text to the finished folder nobody waits for the
engine. `--profile` prints where the slowest stage spends its time, encoding apart.
"""

import cProfile
import gc
import io
import os
import pstats
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a figure a core

from ipt_datasets.corpus.augment import augment
from ipt_datasets.synthesis.synthesizer import Synthesizer
from tests.benchmarks.figures import Figure, alternate, compare, cpu_seconds, demo_texts, options, report, write_texts
from tests.benchmarks.host_stages import HostPath, Watched, load_tokenizer

PART = "host"
TOKENIZERS = ("smol", "mistral")
CHARACTERS: Mapping[str, int | None] = {"abstracts": None, "web texts": 2700}
"""The texts: 2,700 characters are about 500 tokens, what the 200 million texts of the paper's general corpus have on
average (100 billion tokens; Cheng et al. 2024, arXiv 2406.14491)."""
TOKENS_A_SECOND = 1_000_000
"""Raw tokens a second and core that the host is to reach, tokenizing apart."""


def without_model(
    name: str, kind: str, n_texts: int, rounds: int, profiled: bool
) -> tuple[list[Figure], dict[str, Any]]:
    """Let the whole, its stages and the tokenizer alone take turns; `kind` is one of CHARACTERS."""
    with tempfile.TemporaryDirectory() as folder:
        path = HostPath(n_texts, load_tokenizer(name, Path(folder) / "tokenizer"), Path(folder), CHARACTERS[kind])
        path.whole()  # what a process does only once is not measured
        gc.freeze()  # as `augment` does; else a collection of all there is would fall into some rounds
        stages = {stage: partial(cpu_seconds, work) for stage, work in path.stages().items()}
        ways = {"floor": partial(cpu_seconds, path.floor), "whole": path.whole, "apart": path.apart, **stages}
        found = alternate(ways, rounds)
        gc.unfreeze()
        if profiled:
            slowest = {stage: median(took) for stage, took in found.items() if stage in stages and stage != "encode"}
            print_profile(path, max(slowest, key=slowest.__getitem__))
    rest = [path.tokens / took for took in found["apart"]]
    what = f"augment without a model, {kind} of {path.tokens / n_texts:.0f} tokens, tokenizer of {name}"
    micro = {stage: [1e6 * took / n_texts for took in turns] for stage, turns in found.items()}
    unit, goal = "CPU microseconds a text", [TOKENS_A_SECOND] * rounds
    figures = [
        compare(PART, what, unit, micro["whole"], micro["floor"], "tokenizer alone", at_most=2.0),
        compare(PART, f"{what}, tokenizing apart", "raw tokens a CPU second", rest, goal, "the goal", at_least=1.0),
    ]
    if name == TOKENIZERS[0]:
        for stage in stages:
            what = f"of that, {kind}, {stage}"
            figures.append(compare(PART, what, unit, micro[stage], micro["floor"], "tokenizer alone"))
    return figures, {"texts": n_texts, "tokens": path.tokens, "microseconds_a_text": micro, "rest": rest}


def print_profile(path: HostPath, stage: str) -> None:
    """Print the fifteen functions in which a stage spends most."""
    profile, out = cProfile.Profile(time.process_time), io.StringIO()
    profile.runcall(path.stages()[stage])
    pstats.Stats(profile, stream=out).strip_dirs().sort_stats("tottime").print_stats(15)
    print(f"The slowest stage but for encoding: {stage}\n{out.getvalue()}", flush=True)


def with_model(n_texts: int, rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """Tell how much of a run with smol is spent outside the engine; the engine is loaded beforehand."""
    from ipt_datasets.models.embedded import prepare_smol
    from ipt_datasets.synthesis.engines.vllm import VLLMEngine

    engine = VLLMEngine(prepare_smol())
    runs: list[Mapping[str, float]] = []
    try:
        with tempfile.TemporaryDirectory() as name:
            source = Path(name) / "corpus.jsonl"
            write_texts(source, demo_texts(n_texts))
            for at in range(rounds + 1):
                engine.reset_prefix_cache()
                watched = Watched(engine, ("submit", "step"), time.monotonic)
                synthesizer = Synthesizer(model="smol", engine=watched)
                began = time.monotonic()
                augment(str(source), Path(name) / f"out-{at}", synthesizer, progress=False)
                runs.append({"seconds": time.monotonic() - began, "engine": watched.seconds})
    finally:
        engine.close()
    runs = runs[1:]  # the first warms up
    outside = [run["seconds"] - run["engine"] for run in runs]
    whole = [run["seconds"] for run in runs]
    what = f"outside the engine, {n_texts} texts with smol on vLLM"
    return [compare(PART, what, "seconds", outside, whole, "the whole run")], {"texts": n_texts, "runs": runs}


def measure(
    n_texts: int, model_texts: int, tokenizers: Sequence[str], rounds: int, profiled: bool = False
) -> tuple[list[Figure], dict[str, Any]]:
    """Measure without a model for each tokenizer, then with one; without where `model_texts` is 0."""
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name in tokenizers:
        for kind in CHARACTERS:
            found, of_kind = without_model(name, kind, n_texts, rounds, profiled and name == tokenizers[0])
            details.setdefault(name, {})[kind] = of_kind
            figures += found
    if model_texts:
        found, details["model"] = with_model(model_texts, max(rounds // 2, 1))
        figures += found
    return figures, details


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--texts", type=int)
    parser.add_argument("--tokenizers", nargs="+", choices=TOKENIZERS, default=TOKENIZERS)
    parser.add_argument("--no-model", action="store_true", help="leave out the run with smol on vLLM")
    parser.add_argument("--profile", action="store_true", help="print where the slowest stage spends its time")
    args = parser.parse_args()
    texts, model_texts = args.texts or (100 if args.quick else 4000), 6 if args.quick else 96
    rounds = args.rounds or (1 if args.quick else 5)
    report(*measure(texts, 0 if args.no_model else model_texts, args.tokenizers, rounds, args.profile), args.json)


if __name__ == "__main__":
    main()
