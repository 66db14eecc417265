"""Prefill and wall time of chains on a vLLM whose KV cache is too small for all of them at once.

    python -m tests.benchmarks.schedule                          # about an hour on 2 cores
    python -m tests.benchmarks.schedule --shots 3 --texts 24 --rounds 1

The shipped abstracts, each cut to 300 tokens, in chains of 1, 2, 3 and 5, greedily; each run from a cold prefix cache:

- `ours`: depth first, in a cache of 40 blocks of 128 tokens;
- `barrier`: rounds, each over all chains, as the reference code does, in the same cache;
- `in advance`: all prompts of `ours` known beforehand, in one call of vLLM's own `LLM.generate` on the same engine: the
  floor without chaining;
- `roomy`: ours with a cache that holds everything: the least prefill that there can be.

A history is what the engine generated, whatever it says, so that nothing but the schedule differs. Computed are the
prompt tokens that the prefix cache did not have when a request came. A request that the engine puts off when memory
runs out is computed again beyond that; `preemptions` counts these.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
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
TEXT_TOKENS, COMPLETION_TOKENS = 300, 60
Chains = list[list[list[int]]]
"""Token ids of the texts of each chain."""


def chain(texts: list[list[int]], prompter: Prompter) -> Generator[Request, Completion, list[list[int]]]:
    """Ask about one text after the other, keeping whatever was generated as history; returns the prompts."""
    history: list[FinishedShot] = []
    prompts: list[list[int]] = []
    for text in texts:
        prompt, _ = prompter.prompt(history, text, 4096 - COMPLETION_TOKENS)
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
def started(blocks: int | None) -> Iterator[tuple[VLLMEngine, Prompter]]:
    """Start an engine with so many KV blocks; None: as many as fit."""
    engine = VLLMEngine(prepare_smol(), num_gpu_blocks_override=blocks)
    try:
        yield engine, Prompter(engine.tokenizer, PAPER)
    finally:
        engine.close()


def deal(n_texts: int, shots: int, prompter: Prompter) -> Chains:
    """Cut the texts and deal them into chains."""
    texts = [prompter.encode_text(text)[:TEXT_TOKENS] for text in demo_texts(n_texts)]
    return [texts[at : at + shots] for at in range(0, len(texts), shots)]


def measure(n_texts: int, all_shots: Sequence[int], blocks: int, rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """Let the schedules take turns, for every number of shots."""
    roomy, small = {}, {}
    with started(None) as (engine, prompter):
        depth_first(engine, deal(4, 2, prompter), prompter)  # what an engine does only once is not measured
        for shots in all_shots:
            roomy[shots] = measured(engine, partial(depth_first, engine, deal(n_texts, shots, prompter), prompter))
    with started(blocks) as (engine, prompter):
        llm = llm_around(engine, str(prepare_smol()))
        for shots in all_shots:
            chains = deal(n_texts, shots, prompter)
            prompts = depth_first(engine, chains, prompter)
            ways = {
                "ours": partial(depth_first, engine, chains, prompter),
                "barrier": partial(barrier, engine, chains, prompter),
                "in advance": partial(in_advance, llm, engine, prompts),
            }
            runs = {name: partial(measured, engine, way) for name, way in ways.items()}
            small[shots] = alternate(runs, rounds)
    figures = [one for shots in all_shots for one in figures_of(shots, roomy[shots], small[shots])]
    return figures, {"texts": n_texts, "roomy": roomy, "small": small}


def figures_of(shots: int, roomy: dict[str, Any], small: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Set the schedules beside their floors."""

    def every(way: str, name: str) -> list[float]:
        return [run[name] for run in small[way]]

    floor = [roomy["computed"]] * len(small["ours"])
    what, holds = f"{shots} shots a chain" if shots > 1 else "1 shot a chain", "a cache that holds everything"
    unit = "prefill tokens computed"
    return [
        compare(PART, what, unit, every("ours", "computed"), floor, holds, at_most=1.05),
        compare(PART, f"{what}, barrier", unit, every("barrier", "computed"), floor, holds),
        compare(
            PART, what, "seconds", every("ours", "seconds"), every("in advance", "seconds"),
            "all prompts known, one LLM.generate", at_most=1.05,
        ),
        compare(PART, what, "seconds", every("ours", "seconds"), every("barrier", "seconds"), "barrier"),
    ]  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--texts", type=int)
    parser.add_argument("--shots", type=int, nargs="+")
    parser.add_argument("--blocks", type=int, default=40, help="KV blocks of 128 tokens in the small cache")
    args = parser.parse_args()
    texts = args.texts or (6 if args.quick else 60)
    shots = args.shots or ((1, 3) if args.quick else (1, 2, 3, 5))
    report(*measure(texts, shots, args.blocks, args.rounds or (1 if args.quick else 5)), args.json)


if __name__ == "__main__":
    main()
