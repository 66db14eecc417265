"""A server of OpenAI's /v1/completions on loopback that answers by a script, takes what it is told to, and fails."""

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ipt_datasets.synthesis.engines import Request
from ipt_datasets.synthesis.engines.opening import PROBE
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine

EXTRAS = {"top_k", "min_p", "stop_token_ids", "skip_special_tokens", "return_token_ids", "repetition_penalty"}


class CompletionServer:
    """One server, running while the `with` block does.

    Args:
        model: its model's name; root: what it was loaded from; max_model_len: as it tells, None: it does not.
        tokenizer: the server's own; None: the scripted one.
        context: tokens that it reads, whatever it tells, and refuses more; where negative it silently reads the last.
        takes: "ids", "text" or both; takes_extras: what vLLM has beyond the protocol; else it refuses them.
        adds_bos: before a string; reads_bos: it makes a control id of one in a string.
        returns_ids: of completions; counts: it tells usage.
        fault: called with (how often these words were asked before, the text asked about); gives a fault's name or "".
        key: the API key it wants.
    """

    def __init__(
        self,
        model="any/model",
        root=None,
        max_model_len=4096,
        context=None,
        tokenizer=None,
        takes=("ids", "text"),
        takes_extras=True,
        adds_bos=True,
        reads_bos=True,
        returns_ids=True,
        counts=True,
        fault=None,
        key=None,
        seconds=0.0,
    ):
        self.card = {"id": model, "root": root or model, "max_model_len": max_model_len}
        self.engine = ScriptedEngine()
        if tokenizer:
            self.engine.tokenizer = tokenizer  # its BOS and EOS are 1 and 2 as well
        self.context = context
        self.takes, self.takes_extras, self.adds_bos, self.reads_bos = takes, takes_extras, adds_bos, reads_bos
        self.returns_ids, self.counts, self.fault, self.key, self.seconds = returns_ids, counts, fault, key, seconds
        self.bodies, self.prompts, self.headers = [], [], []  # of all requests but those of the opening
        self.faults = Counter()
        self.hung_up = 0
        self.most_at_once = self._at_once = 0
        self._asked = Counter()
        self._lock = threading.Lock()
        self._open_sockets = set()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        self.http.owner = self
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """End like a process that is killed: nobody listens any more, and all connections break."""
        self.http.shutdown()
        self.http.server_close()
        with self._lock:
            for open_socket in list(self._open_sockets):
                _reset(open_socket)

    def encode(self, text):
        """Encode a string as a server does: control tokens in it act."""
        tokenizer = self.engine.tokenizer
        bos = tokenizer.decode([1])
        control = {bos: 1, tokenizer.decode([2]): 2} if self.reads_bos else {}
        ids = [1] if self.adds_bos else []
        for piece in re.split("(" + "|".join(map(re.escape, control)) + ")", text) if control else [text]:
            ids += [control[piece]] if piece in control else tokenizer.encode(piece)
        return ids

    def answer(self, body):
        """Give (status, answer) for a request."""
        prompt = body["prompt"]
        kind = "text" if isinstance(prompt, str) else "ids"
        if kind not in self.takes:
            return 400, {"error": {"message": f"prompt: {kind} not taken"}}
        if not self.takes_extras and (extra := EXTRAS & body.keys()):
            return 400, {"error": {"message": f"unknown {sorted(extra)}"}}
        ids = self.encode(prompt) if kind == "text" else prompt
        if self.context and len(ids) + body["max_tokens"] > abs(self.context):
            if self.context > 0:
                return 400, {"error": {"message": f"the context is {self.context} tokens"}}
            ids = ids[self.context + body["max_tokens"] :]
        text = self.engine.tokenizer.decode(ids)
        asked = text.rsplit(self.engine.tokenizer.decode([1]), 1)[-1]
        if PROBE not in text:
            with self._lock:
                self.bodies.append(body)
                self.prompts.append(ids)
                before = self._asked[asked]
                self._asked[asked] += 1
            fault = self.fault(before, asked) if self.fault else ""
            if fault:
                self.faults[fault] += 1
                return fault, None
            time.sleep(self.seconds)
        completion = self.engine._answer(Request(ids if 1 in ids else [1, *ids], body["max_tokens"]))
        body_ids = [id_ for id_ in completion.token_ids if id_ != 2]
        choice = {
            "text": self.engine.tokenizer.decode(body_ids),
            "finish_reason": completion.finish_reason,
            "stop_reason": None,
        }
        if body.get("return_token_ids") and self.returns_ids:
            choice["token_ids"] = completion.token_ids
            choice["prompt_token_ids"] = ids
        usage = {"usage": {"prompt_tokens": len(ids), "completion_tokens": len(completion.token_ids)}}
        return 200, {"choices": [choice], **(usage if self.counts else {})}


def _reset(open_socket):
    open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        open_socket.shutdown(socket.SHUT_RDWR)
    open_socket.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.owner._open_sockets.add(self.connection)

    def finish(self):
        self.server.owner._open_sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError):
            self.server.owner.hung_up += 1

    def log_message(self, *_):
        pass

    def do_GET(self):
        owner = self.server.owner
        if self._is_stranger():
            return
        if not self.path.startswith("/v1/models"):
            return self._send(404, {"detail": "Not Found"})
        self._send(200, {"object": "list", "data": [owner.card] if owner.card else []})

    def do_POST(self):
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_stranger():
            return
        if body["model"] != owner.card["id"]:
            return self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        with owner._lock:
            owner._at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner._at_once)
        try:
            status, answer = owner.answer(body)
        finally:
            with owner._lock:
                owner._at_once -= 1
        if isinstance(status, int):
            return self._send(status, answer)
        kind, _, detail = status.partition(" ")
        if kind == "hang":
            time.sleep(float(detail))
            raise OSError("nobody waits any more")
        if kind == "reset":
            _reset(self.connection)
            raise OSError("reset")
        if kind == "half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            _reset(self.connection)
            raise OSError("half")
        if kind == "garbage":
            return self._send(200, {"nothing": "useful"})
        self._send(int(kind), {"error": {"message": f"as told: {kind}"}}, detail)

    def _is_stranger(self):
        owner = self.server.owner
        given = self.headers.get("Authorization", "")
        owner.headers.append(given)
        if owner.key and given != f"Bearer {owner.key}":
            self._send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
            return True
        return False

    def _send(self, status, answer, retry_after=""):
        written = json.dumps(answer).encode()
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)
