"""`ipt join`."""

import argparse
from typing import Any

from ipt_datasets.cli.options import print_counts


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    join = commands.add_parser("join", help="make one corpus of the shards that `ipt augment --shard I/N` wrote")
    join.add_argument("output", metavar="OUTPUT", help="the folder that all jobs were given")
    join.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Join shards and say what was made."""
    from ipt_datasets.corpus.join import join

    made = join(args.output)
    print_counts(made.counts)
    print(f'\n{made.seconds:.0f} s. Load it with: load_dataset("{made.path}")')
