"""`ipt mix`."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ipt_datasets.cli.options import add_output_options
from ipt_datasets.corpus.mixing.sources import ON_END, RECIPES, MixSource, read_sources
from ipt_datasets.errors import RecipeError

EXAMPLE = """
examples:
  ipt mix mixed medicine=augmented:1 general=Open-Orca/OpenOrca:1 --tokenizer meta-llama/Meta-Llama-3-8B
  ipt mix mixed --recipe domain-adaptive augmented=FOLDER instructions=openorca.parquet --tokenizer smol
  ipt mix mixed web=web.parquet:9 qa=qa.jsonl:1 --columns qa=ask:reply --on-end qa=repeat --tokenizer smol

A source is texts (column `text`) or instructions (question+response, instruction+response or +output with input or
context, prompt+completion, inputs+targets, messages or conversations), written as {question} {response}; else say the
columns. The recipes are shorthands: domain-adaptive is augmented=...:1 instructions=...:1 with --on-end
instructions=repeat; from-scratch is corpus=...:1 (what `ipt augment --shots 2 --fraction 0.2` wrote: augmented and
unchanged texts in one) and, if given, tuning=...:0.008 with --on-end tuning=repeat --max-repeats tuning=3.
"""
PER_SOURCE = "V for all sources or NAME=V for one; may be given several times"


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    mix = commands.add_parser(
        "mix",
        help="mix corpora in a ratio counted in tokens",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mix.add_argument("output", metavar="OUTPUT", help="the folder to write")
    mix.add_argument("sources", metavar="NAME=SOURCE:WEIGHT", nargs="+", help="SOURCE is whatever load_dataset takes")
    mix.add_argument("--tokenizer", metavar="T", required=True, help="whose tokens count: smol, a Hub id or a folder")
    mix.add_argument("--tokenizer-revision", metavar="R", help="branch, tag or commit of the tokenizer's Hub id")
    mix.add_argument("--tokens", type=int, metavar="N", help="tokens in all (until a source ends that does not repeat)")
    mix.add_argument("--seed", type=int, default=0, help="decides the order of each source (%(default)s)")
    mix.add_argument("--recipe", choices=tuple(RECIPES), help="the paper's weights; NAME=SOURCE is enough then")
    mix.add_argument(
        "--literal-tokens", action="store_true", help="write BOS and EOS into the texts, for trainers that want it"
    )
    mix.add_argument(
        "--shuffle-buffer",
        type=int,
        default=10_000,
        metavar="N",
        help="documents of a source that wait to be drawn; 0: in the source's order (%(default)s)",
    )
    per_source = mix.add_argument_group(f"sources ({PER_SOURCE})")
    for option, metavar, what in (
        ("--on-end", "V", f"at a source's end: {', '.join(ON_END)} (stop)"),
        ("--max-repeats", "V", "how often a source may repeat; then the mixture stops (no limit)"),
        ("--split", "V", "which split (train)"),
        ("--config-name", "V", "which config"),
        ("--revision", "V", "branch, tag or commit of a Hub id"),
        ("--columns", "NAME=V", "V is TEXT or QUESTION:RESPONSE"),
    ):
        per_source.add_argument(option, action="append", default=[], metavar=metavar, help=what)
    mix.add_argument("--rows-per-shard", type=int, default=20_000, help="documents a shard (%(default)s)")
    add_output_options(mix)
    mix.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Mix sources and show the audit."""
    from ipt_datasets.corpus.mix import mix

    sources = read_sources(args.sources, args.recipe)
    for option, given, change in (
        ("--on-end", args.on_end, _with_end),
        ("--max-repeats", args.max_repeats, _with_max_repeats),
        ("--split", args.split, lambda source, value: replace(source, split=value)),
        ("--config-name", args.config_name, lambda source, value: replace(source, config_name=value)),
        ("--revision", args.revision, lambda source, value: replace(source, revision=value)),
        ("--columns", args.columns, lambda source, value: replace(source, columns=tuple(value.split(":")))),
    ):
        sources = _changed(sources, option, given, change)
    made = mix(
        sources,
        args.output,
        args.tokenizer,
        tokens=args.tokens,
        seed=args.seed,
        literal_tokens=args.literal_tokens,
        shuffle_buffer=args.shuffle_buffer,
        tokenizer_revision=args.tokenizer_revision,
        resume=args.resume,
        overwrite=args.overwrite,
        rows_per_shard=args.rows_per_shard,
    )
    print(made.audit.table())
    print("", *made.audit.remarks(), sep="\n")
    print(f'\n{made.audit.documents:,} documents. Load them with: load_dataset("{made.path}")')


def _changed(
    sources: Sequence[MixSource], option: str, given: Sequence[str], change: Callable[[MixSource, str], MixSource]
) -> list[MixSource]:
    """Apply V or NAME=V, as often as it was given; what is said of all sources comes first."""
    names = [source.name for source in sources]
    for_all: list[str] = []
    for_one: dict[str, str] = {}
    for written in given:
        name, equals, value = written.partition("=")
        if not equals and option == "--columns":
            raise RecipeError(f"{option} {written!r}: expected NAME=TEXT or NAME=QUESTION:RESPONSE")
        if not equals:
            for_all.append(written)
        elif name in names:
            for_one[name] = value
        else:
            raise RecipeError(f"{option} {written!r}: there is no source {name!r}; the sources: {', '.join(names)}")
    default = for_all[-1] if for_all else None
    chosen = [(source, for_one.get(source.name, default)) for source in sources]
    if option == "--max-repeats":  # said of all sources, it means those that repeat
        chosen = [
            (source, value if source.on_end == "repeat" or source.name in for_one else None) for source, value in chosen
        ]
    return [source if value is None else change(source, value) for source, value in chosen]


def _with_end(source: MixSource, value: str) -> MixSource:
    return replace(source, on_end=value, max_repeats=source.max_repeats if value == "repeat" else None)


def _with_max_repeats(source: MixSource, value: str) -> MixSource:
    if not value.isdecimal():
        raise RecipeError(f"--max-repeats {value!r} for source {source.name!r}: expected a whole number")
    return replace(source, max_repeats=int(value))
