"""A process of `WorkersEngine` as its parent sees it: its devices, its pipe, its end.

Not by multiprocessing, whose new processes run the caller's main module again, which a script without a guard does not
survive; and not by a pool, which says nothing when a process is killed.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from ipt_datasets.errors import EngineError, RecipeError, one_line

START = (
    "import sys; sys.path[:] = {path!r}; "
    "from ipt_datasets.synthesis.engines.worker_main import main; main({descriptor})"
)
"""What the new Python runs: the parent's path, so that it finds the same packages."""

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What accelerate and torchrun tell the parent; a worker is none of their processes, and its GPU is its first."""


class WorkerProcess:
    """A process with an engine of its own, loading it from the beginning.

    Args:
        environment: its whole environment, see `environments`.
        task: the arguments of `open_engine`.

    Raises:
        RecipeError: the task cannot be sent to a process.
        EngineError: the machine has no room for another process.
    """

    def __init__(self, environment: Mapping[str, str], task: tuple[Any, ...]) -> None:
        try:
            pickle.dumps(task)
        except Exception as error:  # whatever the objects among the options raise
            raise RecipeError(
                f"engine_options that workers get must be plain values, and these cannot be sent to another process: "
                f"{one_line(error)}; leave them out, or use one worker"
            ) from error
        self.connection, theirs = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process is asked about
        with theirs:
            command = [sys.executable, "-c", START.format(path=sys.path, descriptor=theirs.fileno())]
            try:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                    start_new_session=True,  # Ctrl-C is the parent's to heed; and all it starts dies with it
                )
            except OSError as error:
                raise EngineError(f"a worker's process cannot be started: {error.strerror}") from error
        self.send(task)

    @property
    def pid(self) -> int:
        """The process, also the number of its group."""
        return self._process.pid

    def send(self, message: tuple[Any, ...]) -> None:
        """Tell it something; that it has died shows in `receive`."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> tuple[list[tuple[Any, ...]], bool]:
        """Give what it has said since, and whether it is gone; does not wait."""
        messages = []
        try:
            while self.connection.poll():
                messages.append(self.connection.recv())
        except (EOFError, OSError):
            return messages, True
        return messages, False

    def end(self, seconds: float = 0.0) -> int:
        """Wait so long for its own end, then kill it with all that it started.

        Returns:
            Its exit status, negative for a signal.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and wait([self.connection], left):
            if self.receive()[1]:
                break
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group of dead processes may not be killed
            os.killpg(self.pid, signal.SIGKILL)
        self.connection.close()
        return self._process.wait()

    def last_words(self) -> str:
        """Give the last line that it wrote to stdout or stderr, or ""."""
        size = os.fstat(self._said.fileno()).st_size
        tail = os.pread(self._said.fileno(), 4096, max(size - 4096, 0)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def environments(workers: int, engine: str, options: Mapping[str, Any]) -> list[dict[str, str]]:
    """Give the environment of each worker: its own GPUs out of those this process may see, and its share of the cores.

    Args:
        workers: how many.
        engine: the kind; "scripted" needs no GPU.
        options: the engine's; with vLLM's tensor_parallel_size a worker has several GPUs.

    Raises:
        RecipeError: there are GPUs, and fewer than the workers need.
    """
    gpus = [] if engine == "scripted" else _visible_gpus()
    each = int(options.get("tensor_parallel_size", 1)) * int(options.get("pipeline_parallel_size", 1))
    if gpus and workers * each > len(gpus):
        needed = "one GPU" if each == 1 else f"{each} GPUs (tensor_parallel_size, pipeline_parallel_size)"
        fitting = len(gpus) // each
        raise RecipeError(
            f"workers={workers}: a worker takes {needed} and there {'is' if len(gpus) == 1 else 'are'} {len(gpus)} here"
            f"; {f'give at most workers={fitting}' if fitting else 'give smaller ones'}"
        )
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    made = []
    for number in range(workers):
        own = gpus[number * each : (number + 1) * each]
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}
        made.append({**inherited, **devices, "OMP_NUM_THREADS": str(_threads(workers))})
    return made


def describe_end(status: int) -> str:
    """Say how a process ended.

    Args:
        status: its exit status, negative for a signal.
    """
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}{', as the system does when memory runs out' * (name == 'SIGKILL')}"


def _visible_gpus() -> list[str]:
    """Give the names under which CUDA shows its GPUs to this process, [] where there are none."""
    try:
        import torch
    except ImportError:
        return []  # the worker says what is missing
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


def _threads(workers: int) -> int:
    """Give how many threads a worker's share of the cores is, no more than the user allows a process."""
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(able // workers, 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share
