"""What every route needs: requests, answers, the state, and who may do what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loopback_hub.store import Account, HubError, Repo


@dataclass
class Request:
    method: str
    path: str  # quoted, as it came
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Response:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> "Response":
        return cls(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


def error_headers(error: HubError) -> dict[str, str]:
    """Give the headers by which clients tell errors apart."""
    return {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {})}


class Base:
    """The state behind the routes.

    Attributes:
        accounts: by token.
        repos: by kind ("dataset", "model", "space") and id.
        large: large files by sha256.
        page_size: entries of one page of a tree.
        part_size: large files above this size are uploaded in parts; None: never.
        asks_to_verify: whether clients are asked to confirm uploads of large files.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.accounts = {
            "hf_writer": Account("me", ("lab",)),
            "hf_reader": Account("me", ("lab",), role="read"),
            "hf_fine": Account("me", ("lab",), role="fineGrained"),
            "hf_other": Account("other"),
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.page_size = 1000
        self.part_size: int | None = None
        self.asks_to_verify = True

    # -- who asks, and for what

    def account(self, request: Request, *, needed: bool = False) -> Account | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.accounts:
            raise HubError(401, "Invalid username or password.")
        if needed and not token:
            raise HubError(401, "Invalid username or password.")
        return self.accounts.get(token)

    def repo(self, request: Request, kind: str, repo_id: str, *, write: bool = False) -> Repo:
        account = self.account(request)
        kind = kind.rstrip("/").removesuffix("s") or "model"
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and not (account and account.owns(repo.namespace))):
            raise HubError(404 if account else 401, "Repository not found", "RepoNotFound")
        if write and account is None:
            raise HubError(401, "Invalid username or password.")
        if write and not (account.owns(repo.namespace) and account.role != "read"):
            raise HubError(403, "Forbidden: you must have write access to this repository")
        return repo
