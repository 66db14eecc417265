"""`ipt inspect`."""

import argparse
from pathlib import Path
from typing import Any

from ipt_datasets.cli.options import print_counts


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    inspect = commands.add_parser("inspect", help="count what a corpus holds and show some of its texts")
    inspect.add_argument("folder", metavar="FOLDER", type=Path, help="what `ipt augment` wrote")
    inspect.add_argument("--samples", type=int, default=3, help="how many training texts to show (%(default)s)")
    inspect.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Show what a folder holds."""
    from ipt_datasets.corpus.inspect import inspect_folder

    found = inspect_folder(args.folder, args.samples)
    for number, sample in enumerate(found.samples, 1):
        heading = f"--- {number} of {found.counts.texts:,}: {sample['n_pairs']} pairs, {sample['template']} "
        print(f"{heading.ljust(100, '-')}\n{sample['text']}\n")
    print_counts(found.counts)
    if report := found.diversity:
        print(f"surfaces of the first {report.texts + report.plain_texts:,} texts")
        print(f"  {report.distinct_skeletons:,} different ones among {report.texts:,} texts with pairs")
        print(f"  {report.bare_share:.0%} begin with the raw text itself")
        opening = report.most_frequent_opening_share
        print(f"  the most frequent other opening has {opening:.1%}: {report.most_frequent_opening!r}")
        for options, positions in report.right_positions.items():
            print(f"  right one of {options} options by position: {' '.join(map(str, positions))}")
