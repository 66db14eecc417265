"""Servers of OpenAI's protocol (`vllm serve` and its like), several at once: any number of machines behind one run."""

import asyncio
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from ipt_datasets.errors import EngineError, one_line
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.endpoint import Card, Endpoint, GoneError, RefusedError
from ipt_datasets.synthesis.engines.opening import (
    check_arguments,
    check_lengths,
    check_untold_length,
    choose_card,
    find_form,
    own_length,
)
from ipt_datasets.synthesis.engines.wire import Form, end_ids, read_answer
from ipt_datasets.synthesis.tokens import PromptTokenizer, load_tokenizer

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Run:
    """A request under way, and its prompt in every form that a server here takes."""

    request_id: int
    request: Request
    prompts: dict[Form, list[int] | str]
    task: "asyncio.Task[None] | None" = None


class ServerEngine:
    """A model that servers run; requests go to them side by side from a thread of its own.

    A chain stays with the server that has its prefix in the cache. One that does not answer any more is taken out, and
    its requests go to the others.

    Args:
        model: folder or Hub id of the model, for its tokenizer and its length.
        servers: base URLs, such as http://host:8000/v1; none: those of the variable OPENAI_BASE_URL, between commas.
        name: what the recipe calls the model, where that is not `model`.
        revision: commit of a Hub id.
        max_model_len: prompt and completion together; None: the model's own, 4096 at most.
        tokenizer: None: the model's own.
        served_model: what the model is called on the servers; None: the one that bears the model's name there.
        api_key: None: that of the variable OPENAI_API_KEY.
        max_concurrency: the most requests at once, a server.
        request_timeout: seconds until a completion must be there.
        max_retries: how often a request is sent before its server is taken for dead.
        unknown: options of other engines, which are an error here.

    Raises:
        EngineError: a server does not answer, or has another model, a shorter one, or another tokenizer.
    """

    kind = "server"

    def __init__(
        self,
        model: str | Path,
        servers: Sequence[str] = (),
        *,
        name: str | None = None,
        revision: str | None = None,
        max_model_len: int | None = None,
        tokenizer: PromptTokenizer | None = None,
        served_model: str | None = None,
        api_key: str | None = None,
        max_concurrency: int = 64,
        request_timeout: float = 600.0,
        max_retries: int = 8,
        **unknown: Any,
    ) -> None:
        urls = [servers] if isinstance(servers, str) else list(servers)
        urls = urls or [url.strip() for url in os.environ.get("OPENAI_BASE_URL", "").split(",") if url.strip()]
        check_arguments(urls, max_concurrency, request_timeout, max_retries, unknown)
        self.tokenizer: PromptTokenizer = tokenizer or load_tokenizer(model, revision)
        self.max_requests = max_concurrency * len(urls)
        self.kv_tokens: int | None = None
        self._dead = ""
        self._done: queue.SimpleQueue[tuple[_Run, Completion | dict[str, Any]] | None] = queue.SimpleQueue()
        self._under_way: dict[int, _Run] = {}
        self._ends = end_ids(self.tokenizer)
        self._answered: set[int] = set()  # ids that the last step gave back and that were not submitted again
        # What follows belongs to the thread, apart from reading.
        self._runs: dict[int, _Run] = {}
        self._homes: dict[int, Endpoint] = {}
        self._forms: dict[Endpoint, Form] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ipt-servers", daemon=True)
        self._thread.start()
        key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip() or None
        # The name that messages show first, then what a server may have loaded the model from.
        names = dict.fromkeys([name or str(model), str(model), *([revision] if revision else [])])
        try:
            for url in urls:
                self._forms[Endpoint(url, key, max_concurrency, request_timeout, max_retries)] = Form("")
            cards = self._wait_for(self._open(list(names), served_model))
            self.max_model_len = max_model_len or own_length(model, revision, cards)
            check_lengths(cards, self.max_model_len)
            self._wait_for(self._check_untold_lengths(cards))
        except BaseException:
            self.close()
            raise

    def submit(self, request_id: int, request: Request) -> None:
        """Send a request to the server of its chain."""
        if self._dead:
            raise EngineError(self._dead)
        self._answered.discard(request_id)
        limit = min(request.max_tokens, self.max_model_len - len(request.prompt))
        if not request.prompt or limit < 1:
            said = (
                f"{len(request.prompt)} tokens of prompt and {request.max_tokens} to generate; expected at least one "
                f"of each, together at most max_model_len={self.max_model_len}"
            )
            self._under_way[request_id] = _Run(request_id, request, {})
            self._done.put((self._under_way[request_id], Completion([], "error", error=said)))
            return
        # Tokenizers bear no second thread: whatever needs one happens in the caller's.
        prompts = {form: form.prompt(request.prompt, self.tokenizer) for form in set(self._forms.values())}
        run = self._under_way[request_id] = _Run(request_id, request._replace(max_tokens=limit), prompts)
        self._loop.call_soon_threadsafe(self._start, run)

    def step(self) -> list[tuple[int, Completion]]:
        """Wait until a request has finished; give all that have."""
        # A chain that did not go on since the last step has ended.
        self._forget(self._answered)
        self._answered = set()
        finished: list[tuple[int, Completion]] = []
        while self._under_way and not (finished and self._done.empty()):
            item = None if self._dead and self._done.empty() else self._done.get()
            if item is None:
                if finished:
                    break
                raise EngineError(self._dead)
            run, answer = item
            if self._under_way.get(run.request_id) is run:  # else it was aborted
                del self._under_way[run.request_id]
                self._answered.add(run.request_id)
                if not isinstance(answer, Completion):
                    answer = read_answer(answer, run.request, self.tokenizer)
                finished.append((run.request_id, answer))
        return finished

    def abort(self, request_ids: list[int]) -> None:
        """Hang up on requests, so that their servers stop working on them."""
        for request_id in request_ids:
            self._under_way.pop(request_id, None)
        self._forget(request_ids)

    def close(self) -> None:
        """Hang up on all servers."""
        if self._loop.is_closed():
            return
        self._dead = self._dead or "this server engine is closed; build another one"
        self._wait_for(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _forget(self, request_ids: Sequence[int] | set[int]) -> None:
        if request_ids and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._leave, list(request_ids))

    # From here on everything runs in the thread.

    async def _open(self, names: Sequence[str], served_model: str | None) -> dict[Endpoint, Card]:
        """Look at every server before the first request: its model, its length, the form that it takes."""
        opened = await _all(self._open_one(endpoint, names, served_model) for endpoint in self._forms)
        cards: dict[Endpoint, Card] = dict(zip(list(self._forms), opened, strict=True))
        roots = {PurePath(card.root).name: endpoint for endpoint, card in cards.items()}
        if served_model and len(roots) > 1:
            told = ", ".join(f"{cards[endpoint].root} at {endpoint.shown}" for endpoint in roots.values())
            raise EngineError(f"{served_model!r} is not the same model on all servers: {told}; serve one model on all")
        return cards

    async def _check_untold_lengths(self, cards: dict[Endpoint, Card]) -> None:
        await _all(
            check_untold_length(endpoint, self._forms[endpoint], self.max_model_len, self.tokenizer)
            for endpoint, card in cards.items()
            if not card.max_model_len
        )

    async def _open_one(self, endpoint: Endpoint, names: Sequence[str], served_model: str | None) -> Card:
        card = choose_card(endpoint, await endpoint.cards(), names, served_model)
        self._forms[endpoint] = await find_form(endpoint, card.id, self.tokenizer)
        return card

    def _start(self, run: _Run) -> None:
        if not self._dead:
            self._home_of(run.request_id)
            self._runs[run.request_id] = run
            run.task = self._loop.create_task(self._work(run))

    async def _work(self, run: _Run) -> None:
        try:
            answer = await self._ask(run)
        except EngineError as error:
            self._die(str(error))
        except Exception as error:  # whoever waits for this request must hear of it
            self._die(f"the server engine failed ({type(error).__name__}: {one_line(error)}); start it again")
        else:
            if self._runs.get(run.request_id) is run:
                del self._runs[run.request_id]
            self._done.put((run, answer))

    async def _ask(self, run: _Run) -> Completion | dict[str, Any]:
        while True:
            endpoint = self._home_of(run.request_id)
            form = self._forms[endpoint]
            try:
                return await endpoint.complete(form.body(run.request, run.prompts[form], self._ends))
            except RefusedError as refusal:
                return Completion([], "error", error=f"{endpoint.shown} refused the request: {refusal}")
            except GoneError as error:
                self._take_out(endpoint, str(error))

    def _home_of(self, request_id: int) -> Endpoint:
        """Give the server of a chain; a new one goes where the fewest chains are."""
        if request_id not in self._homes:
            load = Counter(self._homes[other] for other in self._runs if other in self._homes)
            self._homes[request_id] = min((endpoint for endpoint in self._forms if endpoint.live), key=load.__getitem__)
        return self._homes[request_id]

    def _leave(self, request_ids: Sequence[int]) -> None:
        for request_id in request_ids:
            run = self._runs.pop(request_id, None)
            if run and run.task:
                run.task.cancel()
            self._homes.pop(request_id, None)

    def _take_out(self, endpoint: Endpoint, said: str) -> None:
        """Use a server no more and send its requests to the others.

        Raises:
            EngineError: there is no other.
        """
        endpoint.live = False
        moved = [request_id for request_id, home in self._homes.items() if home is endpoint]
        for request_id in moved:
            del self._homes[request_id]
        left = sum(other.live for other in self._forms)
        if not left:
            raise EngineError(
                f"no server answers any more, the last was {endpoint.shown} ({said}); what was finished is kept; start "
                "servers and go on where this run stopped"
            )
        logger.warning("%s is taken out: %s; %d servers go on with its requests", endpoint.shown, said, left)
        for request_id in moved:
            run = self._runs.get(request_id)
            if run and run.task and run.task is not asyncio.current_task():
                run.task.cancel()
                self._start(run)

    def _die(self, said: str) -> None:
        self._dead = self._dead or said
        self._leave(list(self._runs))
        self._done.put(None)

    async def _hang_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self._forms:
            await endpoint.close()


async def _all(looks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Look at each server whatever the others say, so that none is left in the middle; then raise the first error."""
    found = await asyncio.gather(*looks, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]
