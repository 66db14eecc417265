"""Prefill and wall time of chains on a vLLM whose KV cache is too small for all of them at once.

    python -m tests.benchmarks.schedule                          # about three hours on 2 cores
    python -m tests.benchmarks.schedule --shots 3 --caches large --rounds 1

The shipped abstracts, each cut to 150 tokens, in chains of 1, 2, 3 and 5, greedily; each run from a cold prefix cache:

- `ours`: depth first;
- `barrier`: rounds, each over all chains, as the reference code does;
- `in advance`: all prompts of `ours` known beforehand, in one call of vLLM's own `LLM.generate` on the same engine: the
  floor without chaining.

All of them in a cache of 20 blocks of 128 tokens. The first and the last in one that holds everything, too, on an
engine that runs at most 8 requests at a time and mostly has more to do, as with a large corpus: there ours computes the
least prefill that there can be. In the small cache the floor has an advantage that no schedule of chains has: the shots
of one chain run at the same time and share one prefix there, so that the same blocks hold up to M times as many
requests.

A history is what the engine generated, whatever it says, so that nothing but the schedule differs. Computed are the
prompt tokens that the prefix cache did not have when a request came. A request that the engine puts off when memory
runs out is computed again beyond that; `preemptions` counts these.
"""

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from ipt_datasets.models.embedded import prepare_smol
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.vllm import VLLMEngine
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import FinishedShot, Prompter
from ipt_datasets.synthesis.schedule import Job, Schedule
from tests.benchmarks.figures import Figure, alternate, compare, demo_texts, options, report

PART = "schedule"
TEXT_TOKENS, COMPLETION_TOKENS = 150, 30
MAX_MODEL_LEN = 2048
"""More than the longest prompt, and less than the small cache, or vLLM would not start with it."""

LEAST_CHAINS = 40
"""With fewer, most of a run is its beginning and its end, where the engine has little to do whatever the schedule."""

AT_A_TIME = 8
"""Requests that the engine with the large cache runs at once: a fifth of the chains, so that it is mostly full."""

CACHES = ("small", "large")

Chains = list[list[list[int]]]
"""Token ids of the texts of each chain."""

Taken = dict[str, list[dict[str, Any]]]
"""What each schedule took, once a round."""


def chain(texts: list[list[int]], prompter: Prompter) -> Generator[Request, Completion, list[list[int]]]:
    """Ask about one text after the other, keeping whatever was generated as history; returns the prompts."""
    history: list[FinishedShot] = []
    prompts: list[list[int]] = []
    for text in texts:
        prompt, _ = prompter.prompt(history, text, MAX_MODEL_LEN - COMPLETION_TOKENS)
        prompts.append(prompt)
        completion = yield Request(prompt, COMPLETION_TOKENS)
        history.append(prompter.finish_exactly(text, completion.token_ids))
    return prompts


def barrier(engine: VLLMEngine, chains: Chains, prompter: Prompter) -> list[list[int]]:
    """Run round after round; each begins when the last request of the one before has finished."""
    running = {number: chain(texts, prompter) for number, texts in enumerate(chains)}
    requests = {number: next(generator) for number, generator in running.items()}
    prompts: list[list[int]] = []
    while requests:
        for number, request in requests.items():
            engine.submit(number, request)
        left, following = len(requests), {}
        while left:
            for number, completion in engine.step():
                left -= 1
                try:
                    following[number] = running[number].send(completion)
                except StopIteration as finished:
                    prompts += finished.value
        requests = dict(sorted(following.items()))
    return prompts


def depth_first(engine: VLLMEngine, chains: Chains, prompter: Prompter) -> list[list[int]]:
    """Run the chains as the package does; gives the prompts, chain after chain."""
    jobs = (Job(chain(texts, prompter), sum(map(len, texts)), len(texts)) for texts in chains)
    found = dict(Schedule(engine, 0, first_guess=COMPLETION_TOKENS).run(jobs))
    return [prompt for number in sorted(found) for prompt in found[number]]


def llm_around(engine: VLLMEngine, model: str) -> Any:
    """Give vLLM's own `LLM` over an engine that runs already."""
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine

    with mock.patch.object(LLMEngine, "from_engine_args", return_value=engine._engine):
        return LLM(model=model)


def in_advance(llm: Any, engine: VLLMEngine, prompts: list[list[int]]) -> list[list[int]]:
    """Give all prompts to `LLM.generate` in one call."""
    from vllm import SamplingParams, TokensPrompt

    how = SamplingParams(max_tokens=COMPLETION_TOKENS, temperature=0.0, stop_token_ids=engine._ends, detokenize=False)
    llm.generate([TokensPrompt(prompt_token_ids=prompt) for prompt in prompts], how, use_tqdm=False)
    return prompts


def measured(engine: VLLMEngine, run: Callable[[], list[list[int]]]) -> dict[str, Any]:
    """Run a schedule from a cold cache."""
    engine.reset_prefix_cache()
    before, began = engine.counters(), time.monotonic()
    prompts = run()
    seconds = time.monotonic() - began
    counted = {name: value - before[name] for name, value in engine.counters().items()}
    read = sum(map(len, prompts))
    return {
        "seconds": seconds,
        "prompt_tokens": read,
        "computed": read - counted["prefix_cache_hits"],
        "generated": counted["generation_tokens"],
        "preemptions": counted["num_preemptions"],
        "kv_tokens": engine.kv_tokens,
    }


@contextmanager
def started(**engine_options: int) -> Iterator[tuple[VLLMEngine, Prompter]]:
    """Start an engine."""
    engine = VLLMEngine(prepare_smol(), max_model_len=MAX_MODEL_LEN, **engine_options)
    try:
        yield engine, Prompter(engine.tokenizer, PAPER)
    finally:
        engine.close()


def deal(n_chains: int, shots: int, prompter: Prompter) -> Chains:
    """Cut the texts and deal them into chains."""
    texts = [prompter.encode_text(text)[:TEXT_TOKENS] for text in demo_texts(n_chains * shots)]
    return [texts[at : at + shots] for at in range(0, len(texts), shots)]


def measure(
    n_texts: int, least_chains: int, all_shots: Sequence[int], caches: Sequence[str], blocks: int, rounds: int
) -> tuple[list[Figure], dict[str, Any]]:
    """Let the schedules take turns, for every number of shots, in each cache."""
    runs: dict[str, dict[int, Taken]] = {}
    engine_options = {"small": {"num_gpu_blocks_override": blocks}, "large": {"max_num_seqs": AT_A_TIME}}
    for cache in caches:
        runs[cache] = {}
        with started(**engine_options[cache]) as (engine, prompter):
            llm = llm_around(engine, str(prepare_smol()))
            for shots in all_shots:
                chains = deal(max(n_texts // shots, least_chains), shots, prompter)
                prompts = depth_first(engine, chains, prompter)  # what an engine does only once is not measured
                ways: dict[str, Callable[[], list[list[int]]]] = {
                    "ours": partial(depth_first, engine, chains, prompter),
                    "in advance": partial(in_advance, llm, engine, prompts),
                }
                if cache == "small":
                    ways["barrier"] = partial(barrier, engine, chains, prompter)
                one_each = {name: partial(measured, engine, way) for name, way in ways.items()}
                runs[cache][shots] = alternate(one_each, rounds)
                for name, taken in runs[cache][shots].items():
                    spent = ", ".join(f"{run['seconds']:.1f} s" for run in taken)
                    print(f"{cache} cache, {shots} shots, {name}: {spent}", file=sys.stderr, flush=True)
    figures = [one for shots in all_shots for one in figures_of(shots, {name: of[shots] for name, of in runs.items()})]
    return figures, {"texts": n_texts, **runs}


def figures_of(shots: int, runs: Mapping[str, Taken]) -> list[Figure]:
    """Set the schedules beside their floors, as far as their caches were measured."""

    def every(cache: str, way: str, name: str) -> list[float]:
        return [run[name] for run in runs[cache][way]]

    def seconds(cache: str, beside: str, its_name: str, at_most: float | None = None) -> Figure:
        ours, its = every(cache, "ours", "seconds"), every(cache, beside, "seconds")
        return compare(PART, f"{what}, {cache} cache", "seconds", ours, its, its_name, at_most=at_most)

    what = f"{shots} shots a chain" if shots > 1 else "1 shot a chain"
    figures = []
    if set(CACHES) <= set(runs):
        floor = every("large", "ours", "computed")
        name, unit = "a cache that holds everything", "prefill tokens computed"
        figures += [
            compare(PART, what, unit, every("small", "ours", "computed"), floor, name, at_most=1.05),
            compare(PART, f"{what}, barrier", unit, every("small", "barrier", "computed"), floor, name),
        ]
    figures += [seconds(cache, "in advance", "all prompts known, one LLM.generate", 1.05) for cache in runs]
    if "small" in runs:
        figures.append(seconds("small", "barrier", "barrier"))
    return figures


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--texts", type=int, help="about so many")
    parser.add_argument("--chains", type=int, help=f"at least so many ({LEAST_CHAINS})")
    parser.add_argument("--shots", type=int, nargs="+")
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=CACHES)
    parser.add_argument("--blocks", type=int, default=20, help="KV blocks of 128 tokens in the small cache")
    args = parser.parse_args()
    texts, chains = args.texts or (6 if args.quick else 100), args.chains or (2 if args.quick else LEAST_CHAINS)
    shots = args.shots or ((1, 3) if args.quick else (1, 2, 3, 5))
    rounds = args.rounds or (1 if args.quick else 5)
    report(*measure(texts, chains, shots, args.caches, args.blocks, rounds), args.json)


if __name__ == "__main__":
    main()
