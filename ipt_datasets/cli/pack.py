"""`ipt pack`."""

import argparse
from typing import Any

from ipt_datasets.cli.options import add_output_options, add_source_options


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    pack = commands.add_parser("pack", help="turn texts into rows of equally many token ids")
    pack.add_argument("source", metavar="SOURCE", help="what `ipt mix` or `ipt augment` wrote, or any corpus of texts")
    pack.add_argument("output", metavar="OUTPUT", help="the folder to write")
    pack.add_argument("--tokenizer", metavar="T", required=True, help="smol, a Hub id or a folder")
    pack.add_argument("--tokenizer-revision", metavar="R", help="branch, tag or commit of the tokenizer's Hub id")
    pack.add_argument("--length", type=int, default=4096, metavar="N", help="tokens a row (%(default)s)")
    pack.add_argument(
        "--rest",
        default="drop",
        choices=("drop", "keep"),
        help="the tokens behind the last whole row: dropped, or kept as a shorter row (%(default)s)",
    )
    pack.add_argument(
        "--literal-tokens", action="store_true", help="the texts have BOS and EOS around them as strings: take them off"
    )
    add_source_options(pack)
    pack.add_argument("--rows-per-shard", type=int, metavar="N", help="(about 8 million tokens)")
    add_output_options(pack)
    pack.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Pack texts and say what was made."""
    from ipt_datasets.corpus.pack import pack

    made = pack(
        args.source,
        args.output,
        args.tokenizer,
        length=args.length,
        rest=args.rest,
        split=args.split,
        config_name=args.config_name,
        revision=args.revision,
        text_column=args.text_column,
        literal_tokens=args.literal_tokens,
        tokenizer_revision=args.tokenizer_revision,
        resume=args.resume,
        overwrite=args.overwrite,
        rows_per_shard=args.rows_per_shard,
    )
    counts = made.counts
    print(f"{counts.documents:,} documents -> {counts.tokens:,} tokens -> {counts.rows:,} rows of {args.length:,}")
    for remark in counts.remarks():
        print(remark)
    print(f'\nLoad them with: load_dataset("{made.path}")')
