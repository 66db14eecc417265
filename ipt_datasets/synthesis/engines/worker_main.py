"""What runs in a process of `WorkersEngine`: an engine, and a pipe to the process that asks it.

It ends when the pipe does, whatever it is doing: nobody would hear what it says.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from ipt_datasets.errors import EngineError, IPTError, one_line
from ipt_datasets.synthesis.engines.choose import open_engine

Send = Callable[[tuple[Any, ...]], None]


def main(descriptor: int) -> None:
    """Load the engine that the parent names and answer its requests until it says "close".

    Args:
        descriptor: of the pipe that was handed down.

    Raises:
        SystemExit: the engine cannot be built, or died; the parent was told why.
    """
    os.set_inheritable(descriptor, False)
    # Held by nobody in Python, so that the pipe breaks when the process is gone and not while it still cleans up.
    held = os.dup(descriptor)
    connection: Connection[Any, Any] = Connection(descriptor)

    def let_go() -> None:
        connection.close()
        os.close(held)

    os.register_at_fork(after_in_child=let_go)  # else what the engine forks keeps the pipe open when this one is killed
    inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    talking = threading.Lock()

    def send(message: tuple[Any, ...]) -> None:
        with talking:
            connection.send(message)

    logging.basicConfig(level=logging.WARNING, handlers=[_Forward(send)])
    try:
        _serve(inbox, send)
    except Exception as error:  # whatever a model's code raises
        send(("failed", one_line(error) if isinstance(error, IPTError) else f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from error


def _serve(inbox: "SimpleQueue[tuple[Any, ...]]", send: Send) -> None:
    engine = open_engine(*inbox.get())
    send(("ready", engine.max_model_len, engine.max_requests, engine.kv_tokens))
    under_way: set[int] = set()
    while True:
        while not under_way or not inbox.empty():
            what, *told = inbox.get()
            if what == "close":
                engine.close()
                return
            if what == "submit":
                engine.submit(*told)
                under_way.add(told[0])
            elif what == "abort":
                engine.abort(*told)
                under_way.difference_update(*told)
        finished = engine.step()
        if not finished:
            raise EngineError(f"the engine gave nothing back while {len(under_way)} requests were under way")
        under_way.difference_update(number for number, _ in finished)
        send(("finished", finished))


def _listen(connection: "Connection[Any, Any]", inbox: "SimpleQueue[tuple[Any, ...]]") -> None:
    """Take messages while the engine works, so that the parent never waits and its end is never missed."""
    try:
        while True:
            inbox.put(connection.recv())
    finally:
        os.killpg(0, signal.SIGKILL)  # this process and all that its engine started


class _Forward(logging.Handler):
    """Lets the parent say what was logged here."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(("log", record.levelno, record.getMessage()))
