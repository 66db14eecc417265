"""A chain: M shots read one after another, each prompt carrying the earlier ones (the paper's M-shot example).

A chain is a generator: it yields requests and receives completions, so that whoever drives it decides when and where
they run. What it returns are the records of its shots.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from ipt_datasets.recipe import Recipe
from ipt_datasets.schema import Pair, Rejected
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.prompts import FinishedShot, Prompter


class Stretch(NamedTuple):
    """What a shot is about: one window of one raw text.

    Attributes:
        row: which row of the input the text came from.
        text: the characters `start:end` of the raw text.
        ids: their token ids with the markup around them.
    """

    row: int
    text: str
    start: int
    end: int
    ids: list[int]


class Shot(NamedTuple):
    """The record of one shot: what was asked, the raw completion, and the pairs read from it."""

    row: int
    chain: str
    position: int
    start: int
    end: int
    follows: bool
    completion: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    pairs: tuple[Pair, ...]
    rejected: tuple[Rejected, ...]

    def to_row(self) -> dict[str, Any]:
        """Give an element of a `shots` column."""
        return {
            "chain": self.chain,
            "position": self.position,
            "start": self.start,
            "end": self.end,
            "follows": self.follows,
            "completion": self.completion,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


def chain_id(stretches: Sequence[Stretch]) -> str:
    """Name a chain by its content: 16 hexadecimal digits that depend on its texts and nothing else."""
    digest = hashlib.blake2b(digest_size=8)
    for stretch in stretches:
        content = stretch.text.encode()
        digest.update(f"{stretch.start}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def run_chain(
    stretches: Sequence[Stretch],
    prompter: Prompter,
    recipe: Recipe,
    max_model_len: int,
    on_shot: Callable[[Shot], None] | None = None,
    chain: str | None = None,
) -> Generator[Request, Completion, list[Shot]]:
    """Ask for the pairs of one stretch after the other.

    A shot without pairs is left out of the history and the good ones before it stay; when the prompt grows too long,
    the oldest shots leave first.

    Args:
        stretches: the texts of the chain, each short enough for a prompt of its own.
        prompter: builds the prompts.
        recipe: sampling and limits.
        max_model_len: the engine's; prompt and completion together never exceed it.
        on_shot: called with each shot as soon as it is parsed.
        chain: what `chain_id` gives for the stretches, where it is known already.
    """
    chain = chain_id(stretches) if chain is None else chain
    history: list[FinishedShot] = []
    shots: list[Shot] = []
    for position, stretch in enumerate(stretches):
        prompt, kept = prompter.prompt(history, stretch.ids, max_model_len - recipe.max_new_tokens)
        completion = yield Request(
            prompt=prompt,
            max_tokens=min(recipe.max_new_tokens, max_model_len - len(prompt)),
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            repetition_penalty=recipe.repetition_penalty,
            frequency_penalty=recipe.frequency_penalty,
            presence_penalty=recipe.presence_penalty,
            seed=_request_seed(recipe.seed, chain, position),
            stop=prompter.markup.stop,
        )
        text = prompter.completion_text(completion.token_ids)
        pairs, rejected = _read(text, completion, prompter)
        shots.append(
            Shot(
                row=stretch.row,
                chain=chain,
                position=position,
                start=stretch.start,
                end=stretch.end,
                follows=kept > 0,
                completion=text,
                finish_reason=completion.finish_reason,
                prompt_tokens=len(prompt),
                completion_tokens=len(completion.token_ids),
                pairs=pairs,
                rejected=rejected,
            )
        )
        if on_shot:
            on_shot(shots[-1])
        if not pairs or stretch is stretches[-1]:  # no prompt follows the last
            continue
        if not rejected and not any(stop in text for stop in prompter.markup.stop):
            history.append(prompter.finish_exactly(stretch.ids, completion.token_ids))
        else:
            history.append(prompter.finish(stretch.ids, pairs, completion.token_ids, text))
    return shots


def _read(text: str, completion: Completion, prompter: Prompter) -> tuple[tuple[Pair, ...], tuple[Rejected, ...]]:
    if completion.finish_reason == "error":
        return (), (Rejected("engine_error", completion.error),)
    parsed = prompter.markup.parse(text, completion.finish_reason)
    return parsed.pairs, parsed.rejected


def _request_seed(seed: int, chain: str, position: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{chain}:{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
