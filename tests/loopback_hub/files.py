"""The routes of files: how large ones come, and how all are listed and read."""

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs

from loopback_hub.base import Base, Request, Response, error_headers
from loopback_hub.store import Commit, HubError


class FileRoutes(Base):
    """Uploads of large files, and everything that only reads a commit's files."""

    # -- large files

    def lfs_batch(self, request: Request, kind: str, repo_id: str) -> Response:
        self.repo(request, kind, repo_id)
        self.account(request, needed=True)
        objects = []
        for asked in request.json()["objects"]:
            oid, size = asked["oid"], asked["size"]
            if oid in self.large:
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, Any] = {"href": f"{self.endpoint}/lfs/{oid}"}
            if self.part_size and size > self.part_size:
                numbers = range(1, -(-size // self.part_size) + 1)
                urls = {str(number): f"{self.endpoint}/lfs/{oid}/{number}" for number in numbers}
                upload = {
                    "href": f"{self.endpoint}/lfs-join/{oid}",
                    "header": {"chunk_size": str(self.part_size), **urls},
                }
            verify = {"verify": {"href": f"{self.endpoint}/lfs-verify"}} if self.asks_to_verify else {}
            objects.append({"oid": oid, "size": size, "actions": {"upload": upload, **verify}})
        return Response.json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, request: Request, oid: str, number: str = "") -> Response:
        if number:
            self.parts.setdefault(oid, {})[int(number)] = request.body
            return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
        self._keep(oid, request.body)
        return Response()

    def lfs_join(self, request: Request, oid: str) -> Response:
        parts = self.parts.pop(oid)
        self._keep(oid, b"".join(parts[number] for number in sorted(parts)))
        return Response.json({})

    def lfs_verify(self, request: Request) -> Response:
        asked = request.json()
        if len(self.large.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(404, f"no such object: {asked['oid']}")
        return Response.json({})

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, f"what came is not what sha256 {oid} names")
        self.large[oid] = content

    # -- reading

    def tree(self, request: Request, kind: str, repo_id: str, revision: str, folder: str = "") -> Response:
        commit = self.repo(request, kind, repo_id).resolve(revision)
        is_recursive = request.query.get("recursive", "").lower() in ("true", "1")
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        below = [path for path in commit.files if path.startswith(prefix)]
        if prefix and not below:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        listed: set[str] = set()
        for path in below:
            parts = path.removeprefix(prefix).split("/")
            listed |= {prefix + "/".join(parts[: n + 1]) for n in range(len(parts) if is_recursive else 1)}
        start = int(request.query.get("cursor", 0))
        stop = start + min(int(request.query.get("limit", self.page_size)), self.page_size)
        paths = sorted(listed)
        response = Response.json([_entry(commit, path, request.query.get("expand", "")) for path in paths[start:stop]])
        if stop < len(paths):
            query = f"recursive={is_recursive}&expand={request.query.get('expand', '')}&cursor={stop}"
            response.headers["Link"] = f'<{self.endpoint}{request.path}?{query}>; rel="next"'
        return response

    def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        commit = self.repo(request, kind, repo_id).resolve(revision)
        if "json" in request.headers.get("Content-Type", ""):
            asked = request.json()
        else:
            form = parse_qs(request.body.decode())
            asked = {"paths": form.get("paths", []), "expand": form.get("expand", [""])[0]}
        paths = [asked["paths"]] if isinstance(asked["paths"], str) else asked["paths"]
        folders = {path for path in paths if any(name.startswith(f"{path.rstrip('/')}/") for name in commit.files)}
        shown = [path for path in paths if path in commit.files or path in folders]
        return Response.json([_entry(commit, path, str(asked.get("expand", ""))) for path in shown])

    def resolve(self, request: Request, kind: str, repo_id: str, revision: str, path: str) -> Response:
        commit = self.repo(request, kind, repo_id).resolve(revision)
        headers = {"X-Repo-Commit": commit.oid, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        file = commit.files.get(path)
        if file is None:
            error = HubError(404, "Entry not found", "EntryNotFound")
            return Response.json({"error": error.message}, 404, **headers, **error_headers(error))
        headers["ETag"] = f'"{file.sha256 or file.oid}"'
        if file.sha256:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
        if not asked or request.method == "HEAD":
            return Response(file.content, 200, headers)
        first = int(asked[1]) if asked[1] else max(0, file.size - int(asked[2]))
        last = min(int(asked[2]), file.size - 1) if asked[1] and asked[2] else file.size - 1
        if first >= file.size:
            return Response(b"", 416, {**headers, "Content-Range": f"bytes */{file.size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        return Response(file.content[first : last + 1], 206, headers)


def _entry(commit: Commit, path: str, expand: str) -> dict[str, Any]:
    file = commit.files.get(path)
    if file is None:
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    if expand.lower() in ("true", "1"):
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return entry
