"""`publish`: put a finished folder on the Hub in one commit, so that nobody ever loads half a corpus."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from ipt_datasets.corpus import provenance
from ipt_datasets.corpus.folder import CARD
from ipt_datasets.corpus.hub_repo import HUB_FAILURES, HubRepo, patiently
from ipt_datasets.corpus.publication import Publication, open_finished, read_publication
from ipt_datasets.corpus.repo_card import merged_card
from ipt_datasets.corpus.verify import is_ours, verify
from ipt_datasets.errors import OutputError, RecipeError

FILES_A_BATCH = 50
"""So many files are uploaded before the Hub is asked again which ones it lacks."""

_LOOKS_LIKE_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` did.

    Attributes:
        repo_id: with its namespace.
        revision: the branch, or the reference of the pull request.
        commit: the one that holds the corpus; "" for a dry run.
        url: where to look at it.
        rows: of each config, as counted at that commit (for a dry run, in the folder).
        changed: files that are new or other than before, the card among them; none: there is no new commit.
        deleted: shards of an earlier publication of the same configs.
        is_new: whether the repository was made.
    """

    repo_id: str
    revision: str
    commit: str
    url: str
    rows: Mapping[str, int]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    is_new: bool


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    config_name: str | None = None,
    license: str | None = None,  # noqa: A002 (the name that cards give it)
    commit_message: str | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Put a folder that a command wrote on the Hub, and check that it arrived.

    All files are uploaded first; then one commit puts them in place, the card with them, and takes away the shards
    of an earlier publication of the same configs. Publishing again after a break uploads what is missing; without a
    change there is no commit. What a person wrote on the card, and other configs, stay.

    Args:
        folder: a finished one.
        repo_id: "NAME", "NAMESPACE/NAME"; the repository is made if it is not there.
        token: None: the one of the environment or the login.
        private: whether a new repository is private; None: as its namespace has it.
        branch: made if it is not there; None: main.
        create_pr: open a pull request instead.
        config_name: what the folder's default config is called on the Hub, others NAME-THEIRS; for several
            publications in one repository. None: all keep their names.
        license: of the published data, for the card.
        commit_message: None: one that names the configs.
        endpoint: of the Hub; None: HF_ENDPOINT or the public one.
        dry_run: find out what would be done, and change nothing.

    Raises:
        OutputError: the folder is not finished, in use or damaged; the Hub cannot be reached or refuses; or what is
            there after the commit is not what was published.
        RecipeError: settings contradict each other, or no repository can have this name.
    """
    if branch and create_pr:
        raise RecipeError(f"branch={branch!r} and create_pr: a pull request has a branch of its own; leave one out")
    with open_finished(Path(folder)) as opened:
        repo = HubRepo(repo_id, token, endpoint)
        there = repo.info()
        check_target(repo, there, private, create_pr)
        publication = read_publication(opened, config_name)
        _check_secrets(publication, repo)
        job = _Job(
            repo,
            publication,
            provenance.section(publication, repo.id, repo.api, license),
            branch or "main",
            create_pr,
            license,
            commit_message or f"Publish {', '.join(config.name for config in publication.configs)}",
        )
        if dry_run:
            revision = branch or "main"
            head = (repo.info(revision) or there) if there else None  # a new branch begins where main is
            changes = job.changes(head.sha if head else None)
            return job.published("", revision, changes, is_new=there is None)
        if there is None:
            repo.ask(repo.api.create_repo, repo.id, private=private, repo_type="dataset", exist_ok=True)
        if branch:
            repo.ask(repo.api.create_branch, repo.id, branch=branch, repo_type="dataset", exist_ok=True)
        commit, revision, changes = job.run()
        verify(repo, commit, publication, job.hashes)
        return job.published(commit, revision, changes, is_new=there is None)


@dataclass(slots=True)
class _Changes:
    """What a commit does to a head.

    Attributes:
        head: the commit that it builds on.
        additions: every file of the publication, also those that are there already.
        changed: the paths of those that are not.
        deleted: the paths of shards that an earlier publication left.
    """

    head: str | None
    additions: list[CommitOperationAdd]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]


@dataclass(slots=True)
class _Job:
    """A publication on its way to a revision."""

    repo: HubRepo
    publication: Publication
    section: str
    branch: str
    create_pr: bool
    license: str | None
    message: str
    hashes: dict[str, str] = field(default_factory=dict)
    _uploads: dict[str, Any] = field(default_factory=dict)

    def changes(self, head: str | None) -> _Changes:
        """Find out what a commit on `head` has to do; None: the repository is not there yet."""
        there = self.repo.tree(head) if head else {}
        card = self.repo.read(head, CARD).decode("utf-8") if head and CARD in there else None
        additions = [self._addition(shard.remote, shard.local) for shard in self.publication.shards]
        additions += [self._addition(path, file) for path, file in self.publication.documents.items()]
        paths = {addition.path_in_repo for addition in additions}
        deleted = tuple(path for path in there if path not in paths and is_ours(path, self.publication))
        others = [path for path in there if path not in paths and path not in deleted]
        text = merged_card(card, self.publication, self.section, license=self.license, other_files=others)
        additions.append(CommitOperationAdd(CARD, text.encode()))
        changed = [add.path_in_repo for add in additions if not self._is_there(there.get(add.path_in_repo), add)]
        return _Changes(head, additions, tuple(changed), deleted)

    def run(self) -> tuple[str, str, _Changes]:
        """Upload, then commit; gives the commit, its revision, and what the first attempt found to do.

        Whatever goes wrong, the next attempt begins with what the head is then: a commit of others is built upon, and
        one of our own whose answer was lost leaves nothing to do.
        """
        attempts: list[_Changes] = []

        def attempt() -> tuple[str, str]:
            changes = self.changes(self.repo.head(self.branch))
            attempts.append(changes)
            if not changes.changed and not changes.deleted:
                return str(changes.head), self.branch
            self._upload(changes)
            return self._commit(changes)

        try:
            commit, revision = patiently()(attempt)
        except HUB_FAILURES as error:
            raise self.repo.explained(error) from None
        return commit, revision, attempts[0]

    def published(self, commit: str, revision: str, changes: _Changes, *, is_new: bool) -> Published:
        """Say what was done."""
        url = f"{self.repo.api.endpoint}/datasets/{self.repo.id}"
        if revision.startswith("refs/pr/"):
            url += f"/discussions/{revision.removeprefix('refs/pr/')}"
        elif revision != "main":
            url += f"/tree/{revision}"
        rows = {config.name: config.rows for config in self.publication.configs}
        return Published(self.repo.id, revision, commit, url, rows, changes.changed, changes.deleted, is_new)

    def _upload(self, changes: _Changes) -> None:
        for start in range(0, len(changes.additions), FILES_A_BATCH):
            self.repo.ask(
                self.repo.api.preupload_lfs_files,
                self.repo.id,
                additions=changes.additions[start : start + FILES_A_BATCH],
                repo_type="dataset",
                revision=self.branch,
                create_pr=self.create_pr,
                free_memory=False,
            )

    def _commit(self, changes: _Changes) -> tuple[str, str]:
        digest = self._digest(changes)
        if self.create_pr and (opened := self._opened_before(digest)):
            return opened
        deletions = [CommitOperationDelete(path) for path in changes.deleted]
        made = self.repo.api.create_commit(
            self.repo.id,
            [*changes.additions, *deletions],
            commit_message=self.message,
            commit_description=f"Content {digest}",
            repo_type="dataset",
            revision=self.branch,
            create_pr=self.create_pr,
            parent_commit=changes.head,
        )
        return str(made.oid), str(made.pr_revision or self.branch)

    def _opened_before(self, digest: str) -> tuple[str, str] | None:
        """Find an open pull request with the same content: of a run that broke, or whose answer was lost."""
        api, repo = self.repo.api, self.repo.id

        def titled_alike() -> list[int]:
            listed = api.get_repo_discussions(
                repo, repo_type="dataset", discussion_type="pull_request", discussion_status="open"
            )
            return [request.num for request in listed if request.title == self.message]

        for number in self.repo.ask(titled_alike):
            revision = f"refs/pr/{number}"
            newest = self.repo.ask(api.list_repo_commits, repo, repo_type="dataset", revision=revision)[0]
            if digest in newest.message:
                return newest.commit_id, revision
        return None

    def _digest(self, changes: _Changes) -> str:
        told = [f"{add.path_in_repo} {add.upload_info.sha256.hex()}" for add in changes.additions]
        return hashlib.sha256("\n".join([*sorted(told), *changes.deleted]).encode()).hexdigest()

    def _addition(self, path: str, file: Path) -> CommitOperationAdd:
        """Make a new operation, for one that was sent cannot be sent again; a file is hashed once only."""
        addition = CommitOperationAdd(path, file)
        addition.upload_info = self._uploads.setdefault(path, addition.upload_info)
        self.hashes[path] = addition.upload_info.sha256.hex()
        return addition

    def _is_there(self, entry: RepoFile | None, addition: CommitOperationAdd) -> bool:
        if entry is None or entry.size != addition.upload_info.size:
            return False
        if entry.lfs is not None:
            return bool(entry.lfs.sha256 == addition.upload_info.sha256.hex())
        with addition.as_file() as file:
            return bool(entry.blob_id == git_hash(file.read()))


def check_target(repo: HubRepo, there: Any, private: bool | None, create_pr: bool) -> None:
    """Make sure that the token may write to a repository, before anything is read or uploaded.

    Args:
        repo: where to publish.
        there: what `HubRepo.info` says of it.
        private: as in `publish`.
        create_pr: as in `publish`.

    Raises:
        OutputError: it may not, or the repository is public and a private one was asked for.
    """
    if there is None:
        if create_pr:
            raise OutputError(f"{repo.id} is not there, or the token may not see it; a pull request needs a repository")
        return
    if private and not there.private:
        raise OutputError(f"{repo.id} is public and a private one was asked for; make it private in its settings first")
    probe = CommitOperationAdd(CARD, b"probe")  # it is not sent: the Hub is only asked how it would take it
    repo.ask(repo.api.preupload_lfs_files, repo.id, additions=[probe], repo_type="dataset", create_pr=create_pr)


def _check_secrets(publication: Publication, repo: HubRepo) -> None:
    """Refuse to publish a token that got into a recipe or a card, in a source's address or an engine's option."""
    for file in (publication.path / CARD, *publication.documents.values()):
        text = file.read_text("utf-8")
        if repo.holds_token(text) or _LOOKS_LIKE_TOKEN.search(text):
            raise OutputError(f"{file} holds what looks like a token of the Hub; take it out before it is published")
