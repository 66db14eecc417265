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
        handles: list[int] = []
        try:
            if hasattr(os, "pidfd_open"):
                with suppress(OSError):  # a kernel that refuses: an engine without a watch is better than none
                    handles.extend(map(os.pidfd_open, pids))  # a number may become another process's, a handle never
            if not handles:
                return
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
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
