"""An engine that is watched: when its requests came and went, and how fast it was while it was full."""

import time
from dataclasses import dataclass

from ipt_datasets.synthesis.engines import Completion, Engine, Request
from ipt_datasets.synthesis.prompts import Prompter


@dataclass(frozen=True, slots=True)
class Span:
    """One request's time in the engine.

    Attributes:
        begun: seconds on the monotonic clock.
        ended: likewise.
        prompt_tokens: of its prompt.
        cached_tokens: of them in the engine's prefix cache.
        completion_tokens: that it generated.
    """

    begun: float
    ended: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def computed_tokens(self) -> int:
        """Tokens that the model computed, read or written."""
        return self.prompt_tokens - self.cached_tokens + self.completion_tokens


class Stopwatch:
    """Stands before an engine and is one; what the engine does is not changed.

    Args:
        engine: that works.

    Attributes:
        spans: the finished requests, in the order in which they finished.
    """

    def __init__(self, engine: Engine) -> None:
        self.kind, self.tokenizer = engine.kind, engine.tokenizer
        self.max_model_len, self.max_requests, self.kv_tokens = (
            engine.max_model_len,
            engine.max_requests,
            engine.kv_tokens,
        )
        self.spans: list[Span] = []
        self._engine = engine
        self._under_way: dict[int, tuple[float, int]] = {}
        self._chains: set[int] = set()
        self._full_until = 0.0

    def submit(self, request_id: int, request: Request) -> None:
        """Take a request; its id names its chain."""
        now = time.monotonic()
        if request_id not in self._chains:
            self._chains.add(request_id)
            self._full_until = now
        self._under_way[request_id] = now, len(request.prompt)
        self._engine.submit(request_id, request)

    def step(self) -> list[tuple[int, Completion]]:
        """Let the engine work."""
        finished = self._engine.step()
        now = time.monotonic()
        for request_id, completion in finished:
            begun, read = self._under_way.pop(request_id)
            self.spans.append(Span(begun, now, read, completion.cached_tokens, len(completion.token_ids)))
        return finished

    def abort(self, request_ids: list[int]) -> None:
        """Forget requests."""
        for request_id in request_ids:
            self._under_way.pop(request_id, None)
        self._engine.abort(request_ids)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    @property
    def seconds(self) -> float:
        """From the first request's coming to the last one's going."""
        return self.spans[-1].ended - min(span.begun for span in self.spans) if self.spans else 0.0

    def speed(self) -> tuple[float, float]:
        """Tell how many tokens the model computed a second while no chain had to be waited for.

        Until the last chain began, the engine had as many as it takes; after that it runs empty, which in a long run
        is a small part and in a sample a large one. A request that was under way at that moment counts with the part
        of its time that lay before.

        Returns:
            Tokens a second, and the share of the tokens that this was measured on: 1 where it is the whole, because
            the chains were too few to wait for each other; (0.0, 1.0) where nothing was computed.
        """
        whole = sum(span.computed_tokens for span in self.spans)
        if not whole or not self.seconds:
            return 0.0, 1.0
        begun = min(span.begun for span in self.spans)
        before = sum(span.computed_tokens * _part_before(span, self._full_until) for span in self.spans)
        if before < LEAST_SHARE * whole:
            return whole / self.seconds, 1.0
        return before / (self._full_until - begun), before / whole


LEAST_SHARE = 0.2
"""Less than this of the tokens is too little to tell the speed from."""


def warm_up(engine: Engine, prompter: Prompter) -> None:
    """Let an engine answer one short request, so that what it does only once is not counted as its speed."""
    prompt, _ = prompter.prompt([], prompter.encode_text("A cat sleeps on a warm roof."), engine.max_model_len - 8)
    engine.submit(0, Request(prompt, 8))
    while not engine.step():
        pass


def _part_before(span: Span, moment: float) -> float:
    """Give the part of a span that lies before a moment."""
    if span.ended <= moment:
        return 1.0
    return max(0.0, moment - span.begun) / (span.ended - span.begun)
