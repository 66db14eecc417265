"""`ipt evaluate`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ipt_datasets.cli.options import add_source_options, add_synthesis_options, add_task_set_options, synthesis_settings


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    evaluate = commands.add_parser("evaluate", help="measure a synthesizer on texts, with gold pairs or without")
    evaluate.add_argument("model", metavar="MODEL", help="smol, a Hub id or a folder")
    evaluate.add_argument(
        "--on",
        action="append",
        required=True,
        metavar="SET",
        help="task rows (columns text and pairs) or a raw corpus, as load_dataset takes; with --data the name of a "
        "described task set; may be given several times",
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N rows of each set")
    evaluate.add_argument("--shots", type=_shots, default=(1, 2), metavar="M,...", help="a pass each (1,2)")
    evaluate.add_argument(
        "--examples",
        type=int,
        default=0,
        metavar="N",
        help="one more pass behind the first N rows with their gold pairs, the paper's few-shot (%(default)s)",
    )
    evaluate.add_argument("--accuracy", action="store_true", help="only answer the gold instructions")
    evaluate.add_argument("--quality", action="store_true", help="only write pairs of its own")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    evaluate.add_argument("--samples", type=int, default=3, metavar="K", help="texts to show of each set (%(default)s)")
    evaluate.add_argument("--seed", type=int, default=0, help="for sampling (%(default)s)")
    evaluate.add_argument("--explain", action=_Explain, help="say what each number means, and stop")
    add_task_set_options(evaluate)
    add_source_options(evaluate)
    add_synthesis_options(evaluate, with_model=False)
    evaluate.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure a synthesizer on each set and show the tables."""
    from ipt_datasets.durable import check_writable, write_json
    from ipt_datasets.quality.evaluate import evaluate
    from ipt_datasets.quality.report import render, render_samples
    from ipt_datasets.quality.rows import Rows, read_rows
    from ipt_datasets.synthesis.synthesizer import Synthesizer
    from ipt_datasets.tasks.description import read_description, shipped_description
    from ipt_datasets.tasks.sets import read_evaluation_rows

    both = args.accuracy == args.quality
    settings = synthesis_settings(args)
    source = {"split": args.split, "config_name": args.config_name, "revision": args.revision}
    if args.json:
        check_writable(args.json)  # before the model works for hours
    sets = []
    for name in args.on:
        if args.data and name in read_description(shipped_description(args.sets)):
            found, report = read_evaluation_rows(shipped_description(args.sets), args.data, name)
            print("\n".join(report.lines(name)))
            sets.append((name, Rows(found)))
        else:
            sets.append((name, read_rows(name, text_column=args.text_column, **source)))
    sheets = []
    with Synthesizer(**settings) as synthesizer:
        for name, rows in sets:
            sheet = evaluate(
                synthesizer,
                rows,
                name=name,
                accuracy=both or args.accuracy,
                quality=both or args.quality,
                shots=args.shots,
                examples=args.examples,
                limit=args.limit,
                samples=args.samples,
            )
            print("\n\n".join(filter(None, (render(sheet), render_samples(sheet.samples)))), end="\n\n", flush=True)
            sheets.append(sheet)
            if args.json:  # after every set: what was measured is not lost
                write_json(args.json, {"sheets": [one.to_dict() for one in sheets]})


class _Explain(argparse.Action):
    """Prints what the numbers mean and leaves, like `--help`."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ipt_datasets.quality.report import explain

        try:
            print(explain(), flush=True)
        except BrokenPipeError:
            sys.stderr.close()  # who read our output has gone: nothing is left to tell
        parser.exit()


def _shots(value: str) -> tuple[int, ...]:
    try:
        shots = tuple(int(part) for part in value.split(","))
    except ValueError:
        shots = ()
    if not shots or min(shots) < 1:
        raise argparse.ArgumentTypeError(f"{value!r}: expected whole numbers of at least 1 with commas between, as 1,2")
    return shots
