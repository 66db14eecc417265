"""The `ipt` command: one module a command, thin over the library.

Exit 0 only when the output is whole; 1 for what went wrong, in one line; 2 for a usage error; 75 where a
budget is used up and --resume goes on; 130 for Ctrl-C; 143 for SIGTERM, which ends a command as orderly as Ctrl-C does.
"""

import _thread
import argparse
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from ipt_datasets.errors import BudgetSpent, IPTError

COMMANDS = ("augment", "join", "templatize", "mix", "pack", "publish", "inspect", "tune", "evaluate", "plan", "bench")

TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: not whole and not broken. A scheduler can tell it from both, and put the job back."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ipt`; returns the exit status."""
    args = _parser().parse_args(argv)
    return carry_out(args, ["ipt", *(sys.argv[1:] if argv is None else argv)])


def carry_out(args: argparse.Namespace, command_line: Sequence[str]) -> int:
    """Run what a parser chose.

    Args:
        args: `run` is what runs, with these arguments.
        command_line: its words, to say how to go on where there is `resume`.

    Returns:
        The exit status.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Its readers log what they then raise, and we say it in one line.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    try:
        with _heeding_signals():
            args.run(args)
    except BudgetSpent as spent:
        print(f"ipt: {spent}{_how_to_go_on(args, command_line)}", file=sys.stderr)
        return TRY_AGAIN
    except IPTError as error:
        print(f"ipt: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, _Terminated) as stop:
        print(f"\nipt: stopped{_how_to_go_on(args, command_line)}", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone: nothing is left to tell
        return 1
    return 0


class _Terminated(BaseException):
    """SIGTERM came: from a scheduler, or because the machine goes away."""


_STOPS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: _Terminated}


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a command by an exception, so that files and locks are let go of."""

    def come_again(number: int) -> None:
        time.sleep(0.05)
        os.kill(os.getpid(), number)

    def end(number: int, frame: FrameType | None) -> None:
        while frame:
            if frame.f_code.co_name == "__del__":
                # Python drops an exception that is raised here, as when a data set goes.
                _thread.start_new_thread(come_again, (number,))
                return
            frame = frame.f_back
        raise _STOPS[number]

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        # Nor does one get out of what weak references call, which no name tells.
        for number, stop in _STOPS.items():
            if unraisable.exc_type is stop:
                _thread.start_new_thread(come_again, (number,))
                return
        hook(unraisable)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _STOPS}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heeded:
        signal.signal(number, end)
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in heeded:
            signal.signal(number, before[number])


def _how_to_go_on(args: argparse.Namespace, command_line: Sequence[str]) -> str:
    if not hasattr(args, "resume"):
        return ""
    # argparse takes options that are cut short, too.
    kept = [word for word in command_line if not (len(word) > 3 and "--overwrite".startswith(word))]
    again = shlex.join([*kept, *([] if args.resume else ["--resume"])])
    return f"; what was finished is kept, go on with: {again}"


def _parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    parser = argparse.ArgumentParser(prog="ipt", description="Turn raw corpora into instruction-augmented ones.")
    parser.add_argument("--version", action="version", version=f"ipt-datasets {version('ipt-datasets')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for command in COMMANDS:
        import_module(f"ipt_datasets.cli.{command}").add_parser(commands)
    return parser
