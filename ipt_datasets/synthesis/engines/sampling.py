"""One row's next token, from its own stream of random numbers: what else is in the batch changes nothing."""

import random
from collections.abc import Sequence
from typing import Any

from ipt_datasets.synthesis.engines import Request

GREEDY_BELOW = 1e-5
"""Temperatures under this one mean greedy decoding, as in vLLM."""


def is_plain(request: Request) -> bool:
    """Whether the next token is simply the most likely one."""
    penalised = request.repetition_penalty != 1.0 or request.frequency_penalty or request.presence_penalty
    return request.temperature < GREEDY_BELOW and not penalised


def draw(logits: Any, request: Request, stream: random.Random, seen: Any, generated: Sequence[int] = ()) -> int:
    """Choose the next token.

    Args:
        logits: of the whole vocabulary, float32 of shape [vocabulary].
        request: how to sample.
        stream: the request's own; one number is drawn from it a token.
        seen: which ids stand in the prompt or the completion, bool of shape [vocabulary].
        generated: the completion so far.
    """
    penalty = request.repetition_penalty
    if penalty != 1.0:
        logits = logits.where(~seen, logits.where(logits <= 0, logits / penalty).where(logits > 0, logits * penalty))
    if request.frequency_penalty and generated:
        ids = logits.new_tensor(list(generated)).long()
        logits = logits.index_add(0, ids, logits.new_full((len(generated),), -request.frequency_penalty))
    if request.presence_penalty and generated:
        ids = logits.new_tensor(sorted(set(generated))).long()
        logits = logits.index_add(0, ids, logits.new_full((len(ids),), -request.presence_penalty))
    if request.temperature < GREEDY_BELOW:
        return int(logits.argmax())
    # In double precision, so that the sum over a large vocabulary still tells its rare ids apart.
    likely, ids = (logits.double() / request.temperature).softmax(-1).sort(descending=True, stable=True)
    summed = likely.cumsum(-1)
    nucleus = int((summed < request.top_p).sum().clamp(max=len(summed) - 1))  # index of the last id that is kept
    drawn = int((summed <= stream.random() * float(summed[nucleus])).sum())
    return int(ids[min(drawn, nucleus)])
