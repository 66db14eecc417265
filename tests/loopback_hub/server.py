"""A Hub on loopback: a real HTTP server that the real clients talk to, with faults on demand and a log."""

import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback_hub.api import Api
from loopback_hub.base import Request, Response, error_headers
from loopback_hub.faults import Fault
from loopback_hub.store import Commit, HubError, Repo


@dataclass
class Entry:
    """A request that came: its line, its bytes, and the status and bytes of the answer; 0 where none was sent."""

    line: str
    size: int
    status: int = 0
    sent: int = 0


class LoopbackHub:
    """A Hub that listens on 127.0.0.1 while it is entered.

    Attributes:
        api: the state and the routes.
        faults: what shall go wrong; changed at any time.
        log: every request, in the order they came.
    """

    def __init__(self) -> None:
        self.api = Api()
        self.faults: list[Fault] = []
        self.log: list[Entry] = []
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.api.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """What goes into HF_ENDPOINT."""
        return self.api.endpoint

    def __enter__(self) -> "LoopbackHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, token: str | None = "hf_writer", **more: str) -> dict[str, str]:
        """Give what a client process needs in its environment to talk to this Hub."""
        given = {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        given |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**given, **({"HF_TOKEN": token} if token else {}), **more}

    def repo(self, repo_id: str, kind: str = "dataset") -> Repo:
        return self.api.repos[kind, repo_id]

    def head(self, repo_id: str, revision: str = "main") -> Commit:
        return self.repo(repo_id).resolve(revision)

    def requests(self, match: str = "") -> list[str]:
        """Give the logged request lines in which `match` stands."""
        return [entry.line for entry in self.log if match in entry.line]

    def handle(self, request: Request, line: str) -> tuple[Response | None, Entry]:
        """Answer a request; None: close the connection instead."""
        with self._lock:
            entry = Entry(line, len(request.body))
            self.log.append(entry)
            fault = next((fault for fault in list(self.faults) if fault.strikes(line)), None)
        if fault and fault.delay:
            time.sleep(fault.delay)
        if fault and fault.call:
            fault.call()
        if fault and fault.drop:
            return None, entry
        if fault and fault.status:
            return Response(fault.body, fault.status, dict(fault.headers)), entry
        try:
            with self._lock:
                response = self.api.answer(request)
        except HubError as error:
            response = Response.json({"error": error.message}, error.status, **error_headers(error))
        if fault and fault.call_after:
            fault.call_after()
        if fault and fault.lose:
            return None, entry
        if fault and fault.change:
            response.body = fault.change(response.body)
        return response, entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub

    def handle_error(self, *_: Any) -> None:
        """Clients that go away in the middle are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent apart, and the second would wait 40 ms
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        request = Request(self.command, url.path, query, self.headers, self._body())
        response, entry = self.server.hub.handle(request, f"{self.command} {self.path}")
        if response is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(response.status)
        headers = {"Content-Type": "application/json", "X-Request-Id": "loopback", **response.headers}
        for name, value in {**headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
            entry.sent = len(response.body)
        entry.status = response.status

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError("the client went away before its request was whole")
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve
