"""Drives many chains over one engine, depth first.

Shot r+1 of a chain is submitted the moment shot r is parsed, before any new chain starts, so that the engine still
holds the chain's prefix. Only as many chains are under way as its KV cache holds: with more, a chain's blocks would
be evicted before its next shot and computed again (what rounds with a barrier do on any large corpus).
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import Completion, Engine, Request

Result = TypeVar("Result")

RUN_AHEAD = 8
"""How many times the chains under way a slow chain may be overtaken, so that what waits for it stays bounded."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Result]):
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
        # Of the chains under way: the tokens of their texts, and how many of them ask for so many completions.
        self._text_tokens, self._chains_of = 0, Counter[int]()

    def run(self, jobs: Iterator[Job[Result]]) -> Generator[tuple[int, Result]]:
        """Drive jobs as they come; each result with the number of its job, in the order they finish.

        Closing the iterator aborts what is under way.

        Raises:
            EngineError: the engine died; results that were given before stay valid.
        """
        under_way: dict[int, Job[Result]] = {}  # in the order of their numbers
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
                        self._count(job, 1)
                        self.engine.submit(number, request)
                    waiting = next(numbered, None)
                # Every chain goes on before a result is handed out: the engine works while the caller does.
                if under_way:
                    yield from self._advance(under_way)
        finally:
            self.engine.abort(list(under_way))
            for job in under_way.values():
                self._count(job, -1)

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
                self._count(job, -1)
                results.append((number, finished.value))
            else:
                self.engine.submit(number, request)
        return results

    def _has_room(self, under_way: dict[int, Job[Result]], waiting: tuple[int, Job[Result]]) -> bool:
        if not under_way:
            return True
        number, job = waiting
        if len(under_way) >= self.max_chains or number - next(iter(under_way)) >= RUN_AHEAD * self.max_chains:
            return False
        if self.room is None:
            return True
        needed = self._text_tokens + sum(n * self._expected(shots) for shots, n in self._chains_of.items())
        return needed + job.tokens + self._expected(job.shots) <= self.room

    def _expected(self, shots: int) -> int:
        """Estimate the tokens of a chain's completions; they mostly stay far below their limit."""
        return shots * self._seen_tokens // self._seen

    def _count(self, job: Job[Result], chains: int) -> None:
        self._text_tokens += chains * job.tokens
        self._chains_of[job.shots] += chains
