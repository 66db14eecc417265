"""One server that speaks OpenAI's protocol: asked again where it fails in passing, its refusals in one line."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from ipt_datasets.errors import EngineError, RecipeError, one_line

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds between two attempts, drawn at random below a limit that doubles."""
LONGEST_RETRY_AFTER = 3600.0
"""Seconds; what a server asks to wait is waited for, up to this."""
OPENING_ATTEMPTS = 3
BUSY_ATTEMPTS = 4
"""How many times more often a server is asked that says it is busy: it lives."""

PASSING = {408, 409, 425, 429}
WRONG_SERVER = {401, 403, 404, 405}
"""Statuses that say something about the server and nothing about the request."""


class RefusedError(Exception):
    """The server does not take this request and lives; `status` is 0 where it tried and failed."""

    def __init__(self, said: str, status: int = 0) -> None:
        super().__init__(said)
        self.status = status


class GoneError(Exception):
    """The server answers no request any more."""


class _PassingError(Exception):
    def __init__(self, said: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(said)
        self.status, self.wait = status, wait
        self.is_busy = status == 429 or (status == 503 and wait > 0)


@dataclass(frozen=True, slots=True)
class Card:
    """A model that a server has: the name it is asked by, what it was loaded from, its length where that is told."""

    id: str
    root: str
    max_model_len: int | None


class Endpoint:
    """The connections to one server.

    Args:
        url: the base URL, which mostly ends in /v1.
        api_key: sent along, said nowhere.
        max_concurrency: the most requests at once.
        request_timeout: seconds until an answer must be there.
        max_retries: how often a request is sent before the server is looked at.

    Attributes:
        shown: the URL as messages show it.
        live: whether requests may be sent to it.
        well: a request that it has answered, to see whether it lives.

    Raises:
        RecipeError: this is no URL.
    """

    def __init__(
        self, url: str, api_key: str | None, max_concurrency: int, request_timeout: float, max_retries: int
    ) -> None:
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL:
            parsed = httpx2.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            given = url.rsplit("@", 1)[-1]
            raise RecipeError(f"server {given!r}: expected the base URL of a server, such as http://host:8000/v1")
        self._secrets = [secret for secret in (api_key, parsed.password) if secret]
        self.shown = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        self.live = True
        self.well: Mapping[str, Any] = {}
        self._url, self._max_retries = url.rstrip("/"), max_retries
        self._free = asyncio.Semaphore(max_concurrency)
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(request_timeout, connect=min(CONNECT_SECONDS, request_timeout), pool=None),
            verify=parsed.scheme == "https",  # reading all certificates for nothing would take a while
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=max_concurrency),
        )

    async def cards(self) -> list[Card]:
        """Give the models that the server has.

        Raises:
            EngineError: it does not answer, or not like such a server.
        """
        expected = "expected the base URL of an OpenAI-compatible server, which mostly ends in /v1"
        try:
            listed = await self._ask_again(OPENING_ATTEMPTS, "GET", "/models", None)
            known = {str(card["id"]): card for card in listed["data"]}
            cards = [_card(card, known) for card in listed["data"]]
        except (_PassingError, httpx2.TransportError) as error:
            raise EngineError(
                f"no server answers at {self.shown} ({self.said(error)}); {expected}; start it, or leave it out"
            ) from None
        except RefusedError as error:
            if error.status in (401, 403):
                raise EngineError(
                    f"{self.shown} wants another key ({error}); set OPENAI_API_KEY, or the engine's option api_key"
                ) from None
            raise EngineError(f"{self.shown} does not list its models ({error}); {expected}") from None
        except (TypeError, KeyError, AttributeError, ValueError):
            raise EngineError(f"{self.shown} lists its models in a form of its own; {expected}") from None
        if not cards:
            raise EngineError(f"{self.shown} has no model; start it with one")
        return cards

    async def try_once(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a completion at the opening.

        Raises:
            RefusedError: the server does not take this form of request.
            EngineError: it fails.
        """
        try:
            return await self._ask_again(OPENING_ATTEMPTS, "POST", "/completions", body)
        except (_PassingError, httpx2.TransportError) as error:
            if isinstance(error, _PassingError) and error.status >= 500:  # some fail where others refuse
                raise RefusedError(str(error), error.status) from None
            raise EngineError(
                f"{self.shown} lists its models and answers no request ({self.said(error)}); see what it logs"
            ) from None

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a completion, again and again where that may help.

        Raises:
            RefusedError: it does not answer this request, and others it does.
            GoneError: it answers nothing.
        """
        async with self._free:
            try:
                return await self._ask_again(self._max_retries, "POST", "/completions", body)
            except RefusedError as error:
                if error.status in WRONG_SERVER:
                    raise GoneError(str(error)) from None
                raise
            except (_PassingError, httpx2.TransportError) as error:
                said = self.said(error)
            # Is it the server or the request? One that kills every server must not end the run.
            try:
                await self._ask("POST", "/completions", self.well)
            except (_PassingError, RefusedError, httpx2.TransportError):
                raise GoneError(said) from None
            raise RefusedError(f"failed {self._max_retries} times: {said}")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    def said(self, error: BaseException) -> str:
        """Give what an exception says, as one line without a secret."""
        said = one_line(error)
        said = f"{type(error).__name__}: {said}" if isinstance(error, httpx2.TransportError) else said
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said

    async def _ask_again(self, attempts: int, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        def is_over(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            busy = isinstance(error, _PassingError) and error.is_busy
            return state.attempt_number >= attempts * (BUSY_ATTEMPTS if busy else 1)

        asking = AsyncRetrying(
            retry=retry_if_exception_type((_PassingError, httpx2.TransportError)),
            stop=is_over,
            wait=self._wait,
            reraise=True,
        )
        answer: dict[str, Any] = await asking(self._ask, method, path, body)
        return answer

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        response = await self._client.request(method, self._url + path, json=body)
        if response.status_code != 200:
            said = self.said(Exception(f"HTTP {response.status_code}: {_words(response)}"))
            if response.status_code in PASSING or response.status_code >= 500:
                raise _PassingError(said, response.status_code, _retry_after(response))
            raise RefusedError(said, response.status_code)
        try:
            answer = response.json()
        except ValueError:
            raise _PassingError(f"its answer is no JSON: {response.text[:100]!r}") from None
        if not isinstance(answer, dict) or (path == "/completions" and not _is_completion(answer)):
            raise _PassingError(f"its answer has another form: {response.text[:100]!r}")
        return answer

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, _PassingError) else 0.0
        if asked > LONGEST_WAIT:
            logger.warning("%s asks to wait %.0f s", self.shown, asked)
        return asked + wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)(state)


def _card(card: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Card:
    """Read a card; one of an adapter has no length of its own."""
    parent = known.get(str(card.get("parent")), {})
    length = card.get("max_model_len") or parent.get("max_model_len")
    return Card(str(card["id"]), str(card.get("root") or card["id"]), int(length) if length else None)


def _is_completion(answer: Mapping[str, Any]) -> bool:
    try:
        return isinstance(answer["choices"][0]["text"], str)
    except (KeyError, IndexError, TypeError):
        return False


def _words(response: httpx2.Response) -> str:
    """Give what a server says about an error; every kind of server has its own form."""
    try:
        error = response.json()
    except ValueError:
        return response.text[:300] or response.reason_phrase
    for key in ("error", "message", "detail"):
        error = error.get(key, error) if isinstance(error, dict) else error
    return str(error)[:300]


def _retry_after(response: httpx2.Response) -> float:
    """Give the seconds that a server asks to wait: it writes a number or a date."""
    written = response.headers.get("Retry-After", "")
    try:
        return min(max(0.0, float(written)), LONGEST_RETRY_AFTER)
    except ValueError:
        pass
    try:
        seconds = parsedate_to_datetime(written).timestamp() - time.time()
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
    except (ValueError, TypeError):
        return 0.0
