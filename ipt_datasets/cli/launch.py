"""Commands under `accelerate launch` and `torchrun`, which start several processes of one command."""

import argparse
import os
import sys

from ipt_datasets.errors import RecipeError


def is_main_process() -> bool:
    """Tell whether this process is the first of its launcher's, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_led_elsewhere(args: argparse.Namespace) -> bool:
    """Let the first of several processes of one command do the work, with as many workers; tell the others to end.

    One output folder has one writer, so the processes of a launcher become the workers of its first one.

    Args:
        args: `workers` becomes the number of the launcher's processes, where it is 1.

    Returns:
        Whether this process has nothing to do.

    Raises:
        RecipeError: a launcher over several machines, without a `shard` for each.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    everywhere = int(os.environ.get("WORLD_SIZE", "1"))
    if here != everywhere and "LOCAL_WORLD_SIZE" in os.environ and not args.shard:
        raise RecipeError(
            f"this is one of {everywhere} processes on several machines, and they cannot write one run together; start "
            "`ipt augment` once a machine with --shard I/N, and --workers for its GPUs, then `ipt join`"
        )
    if here > 1 and os.environ.get("LOCAL_RANK", "0") != "0":
        print(
            f"ipt: one process leads, this one ends: --workers {here} without a launcher does the same", file=sys.stderr
        )
        return True
    if here > 1 and args.workers == 1 and args.engine != "server":
        args.workers = here
    return False
