"""All devices of one machine: an engine made of several processes, each with an engine of its own.

Chains, journal and shards stay in the process that asks, so a run with workers is the same run. A chain stays with its
worker, which has its prefix in the cache. When a worker dies, the others get its requests and it is started again.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ipt_datasets.errors import EngineError
from ipt_datasets.recipe import Recipe
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.worker_process import WorkerProcess, describe_end, environments
from ipt_datasets.synthesis.tokens import PromptTokenizer, load_tokenizer

logger = logging.getLogger(__name__)

MAX_RESTARTS = 2
"""How often one worker is started again."""

CLOSING_SECONDS = 5.0
"""How long the workers have to free their models before they are killed."""

SPARE = 1
"""Requests that wait at a worker: where a row ends, one goes on while the chain's next shot is still on its way."""


@dataclass(slots=True, eq=False)
class _Worker:
    """A place for a process; `requests` and `tokens` are what is under way there."""

    number: int
    environment: Mapping[str, str]
    process: WorkerProcess | None = None
    is_ready: bool = False
    restarts: int = 0
    max_model_len: int = 0
    max_requests: int = 0
    kv_tokens: int | None = None
    requests: int = 0
    tokens: int = 0
    failure: str = ""


@dataclass(slots=True, eq=False)
class _Asked:
    """A request under way; without a worker it waits for one."""

    request_id: int
    request: Request
    worker: _Worker | None = None

    @property
    def tokens(self) -> int:
        return len(self.request.prompt) + self.request.max_tokens


class WorkersEngine:
    """Several engines of one kind in processes of their own.

    Each process sees its own GPUs only, or has its share of the cores where there are none.

    Args:
        recipe: names the engine, the markup and the length.
        model: where the model is: a folder or a Hub id.
        revision: of a Hub id.
        options: the engine's own, for every worker.
        workers: how many processes.

    Raises:
        RecipeError: there are GPUs, and fewer than the workers need; or the options cannot be sent to a process.
        EngineError: a worker cannot load the model.
    """

    def __init__(
        self, recipe: Recipe, model: str | Path, revision: str | None, options: Mapping[str, Any], workers: int
    ) -> None:
        self.kind = recipe.engine
        self._dead = ""
        self._has_begun = False
        self._task = (recipe, model, revision, dict(options))
        self._asked: dict[int, _Asked] = {}  # by ticket: an id may come again while an old answer is on its way
        self._tickets: dict[int, int] = {}  # by request id
        self._next_ticket = 0
        self._homes: dict[int, _Worker] = {}  # where the requests ran that the last step handed out
        found = enumerate(environments(workers, recipe.engine, options), 1)
        self._workers = [_Worker(number, environment) for number, environment in found]
        try:
            for worker in self._workers:
                worker.process = WorkerProcess(worker.environment, self._task)
            self.tokenizer = _load_tokenizer(recipe.engine, model, revision)
            while not all(worker.is_ready for worker in self._workers):
                self._hear()
                for worker in self._workers:
                    if worker.process is None:
                        raise EngineError(f"worker {worker.number} of {workers} cannot start: {worker.failure}")
        except BaseException:
            self.close()
            raise
        self._has_begun = True
        held = [worker.kv_tokens for worker in self._workers]
        self.max_model_len = min(worker.max_model_len for worker in self._workers)
        self.max_requests = sum(worker.max_requests + SPARE for worker in self._workers)
        self.kv_tokens = None if None in held else sum(tokens or 0 for tokens in held)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [worker.process.pid for worker in self._workers if worker.process]

    def submit(self, request_id: int, request: Request) -> None:
        """Give a request to the worker that had the chain's last one, else to the one with the least to do."""
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        self._asked[ticket] = _Asked(request_id, request)
        self._tickets[request_id] = ticket
        self._place(ticket)

    def step(self) -> list[tuple[int, Completion]]:
        """Wait until a worker has finished requests; give them."""
        finished: list[tuple[int, Completion]] = []
        self._homes = {}
        while self._asked and not finished and not self._dead:
            finished = self._hear()
        if self._dead and not finished:
            raise EngineError(self._dead)
        return finished

    def abort(self, request_ids: list[int]) -> None:
        """Take requests from their workers."""
        taken: dict[_Worker, list[int]] = {}
        for request_id in request_ids:
            if (ticket := self._tickets.pop(request_id, None)) is None:
                continue
            asked = self._asked.pop(ticket)
            if asked.worker:
                self._free(asked)
                taken.setdefault(asked.worker, []).append(ticket)
        for worker, tickets in taken.items():
            if worker.process:
                worker.process.send(("abort", tickets))

    def close(self) -> None:
        """End the processes."""
        self._dead = self._dead or "these workers are closed; build others"
        deadline = time.monotonic() + CLOSING_SECONDS
        for worker in self._workers:
            if worker.process and worker.is_ready:
                worker.process.send(("close",))
        for worker in self._workers:
            if worker.process:
                worker.process.end(deadline - time.monotonic() if worker.is_ready else 0.0)
            worker.process, worker.is_ready = None, False
        self._asked, self._tickets, self._homes = {}, {}, {}

    def _place(self, ticket: int) -> None:
        asked = self._asked[ticket]
        ready = [worker for worker in self._workers if worker.is_ready]
        if not ready:
            return
        home = self._homes.get(asked.request_id)
        worker = home if home in ready else min(ready, key=_load)
        asked.worker = worker
        worker.requests += 1
        worker.tokens += asked.tokens
        if worker.process:
            worker.process.send(("submit", ticket, asked.request))

    def _free(self, asked: _Asked) -> None:
        if asked.worker:
            asked.worker.requests -= 1
            asked.worker.tokens -= asked.tokens

    def _hear(self) -> list[tuple[int, Completion]]:
        """Wait until a worker says something or dies, and heed it; give the requests that are finished."""
        finished = []
        talking = {worker.process.connection: worker for worker in self._workers if worker.process}
        for connection in wait(list(talking)):
            worker = talking[connection]  # type: ignore[index]
            if worker.process is None:
                continue
            messages, is_over = worker.process.receive()
            for what, *told in messages:
                if what == "finished":
                    finished += self._take(worker, *told)
                elif what == "log":
                    level, said = told
                    logger.log(level, "worker %d: %s", worker.number, said)
                elif what == "failed":
                    [worker.failure] = told
                else:
                    worker.max_model_len, worker.max_requests, worker.kv_tokens = told
                    worker.is_ready = True
                    self._place_waiting()
            if is_over:
                self._bury(worker)
        return finished

    def _take(self, worker: _Worker, answers: list[tuple[int, Completion]]) -> list[tuple[int, Completion]]:
        """Give the answers under their requests' ids, without those that nobody waits for any more."""
        finished = []
        for ticket, completion in answers:
            if asked := self._asked.pop(ticket, None):
                self._free(asked)
                del self._tickets[asked.request_id]
                self._homes[asked.request_id] = worker
                finished.append((asked.request_id, completion))
        return finished

    def _place_waiting(self) -> None:
        for ticket, asked in self._asked.items():
            if asked.worker is None:
                self._place(ticket)

    def _bury(self, worker: _Worker) -> None:
        """Hand the requests of a dead worker to the others, and start it again in the background."""
        if worker.process is None:
            return
        ended, said = describe_end(worker.process.end()), worker.failure or worker.process.last_words()
        was_ready, worker.is_ready, worker.process = worker.is_ready, False, None
        worker.failure = said if worker.failure else f"it {ended}{f' and said last: {said}' if said else ''}"
        if not self._has_begun:
            return  # all workers are needed to begin
        worker.requests = worker.tokens = 0
        orphans = [asked for asked in self._asked.values() if asked.worker is worker]
        for asked in orphans:
            asked.worker = None
        then = "is not started again"
        if worker.restarts < MAX_RESTARTS:
            worker.restarts += 1
            try:
                worker.process = WorkerProcess(worker.environment, self._task)
                then = f"is started again ({worker.restarts} of at most {MAX_RESTARTS} times)"
            except EngineError as error:
                then = f"cannot be started again: {error}"
        logger.warning(
            "worker %d of %d %s%s; it %s and %s; %d requests go to others",
            worker.number,
            len(self._workers),
            "" if was_ready else "did not come up again: it ",
            ended,
            f"said last: {said}" if said else "said nothing",
            then,
            len(orphans),
        )
        worker.failure, last = "", worker.failure
        if not self.pids:
            self._dead = (
                f"all {len(self._workers)} workers died, worker {worker.number} as the last: {last}; start again, "
                "with fewer workers or less work at once if memory ran out"
            )
        self._place_waiting()


def _load(worker: _Worker) -> tuple[bool, int]:
    """Tell how busy a worker is: one with a free row comes first, whatever it reads."""
    return worker.requests >= worker.max_requests + SPARE, worker.tokens


def _load_tokenizer(engine: str, model: str | Path, revision: str | None) -> PromptTokenizer:
    """Load what prompts need, without the weights."""
    if engine == "scripted":
        from ipt_datasets.synthesis.engines.scripted import ScriptedTokenizer

        return ScriptedTokenizer()
    return load_tokenizer(model, revision)
