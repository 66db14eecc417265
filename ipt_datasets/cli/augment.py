"""`ipt augment`."""

import argparse
from typing import Any

from ipt_datasets.cli.options import (
    add_output_options,
    add_source_options,
    add_synthesis_options,
    add_templating_options,
    print_counts,
    synthesis_settings,
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
    add_output_options(augment)
    augment.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write pairs about raw texts and say what was made."""
    from ipt_datasets.corpus.augment import augment
    from ipt_datasets.synthesis.synthesizer import Synthesizer
    from ipt_datasets.templating.templatizer import Templatizer

    synthesizer = Synthesizer(
        model=args.model,
        shots=args.shots,
        text_column=args.text_column,
        seed=args.seed,
        **synthesis_settings(args),
    )
    with synthesizer:
        made = augment(
            args.source,
            args.output,
            synthesizer,
            Templatizer(seed=args.seed, text_column=args.text_column, templates=args.templates),
            split=args.split,
            config_name=args.config_name,
            revision=args.revision,
            fraction=args.fraction,
            shuffle=args.shuffle,
            limit=args.limit,
            seed=args.seed,
            resume=args.resume,
            overwrite=args.overwrite,
            rows_per_shard=args.rows_per_shard,
        )
    print_counts(made.counts)
    print(f'\n{made.seconds:.0f} s. Load it with: load_dataset("{made.path}")')
