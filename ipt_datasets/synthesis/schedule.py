"""Drives many chains over one engine, depth first.

Shot r+1 of a chain is submitted the moment shot r is parsed, before any new chain starts, so that the engine still
holds the chain's prefix. Only as many chains are under way as its KV cache holds: with more, a chain's blocks would
be evicted before its next shot and computed again (what rounds with a barrier do on any large corpus).

A chain takes its whole room only in its last shot. So chains begin a few at a time, such that about equally many are at
each shot, and the cache holds up to 2 M / (M + 1) times as many as if each were given its whole room from the start.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import Completion, Engine, Request

Result = TypeVar("Result")

RUN_AHEAD = 8
"""How many times the chains under way a slow chain may be overtaken, so that what waits for it stays bounded."""


class Job(NamedTuple, Generic[Result]):
    """A chain to drive.

    Attributes:
        chain: yields requests, receives completions, returns its result.
        tokens: how many tokens its texts hold in all.
        shots: how many completions it will ask for.
        known: the first of its completions, where an earlier run had them: the engine is not asked for them.
        keep: called with each completion that the engine gives, before the chain reads it.
    """

    chain: Generator[Request, Completion, Result]
    tokens: int
    shots: int
    known: Sequence[Completion] = ()
    keep: Callable[[Completion], None] | None = None


class _Stage(NamedTuple):
    """Where a chain stands: at which of how many shots."""

    shots: int
    at: int


@dataclass(slots=True)
class _Chains:
    """The chains at one stage: how many, and the tokens of a text of each, summed up."""

    number: int = 0
    text_tokens: float = 0.0


class Schedule:
    """Runs jobs over one engine.

    Args:
        engine: what runs the requests.
        shared_tokens: length of the prefix that all prompts share, held once by the KV cache.
        first_guess: expected tokens of a completion until some have been seen.
        max_chains: the most chains under way; None: as many as the engine works on at once.
    """

    def __init__(self, engine: Engine, shared_tokens: int, first_guess: int, max_chains: int | None = None) -> None:
        self.engine = engine
        self.max_chains = min(max_chains or engine.max_requests, engine.max_requests)
        self.room = None if engine.kv_tokens is None else engine.kv_tokens - shared_tokens
        self._seen_tokens, self._seen = first_guess, 1
        self._chains: dict[_Stage, _Chains] = {}
        self._stage_of: dict[int, _Stage] = {}

    def run(self, jobs: Iterator[Job[Result]]) -> Generator[tuple[int, Result]]:
        """Drive jobs as they come; each result with the number of its job, in the order they finish.

        Closing the iterator aborts what is under way.

        Raises:
            EngineError: the engine died; results that were given before stay valid.
        """
        under_way: dict[int, Job[Result]] = {}  # in the order of their numbers
        self._chains, self._stage_of = {}, {}
        numbered = enumerate(jobs)
        waiting = next(numbered, None)
        try:
            while under_way or waiting:
                while waiting and self._has_room(under_way, waiting):
                    number, job = waiting
                    try:
                        request = next(job.chain)
                        for completion in job.known:
                            request = job.chain.send(completion)
                    except StopIteration as finished:
                        yield number, finished.value
                    else:
                        under_way[number] = job
                        self._move(number, job, _Stage(job.shots, len(job.known)))
                        self.engine.submit(number, request)
                    waiting = next(numbered, None)
                # Every chain goes on before a result is handed out: the engine works while the caller does.
                if under_way:
                    yield from self._advance(under_way)
        finally:
            self.engine.abort(list(under_way))

    def _advance(self, under_way: dict[int, Job[Result]]) -> list[tuple[int, Result]]:
        """Let the engine work, send its completions to their chains, submit what they ask next."""
        results = []
        completions = self.engine.step()
        if not completions:
            raise EngineError(f"the engine gave nothing back while {len(under_way)} requests were under way")
        for number, completion in completions:
            if number not in under_way:
                raise EngineError(f"the engine answered request {number}, which is not under way; nothing was mixed up")
            self._seen_tokens += len(completion.token_ids)
            self._seen += 1
            job = under_way[number]
            if job.keep:
                job.keep(completion)
            try:
                request = job.chain.send(completion)
            except StopIteration as finished:
                del under_way[number]
                self._move(number, job, None)
                results.append((number, finished.value))
            else:
                stage = self._stage_of[number]
                self._move(number, job, _Stage(job.shots, stage.at + 1))
                self.engine.submit(number, request)
        return results

    def _has_room(self, under_way: dict[int, Job[Result]], waiting: tuple[int, Job[Result]]) -> bool:
        if not under_way:
            return True
        number, job = waiting
        if len(under_way) >= self.max_chains or number - next(iter(under_way)) >= RUN_AHEAD * self.max_chains:
            return False
        return self.room is None or self._will_fit(job, self.room)

    def _will_fit(self, job: Job[Result], room: int) -> bool:
        """Tell whether the cache will hold a new chain beside those under way, now and at each of its shots.

        They are taken to go on at one pace; where some fall behind, the engine puts off the last that came.
        """
        completion = self._seen_tokens / self._seen  # they mostly stay far below their limit
        at = len(job.known)
        needed = self._sizes(_Stage(job.shots, at), job.tokens / max(job.shots, 1) + completion)
        began = 0.0 if at else sum(needed)
        is_turn = True
        for stage, chains in self._chains.items():
            sizes = self._sizes(stage, chains.text_tokens / chains.number + completion)
            if stage.at == 0 and not at:
                # With chains of this size at every stage the cache is full: not more of them begin at a time.
                began += chains.number * sum(sizes)
                is_turn = began <= room
            for ahead, size in enumerate(sizes[: len(needed)]):
                needed[ahead] += chains.number * size
        return is_turn and max(needed) <= room

    def _sizes(self, stage: _Stage, shot: float) -> list[float]:
        """Give the tokens that a chain holds at each of its shots from this one on; `shot`: those of one shot."""
        last = max(stage.shots, stage.at + 1)
        # The oldest shots leave a prompt that grows too long.
        return [min(shot * (number + 1), self.engine.max_model_len) for number in range(stage.at, last)]

    def _move(self, number: int, job: Job[Result], to: _Stage | None) -> None:
        """Note at which stage a chain is; None: at none any more."""
        text_tokens = job.tokens / max(job.shots, 1)
        if (before := self._stage_of.pop(number, None)) is not None:
            chains = self._chains[before]
            chains.number -= 1
            chains.text_tokens -= text_tokens
            if not chains.number:
                del self._chains[before]
        if to is not None:
            self._stage_of[number] = to
            chains = self._chains.setdefault(to, _Chains())
            chains.number += 1
            chains.text_tokens += text_tokens
