"""`ipt plan`."""

import argparse
from pathlib import Path
from typing import Any

from ipt_datasets.cli.options import (
    add_source_options,
    add_synthesis_options,
    add_templating_options,
    make_synthesizer,
    make_templatizer,
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    plan = commands.add_parser("plan", help="tell from a small sample what augmenting a corpus will give and cost")
    plan.add_argument("source", metavar="INPUT", help="a Hub id, a folder, or a file load_dataset takes")
    plan.add_argument("--sample", type=int, default=64, metavar="N", help="texts to augment for it (%(default)s)")
    plan.add_argument(
        "--texts", type=int, metavar="N", help="how many the input has (what it says of itself, else counted)"
    )
    plan.add_argument("--devices", type=int, metavar="N", help="that will share the work (--workers)")
    plan.add_argument("--fraction", type=float, default=1.0, help="the share that will be augmented (%(default)s)")
    plan.add_argument(
        "--mix-raw",
        type=float,
        default=0.0,
        metavar="R",
        help="tokens of other data that `ipt mix` will add for each of the corpus (%(default)s)",
    )
    plan.add_argument("--tokenizer", metavar="T", help="whose tokens the training tokens are (the synthesizer's)")
    plan.add_argument("--seed", type=int, default=0, help="for the sample, sampling and templates (%(default)s)")
    plan.add_argument("--json", type=Path, metavar="FILE", help="also write the plan here")
    add_source_options(plan)
    add_synthesis_options(plan)
    add_templating_options(plan)
    plan.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Augment a sample and print what the whole will give and cost."""
    from ipt_datasets.corpus.plan import MEANINGS, plan
    from ipt_datasets.durable import check_writable, write_json

    if args.json:
        check_writable(args.json)  # before the model works
    with make_synthesizer(args) as synthesizer:
        made = plan(
            args.source,
            synthesizer,
            make_templatizer(args),
            split=args.split,
            config_name=args.config_name,
            revision=args.revision,
            texts=args.texts,
            fraction=args.fraction,
            sample=args.sample,
            devices=args.devices,
            mix_raw=args.mix_raw,
            tokenizer=args.tokenizer,
            seed=args.seed,
        )
    print(f"{args.source}: {made.texts:,} texts; {made.sample:,} of them tried in {made.sample_seconds:.0f} s\n")
    _print_row("", "expected", "", "at least", "at most")
    for name, meaning in MEANINGS.items():
        if name != "hours" or made.devices > 1:
            of_all = made.totals[name]
            digits = 2 if "hours" in name else 0
            _print_row(meaning, *(f"{value:,.{digits}f}" for value in (of_all.value,)), "", *_ends(of_all, digits))
    whole = sum(part.value for part in made.mix.values())
    print("\ntokens of the final mix")
    for name, part in made.mix.items():
        _print_row(f"  {name}", f"{part.value:,.0f}", f"{part.value / whole if whole else 0:.1%}", *_ends(part, 0))
    print("\nassumed:", *made.assumed, sep="\n  ")
    if args.json:
        write_json(args.json, made.to_dict())


def _ends(estimate: Any, digits: int) -> tuple[str, str]:
    return f"{estimate.low:,.{digits}f}", f"{estimate.high:,.{digits}f}"


def _print_row(name: str, *cells: str) -> None:
    expected, share, *ends = cells
    print(f"{name:<34}{expected:>17}{share:>8}" + "".join(f"{end:>17}" for end in ends))
