"""Prefill and wall time of chains on a vLLM whose KV cache is too small for all of them at once.

    python -m tests.benchmarks.schedule            # all of it, about 20 minutes on 2 cores
    python -m tests.benchmarks.schedule --chains 12

48 chains of 3 texts of up to 300 tokens, in one process and one engine, each schedule from a cold prefix cache:

- `all at once`: depth first with a KV cache that holds every chain, the least prefill there can be;
- `barrier`: rounds, each of them over all chains (what the reference code does), in a small cache;
- `depth first`: ours, in the same small cache.

A history is what the engine generated, whatever it says, so that every schedule has the same prompts and nothing but
the schedule is measured. Prints one JSON line a measurement and writes nothing.
"""

import argparse
import json
import time
from collections.abc import Generator

from datasets import load_dataset

from ipt_datasets.models.embedded import prepare_smol
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.vllm import VLLMEngine
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import FinishedShot, Prompter
from ipt_datasets.synthesis.schedule import Job, Schedule

SHOTS, TEXT_TOKENS, COMPLETION_TOKENS = 3, 300, 60


def chain(texts: list[list[int]], prompter: Prompter) -> Generator[Request, Completion, int]:
    """Ask about one text after the other, keeping whatever was generated as history; returns the prompt tokens."""
    history: list[FinishedShot] = []
    read = 0
    for text in texts:
        prompt, _ = prompter.prompt(history, text, 4096 - COMPLETION_TOKENS)
        read += len(prompt)
        completion = yield Request(prompt, COMPLETION_TOKENS)
        history.append(prompter.finish_exactly(text, completion.token_ids))
    return read


def barrier(engine: VLLMEngine, chains: list[list[list[int]]], prompter: Prompter) -> int:
    """Run round after round; each begins when the last request of the one before has finished."""
    running = {number: chain(texts, prompter) for number, texts in enumerate(chains)}
    requests = {number: next(generator) for number, generator in running.items()}
    read = 0
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
                    read += finished.value
        requests = dict(sorted(following.items()))
    return read


def depth_first(engine: VLLMEngine, chains: list[list[list[int]]], prompter: Prompter) -> int:
    """Run the chains as the package does."""
    jobs = (Job(chain(texts, prompter), sum(map(len, texts)), SHOTS) for texts in chains)
    return sum(read for _, read in Schedule(engine, 0, first_guess=COMPLETION_TOKENS).run(jobs))


def texts_of(n_chains: int, prompter: Prompter) -> list[list[list[int]]]:
    """Deal the shipped abstracts into chains, each text cut to at most TEXT_TOKENS tokens."""
    corpus = load_dataset("json", data_files="ipt_datasets/data/demo.jsonl", split="train")["text"]
    texts = [prompter.encode_text(text)[:TEXT_TOKENS] for text in corpus[: n_chains * SHOTS]]
    return [texts[at : at + SHOTS] for at in range(0, len(texts), SHOTS)]


def main() -> None:
    """Measure each schedule in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=48)
    parser.add_argument("--blocks", type=int, default=80, help="KV blocks of 128 tokens in the small cache")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    for kv_blocks, schedules in ((None, [depth_first]), (args.blocks, [barrier, depth_first])):
        engine = VLLMEngine(prepare_smol(), num_gpu_blocks_override=kv_blocks)
        prompter = Prompter(engine.tokenizer, PAPER)
        chains = texts_of(args.chains, prompter)
        for _ in range(args.runs):
            for schedule in schedules:
                engine.reset_prefix_cache()
                before, started = engine.counters(), time.monotonic()
                read = schedule(engine, chains, prompter)
                seconds = time.monotonic() - started
                hits = engine.counters()["prefix_cache_hits"] - before["prefix_cache_hits"]
                print(
                    json.dumps(
                        {
                            "schedule": "all at once" if kv_blocks is None else schedule.__name__.replace("_", " "),
                            "kv_tokens": engine.kv_tokens,
                            "chains": len(chains),
                            "prompt_tokens": read,
                            "computed": read - hits,
                            "seconds": round(seconds, 1),
                        }
                    ),
                    flush=True,
                )
        engine.close()


if __name__ == "__main__":
    main()
