"""What a Hub answers, a function a route. Modelled on what the clients send and expect."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from loopback_hub.base import Request, Response
from loopback_hub.files import FileRoutes
from loopback_hub.store import Commit, File, HubError, PullRequest, Repo, is_large


class Api(FileRoutes):
    """All routes: accounts, repositories, references, pull requests and commits beside those of files."""

    def answer(self, request: Request) -> Response:
        for methods, pattern, route in ROUTES:
            if request.method in methods.split() and (found := re.fullmatch(pattern, request.path)):
                return route(self, request, **{name: unquote(part or "") for name, part in found.groupdict().items()})
        raise HubError(404, f"no route {request.method} {request.path}")

    # -- accounts and repositories

    def whoami(self, request: Request) -> Response:
        account = self.account(request, needed=True)
        token = {"displayName": "loopback", "role": account.role}
        return Response.json(
            {
                "type": "user",
                "name": account.name,
                "fullname": account.name,
                "orgs": [{"type": "org", "name": name} for name in account.organizations],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    def create(self, request: Request) -> Response:
        account, asked = self.account(request, needed=True), request.json()
        kind, namespace = asked.get("type") or "model", asked.get("organization") or account.name
        repo_id = f"{namespace}/{asked['name']}"
        if not account.owns(namespace) or account.role == "read":
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        url = f"{self.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        if (kind, repo_id) in self.repos:
            return Response.json({"error": f"You already created this {kind} repo", "url": url}, 409)
        self.repos[kind, repo_id] = Repo(
            kind, repo_id, asked.get("visibility") == "private" or asked.get("private") is True
        )
        return Response.json({"url": url, "name": repo_id, "id": repo_id})

    def delete(self, request: Request) -> Response:
        account, asked = self.account(request, needed=True), request.json()
        kind, namespace = asked.get("type") or "model", asked.get("organization") or account.name
        self.repo(request, kind, f"{namespace}/{asked['name']}", write=True)
        del self.repos[kind, f"{namespace}/{asked['name']}"]
        return Response.json({})

    def info(self, request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
        repo = self.repo(request, kind, repo_id)
        commit = repo.resolve(revision)
        card = _card_data(commit.files)
        return Response.json(
            {
                "id": repo.id,
                "author": repo.namespace,
                "sha": commit.oid,
                "lastModified": commit.date,
                "createdAt": commit.date,
                "private": repo.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
                **({"cardData": card} if card else {}),
            }
        )

    def auth_check(self, request: Request, kind: str, repo_id: str, write: str = "") -> Response:
        self.repo(request, kind, repo_id, write=bool(write))
        return Response.json({})

    # -- references

    def refs(self, request: Request, kind: str, repo_id: str) -> Response:
        listed: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        folders = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/convert/": "converts"}
        for ref, oid in self.repo(request, kind, repo_id).refs.items():
            folder = next((folder for folder in folders if ref.startswith(folder)), "")
            entry = {"name": ref.removeprefix(folder), "ref": ref, "targetCommit": oid}
            listed[folders.get(folder, "pullRequests")].append(entry)
        return Response.json(listed)

    def branch(self, request: Request, kind: str, repo_id: str, ref: str) -> Response:
        repo = self.repo(request, kind, repo_id, write=True)
        return self._change_ref(request, repo, f"refs/heads/{ref}", request.json().get("startingPoint") or "main")

    def tag(self, request: Request, kind: str, repo_id: str, ref: str) -> Response:
        repo = self.repo(request, kind, repo_id, write=True)
        if request.method == "DELETE":
            return self._change_ref(request, repo, f"refs/tags/{ref}", "")
        return self._change_ref(request, repo, f"refs/tags/{request.json()['tag']}", ref)

    def _change_ref(self, request: Request, repo: Repo, ref: str, target: str) -> Response:
        if request.method == "DELETE":
            if ref not in repo.refs:
                raise HubError(404, f"no such reference: {ref}", "RevisionNotFound")
            del repo.refs[ref]
            return Response.json({})
        if ref in repo.refs:
            raise HubError(409, f"Reference already exists: {ref}")
        repo.refs[ref] = repo.resolve(target).oid
        return Response.json({}, 201)

    def commits(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        return Response.json(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.message,
                    "authors": [{"user": commit.author}],
                    "date": commit.date,
                }
                for commit in self.repo(request, kind, repo_id).history(revision)
            ]
        )

    # -- discussions

    def discussions(self, request: Request, kind: str, repo_id: str) -> Response:
        repo = self.repo(request, kind, repo_id)
        if request.method == "POST":
            asked, author = request.json(), self.account(request, needed=True)
            made = repo.open_pull_request(asked["title"], author.name, repo.resolve("main").oid)
            return Response.json({"num": made.number, "url": self._url(repo, made)})
        status = request.query.get("status", "all")
        listed = [made for made in repo.pull_requests if status in ("all", made.status)]
        shown = [
            {
                "num": made.number,
                "title": made.title,
                "author": {"name": made.author},
                "createdAt": "2025-01-01T00:00:00.000Z",
                "status": made.status,
                "isPullRequest": True,
                "repo": {"name": repo.id, "type": repo.kind},
            }
            for made in listed
        ]
        return Response.json({"discussions": shown, "count": len(shown), "start": 0})

    def merge(self, request: Request, kind: str, repo_id: str, number: str) -> Response:
        repo = self.repo(request, kind, repo_id, write=True)
        repo.pull_requests[int(number) - 1].status = "merged"
        repo.refs["refs/heads/main"] = repo.refs[f"refs/pr/{number}"]
        event = {"id": "1", "type": "status-change", "createdAt": "2025-01-01T00:00:00.000Z", "author": {"name": "me"}}
        return Response.json({"newEvent": {**event, "data": {"status": "merged"}}})

    def _url(self, repo: Repo, made: PullRequest) -> str:
        return f"{self.endpoint}/{'' if repo.kind == 'model' else f'{repo.kind}s/'}{repo.id}/discussions/{made.number}"

    # -- commits

    def validate_card(self, request: Request) -> Response:
        import yaml

        try:
            _card_data({"README.md": File(request.json()["content"].encode())})
        except yaml.YAMLError as error:
            return Response.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return Response.json({"errors": [], "warnings": []})

    def preupload(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo = self.repo(request, kind, repo_id, write="create_pr" not in request.query)
        self.account(request, needed=True)
        files, answers = repo.resolve(revision).files, []
        for asked in request.json()["files"]:
            there = files.get(asked["path"])
            answers.append(
                {
                    "path": asked["path"],
                    "uploadMode": "lfs" if is_large(asked["path"], asked["size"]) else "regular",
                    "shouldIgnore": False,
                    "oid": (there.sha256 or there.oid) if there else None,
                }
            )
        return Response.json({"files": answers})

    def commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        as_pull_request = "create_pr" in request.query
        repo = self.repo(request, kind, repo_id, write=not as_pull_request)
        author, head = self.account(request, needed=True), repo.resolve(revision)
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent and parent != head.oid and not as_pull_request:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        base: Commit = repo.resolve(parent) if parent else head
        files = self._changed(dict(base.files), lines)
        made = None
        ref = "" if as_pull_request else repo.ref_of(revision)
        oid = repo.commit(base.oid, files, header["summary"], header.get("description", ""), author.name)
        if as_pull_request:
            made = repo.open_pull_request(header["summary"], author.name, oid)
        else:
            repo.refs[ref] = oid
        return Response.json(
            {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{self.endpoint}/{repo.kind}s/{repo.id}/commit/{oid}",
                "hookOutput": "",
                "pullRequestUrl": self._url(repo, made) if made else None,
            }
        )

    def _changed(self, files: dict[str, File], lines: list[dict[str, Any]]) -> dict[str, File]:
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.large:
                    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = File(self.large[value["oid"]], value["oid"])
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HubError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: file for path, file in files.items() if not path.startswith(folder)}
        return files


def _card_data(files: Mapping[str, File]) -> dict[str, Any] | None:
    import yaml

    text = files["README.md"].content.decode() if "README.md" in files else ""
    header = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    return yaml.safe_load(header[1]) if header else None


_ANY = r"(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_PAGE = r"/(?P<kind>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("GET", "/api/whoami-v2", Api.whoami),
    ("POST", "/api/repos/create", Api.create),
    ("DELETE", "/api/repos/delete", Api.delete),
    ("POST", "/api/validate-yaml", Api.validate_card),
    ("GET", f"/api/{_ANY}", Api.info),
    ("GET", f"/api/{_ANY}/revision/(?P<revision>[^/]+)", Api.info),
    ("GET", f"/api/{_ANY}/auth-check(?P<write>/write)?", Api.auth_check),
    ("GET", f"/api/{_ANY}/refs", Api.refs),
    ("POST DELETE", f"/api/{_ANY}/branch/(?P<ref>[^/]+)", Api.branch),
    ("POST DELETE", f"/api/{_ANY}/tag/(?P<ref>[^/]+)", Api.tag),
    ("GET", f"/api/{_ANY}/commits/(?P<revision>[^/]+)", Api.commits),
    ("GET POST", f"/api/{_ANY}/discussions", Api.discussions),
    ("POST", rf"/api/{_ANY}/discussions/(?P<number>\d+)/merge", Api.merge),
    ("POST", f"/api/{_ANY}/preupload/(?P<revision>[^/]+)", Api.preupload),
    ("POST", f"/api/{_ANY}/commit/(?P<revision>[^/]+)", Api.commit),
    ("GET", f"/api/{_ANY}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", Api.tree),
    ("POST", f"/api/{_ANY}/paths-info/(?P<revision>[^/]+)", Api.paths_info),
    ("GET HEAD", f"/api/resolve-cache/{_ANY}/(?P<revision>[^/]+)/(?P<path>.+)", Api.resolve),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", Api.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<number>\d+))?", Api.lfs_upload),
    ("POST", r"/lfs-join/(?P<oid>[0-9a-f]{64})", Api.lfs_join),
    ("POST", "/lfs-verify", Api.lfs_verify),
    ("GET HEAD", rf"{_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Api.resolve),
]
