"""Work done in a fork of the test process, which may be killed in there."""

import os
import signal
import threading
from collections.abc import Callable

from tqdm import tqdm


def in_child(work: Callable[[], int | None]) -> int:
    """Run something in a fork of this process; gives its exit status, negative for a signal."""
    child = os.fork()
    if not child:
        status = 99
        try:
            # tqdm's lock is shared by all forks: one that ends between taking and giving it back would stop all others.
            tqdm.set_lock(threading.RLock())
            status = work() or 0
        finally:
            os._exit(status)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:  # such as the time limit of a test
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
