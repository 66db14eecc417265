"""A dataset repository on the Hub: asked again where it fails in passing, its errors in one line."""

import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

import huggingface_hub.errors as hub_errors
from huggingface_hub import HfApi, HfFileSystem, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ipt_datasets.errors import OutputError, RecipeError, one_line

ATTEMPTS = 6
FIRST_WAIT = 1.0
LONGEST_WAIT = 600.0
"""Seconds; a Hub that limits rates says how long to wait, at most some minutes."""

# The Hub is busy (408, 425, 429, 5xx), or somebody else has just committed (409, 412): asking again may help.
PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_HTTPError: type[Exception] = hub_errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it stands on

HUB_FAILURES = (_HTTPError, OSError, RuntimeError, ValueError)
"""What the Hub's client raises when the Hub, the connection or one of its threads fails."""

T = TypeVar("T")


class HubRepo:
    """One dataset repository.

    Args:
        repo_id: "NAME" of the user's own, or "NAMESPACE/NAME".
        token: None: the one of the environment or the login.
        endpoint: of the Hub; None: HF_ENDPOINT or the public one.

    Raises:
        RecipeError: no repository can have this name.
        OutputError: there is no token, or the Hub does not know it or cannot be reached.
    """

    def __init__(self, repo_id: str, token: str | None = None, endpoint: str | None = None) -> None:
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise RecipeError(f"{one_line(error)} Expected NAMESPACE/NAME, e.g. me/augmented") from None
        self.id = repo_id
        self._token = (token or get_token() or "").strip()
        if not self._token:
            raise OutputError("there is no token for the Hub; log in with `hf auth login` or set HF_TOKEN")
        if not self._token.isascii() or not self._token.isprintable() or " " in self._token:
            raise OutputError("the token for the Hub holds characters that no token has; set HF_TOKEN anew")
        self.api = HfApi(
            endpoint=endpoint,
            token=self._token,
            library_name="ipt-datasets",
            library_version=version("ipt-datasets"),
        )
        self._files = HfFileSystem(endpoint=self.api.endpoint, token=self._token, skip_instance_cache=True)
        name = self.ask(self.api.whoami)["name"]
        if "/" not in repo_id:
            self.id = f"{name}/{repo_id}"

    def holds_token(self, text: str) -> bool:
        """Tell whether a text that is to be published gives the token away."""
        return self._token in text

    def ask(self, question: Callable[..., T], *args: Any, **options: Any) -> T:
        """Ask the Hub, several times if it fails in passing; what is asked must bear that.

        Raises:
            OutputError: it does not answer, or refuses.
        """
        try:
            return patiently()(question, *args, **options)
        except HUB_FAILURES as error:
            raise self.explained(error) from None

    def info(self, revision: str | None = None) -> Any:
        """Give what the Hub says of the repository, None where it is not there for this token."""
        try:
            return patiently()(self.api.dataset_info, self.id, revision=revision)
        except HfHubHTTPError as error:
            if error.response.status_code == 404:
                return None
            raise self.explained(error) from None
        except HUB_FAILURES as error:
            raise self.explained(error) from None

    def head(self, revision: str) -> str:
        """Give the commit that a branch or reference names now."""
        return str(self.ask(self.api.dataset_info, self.id, revision=revision).sha)

    def tree(self, commit: str) -> dict[str, RepoFile]:
        """List the files of a commit by their paths."""

        def listed() -> list[Any]:
            return list(self.api.list_repo_tree(self.id, recursive=True, revision=commit, repo_type="dataset"))

        return {entry.path: entry for entry in self.ask(listed) if isinstance(entry, RepoFile)}

    def open(self, commit: str, path: str) -> Any:
        """Open a file of a commit; only what is read of it is transferred."""
        return self._files.open(f"datasets/{self.id}@{commit}/{path}", "rb", cache_type="none")

    def read(self, commit: str, path: str) -> bytes:
        """Read a small file of a commit."""

        def content() -> bytes:
            return bytes(self._files.cat_file(f"datasets/{self.id}@{commit}/{path}"))

        return self.ask(content)

    def explained(self, error: BaseException) -> OutputError:
        """Say in one line, without the token, what an exception of the client means and what to do."""
        if isinstance(error, OutputError):
            return error
        cause = _http_cause(error)
        said = one_line(cause).replace(self._token, "<token>")
        if isinstance(error, OfflineModeIsEnabled):
            return OutputError("the Hub cannot be asked while HF_HUB_OFFLINE is set; unset it")
        status = _status(cause)
        told = said
        if isinstance(cause, HfHubHTTPError) and cause.server_message:
            told = one_line(ValueError(cause.server_message)).replace(self._token, "<token>")
        if status == 401:
            advice = "the Hub does not take the token (401); log in anew with `hf auth login` or set HF_TOKEN"
        elif status == 403:
            advice = f"the token may not write to {self.id} (403: {told}); use one with write access to its namespace"
        elif status == 404:
            advice = f"{self.id} is not there, or the token may not see it (404: {told}); check name, branch and token"
        elif status in (409, 412):
            advice = f"others commit to {self.id} all the time ({status}: {told}); publish again later"
        elif status == 429:
            advice = f"the Hub limits the rate of requests (429: {told}); publish again later: what is there stays"
        elif status:
            advice = f"the Hub answered {status} to what {self.id} needs ({told}); publish again: what is there stays"
        elif isinstance(cause, _HTTPError):
            advice = f"the connection to {self.api.endpoint} failed ({type(cause).__name__}: {told}); publish again"
        else:
            advice = f"{self.id}: {type(cause).__name__}: {told}"
        return OutputError(advice)


def patiently() -> Retrying:
    """Give a loop that asks again when the Hub fails in passing, and waits as long as it is told to."""
    return Retrying(
        stop=stop_after_attempt(ATTEMPTS), wait=_wait, retry=retry_if_exception(fails_in_passing), reraise=True
    )


def fails_in_passing(error: BaseException) -> bool:
    """Tell whether asking again may help."""
    cause = _http_cause(error)
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    if status := _status(cause):
        return status in PASSING
    # Something between us and the Hub answers with a page of its own, which is not JSON.
    return isinstance(cause, _HTTPError | json.JSONDecodeError)


def _http_cause(error: BaseException) -> BaseException:
    """Find what failed: the client packs errors of its upload threads into others."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _HTTPError):
            return cause
        cause = cause.__cause__
    return error


def _status(error: BaseException) -> int:
    return int(error.response.status_code) if isinstance(error, HfHubHTTPError) else 0


def _wait(state: RetryCallState) -> float:
    drawn = wait_random_exponential(multiplier=FIRST_WAIT, max=30 * FIRST_WAIT)(state)
    error = _http_cause(state.outcome.exception() or Exception()) if state.outcome else None
    if isinstance(error, HfHubHTTPError):
        told = error.response.headers.get("Retry-After", "")
        if told.isdecimal():
            return min(float(told), LONGEST_WAIT) + drawn
    return drawn
