"""`ipt templatize`."""

import argparse
from typing import Any

from ipt_datasets.cli.options import add_source_options, add_templating_options, make_templatizer


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    templatize = commands.add_parser("templatize", help="render a corpus's pairs anew, without a model")
    templatize.add_argument("source", metavar="FOLDER", help="what `ipt augment` wrote, or its Hub id")
    templatize.add_argument("output", metavar="OUTPUT", help="the folder to write")
    add_source_options(templatize, config_name="pairs")
    templatize.add_argument(
        "--released",
        action="store_true",
        help="FOLDER is in the layout of the paper's released corpora (their own Hub ids are known)",
    )
    templatize.add_argument("--seed", type=int, default=1, help="another seed, another surface (%(default)s)")
    add_templating_options(templatize)
    templatize.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote")
    templatize.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Render a corpus's pairs anew."""
    from ipt_datasets.corpus.templatize import templatize

    made = templatize(
        args.source,
        args.output,
        make_templatizer(args),
        split=args.split,
        config_name=args.config_name,
        revision=args.revision,
        released=args.released,
        overwrite=args.overwrite,
    )
    print(f'{made.texts:,} training texts. Load them with: load_dataset("{made.path}")')
