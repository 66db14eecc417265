"""What a Hub on loopback holds: accounts, repositories, their commits and references, and large files. In memory."""

import hashlib
import itertools
import time
from dataclasses import dataclass, field

LFS_SUFFIXES = (".parquet", ".arrow", ".bin", ".safetensors", ".gz", ".zst")
LFS_SIZE = 1024 * 1024
GIT_ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"


class HubError(Exception):
    """An answer that is no success: its status, what it says, and the code by which clients choose their exception."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Account:
    """Whom a token stands for."""

    name: str
    organizations: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class File:
    """One file of a commit; `sha256` for large ones."""

    content: bytes
    sha256: str = ""

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def oid(self) -> str:
        """The id that git gives to what it stores: the content, or the pointer to a large file."""
        stored = self.pointer if self.sha256 else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class PullRequest:
    number: int
    title: str
    author: str
    status: str = "open"


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)
    _ids: itertools.count = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.refs["refs/heads/main"] = self.commit(
            None, {".gitattributes": File(GIT_ATTRIBUTES)}, "initial commit", "", self.namespace
        )

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def commit(self, parent: str | None, files: dict[str, File], title: str, message: str, author: str) -> str:
        """Add a commit, which no reference names yet; gives its id."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        oid = hashlib.sha1(f"{self.kind} {self.id} {next(self._ids)} {parent} {title}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, message, author, now, files)
        return oid

    def resolve(self, revision: str) -> Commit:
        """Find the commit that a branch, a tag, a reference or a commit id names."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if revision in self.commits:
            return self.commits[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def ref_of(self, revision: str) -> str:
        """Give the reference that a commit to `revision` moves."""
        for name in (revision, f"refs/heads/{revision}"):
            if name in self.refs:
                return name
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str = "main") -> list[Commit]:
        """Give the commits behind a revision, the newest first."""
        commits = [self.resolve(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def open_pull_request(self, title: str, author: str, oid: str) -> PullRequest:
        request = PullRequest(len(self.pull_requests) + 1, title, author)
        self.pull_requests.append(request)
        self.refs[f"refs/pr/{request.number}"] = oid
        return request


def is_large(path: str, size: int) -> bool:
    """Tell whether a Hub takes a file as a large one; empty ones it never does."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)
