"""Processes that end with this one, even where it is killed and can no longer end them itself."""

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

_WAIT_AND_KILL = """
import signal, sys
sys.stdin.read()
for descriptor in map(int, sys.argv[1:]):
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""The pipe that this reads from breaks when the process at its other end is gone, however that came."""


class OrphanWatch:
    """Kills processes as soon as this process is gone; without it, what vLLM starts keeps its GPU after a kill -9.

    Nothing happens where the system has no handles of processes (only Linux has them).

    Args:
        pids: of processes that this one started.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._watch: subprocess.Popen[bytes] | None = None
        if not hasattr(os, "pidfd_open"):
            return
        handles = [os.pidfd_open(pid) for pid in pids]  # a number may become another process's, a handle never
        try:
            self._watch = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WAIT_AND_KILL, *map(str, handles)],
                pass_fds=handles,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # else Ctrl-C would end it
            )
        finally:
            for handle in handles:
                os.close(handle)

    def release(self) -> None:
        """Let the processes be; to be called when they have ended."""
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.kill()
            self._watch.wait()
            with suppress(OSError):
                self._watch.stdin.close()
