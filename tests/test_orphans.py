"""Processes that end with the one that started them, whatever ends it."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest

SCRIPT = """
import signal, subprocess, sys, time
from ipt_datasets.synthesis.engines.orphans import OrphanWatch
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
watch = OrphanWatch(child.pid for child in children)
if "release" in sys.argv:
    watch.release()
    watch.release()
print(*(child.pid for child in children), flush=True)
time.sleep(600)
"""


@contextmanager
def started(*arguments):
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True) as parent:
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        try:
            yield parent, children
        finally:
            parent.kill()
            for child in children:
                if child.is_running():
                    child.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_they_end_with_it(number):
    with started() as (parent, children):
        parent.send_signal(number)
        parent.wait(timeout=30)
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_one_that_ended_earlier_is_no_fault():
    with started() as (parent, children):
        children[0].kill()
        parent.kill()
        parent.wait()
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_released_ones_live_on_without_a_watch():
    with started("release") as (parent, children):
        watches = [child for child in psutil.Process(parent.pid).children() if child not in children]
        assert watches == []
        parent.kill()
        parent.wait()
        assert psutil.wait_procs(children, timeout=2)[0] == []
