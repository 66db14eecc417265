"""The `ipt` command: one module a command, thin over the library.

Exit 0 only when the output is whole; 1 for what went wrong, in one line; 2 for a usage error; 130 for Ctrl-C.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from ipt_datasets.errors import IPTError

COMMANDS = ("augment", "templatize", "inspect")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ipt`; returns the exit status."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Its readers log what they then raise, and we say it in one line.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    try:
        args.run(args)
    except IPTError as error:
        print(f"ipt: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = " ".join([*sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])])
        print(f"\nipt: stopped; finished shards are kept, go on with: ipt {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone: nothing is left to tell
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    parser = argparse.ArgumentParser(prog="ipt", description="Turn raw corpora into instruction-augmented ones.")
    parser.add_argument("--version", action="version", version=f"ipt-datasets {version('ipt-datasets')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for command in COMMANDS:
        import_module(f"ipt_datasets.cli.{command}").add_parser(commands)
    return parser
