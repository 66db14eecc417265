"""`ipt augment`."""

import argparse
from typing import Any

from ipt_datasets.cli.launch import is_led_elsewhere
from ipt_datasets.cli.options import (
    add_output_options,
    add_source_options,
    add_synthesis_options,
    add_templating_options,
    make_synthesizer,
    make_templatizer,
    print_counts,
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    augment = commands.add_parser("augment", help="write pairs about raw texts and render both as training texts")
    augment.add_argument("source", metavar="INPUT", help="a Hub id, a folder, or a file load_dataset takes")
    augment.add_argument("output", metavar="OUTPUT", help="the folder to write")
    add_source_options(augment)
    add_synthesis_options(augment)
    add_templating_options(augment)
    augment.add_argument(
        "--fraction", type=float, default=1.0, help="augment a seeded share, pass the rest (%(default)s)"
    )
    augment.add_argument("--shuffle", action="store_true", help="deal texts into chains in a seeded order")
    augment.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    augment.add_argument(
        "--seed", type=int, default=0, help="for sampling, templates, fraction and order (%(default)s)"
    )
    augment.add_argument("--rows-per-shard", type=int, default=10_000, help="raw texts a shard (%(default)s)")
    augment.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="do only the shards I, I+N, I+2N, ... in OUTPUT/shards, as one of N jobs; `ipt join OUTPUT` ends it",
    )
    augment.add_argument(
        "--budget-tokens", type=int, metavar="N", help="stop when about so many tokens were generated; --resume goes on"
    )
    augment.add_argument(
        "--budget-hours", type=float, metavar="H", help="likewise after so many hours; the exit status is then 75"
    )
    add_output_options(augment)
    augment.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write pairs about raw texts and say what was made."""
    if is_led_elsewhere(args):
        return
    from ipt_datasets.corpus.augment import augment

    synthesizer, templatizer, settings = read_settings(args)
    with synthesizer:
        made = augment(
            args.source,
            args.output,
            synthesizer,
            templatizer,
            **settings,
            overwrite=args.overwrite,
            shard=args.shard,
            budget_tokens=args.budget_tokens,
            budget_hours=args.budget_hours,
        )
    print_counts(made.counts)
    if args.shard:
        print(f"\n{made.seconds:.0f} s. When all {args.shard[1]} shards are there: ipt join {args.output}")
        return
    print(f'\n{made.seconds:.0f} s. Load it with: load_dataset("{made.path}")')


def read_settings(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Give the synthesizer and the templatizer that the options describe, and what says how the input is read."""
    names = ("split", "config_name", "revision", "fraction", "shuffle", "limit", "seed", "resume", "rows_per_shard")
    return make_synthesizer(args), make_templatizer(args), {name: getattr(args, name) for name in names}


def _shard(value: str) -> tuple[int, int]:
    """Read I/N."""
    index, slash, count = value.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{value!r}: expected I/N with I from 0 to N - 1, e.g. 0/8 for the first of 8")
    return int(index), int(count)
