"""`ipt bench`."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipt_datasets.cli.options import add_source_options, add_synthesis_options, read_json, synthesis_settings
from ipt_datasets.errors import RecipeError

if TYPE_CHECKING:
    from ipt_datasets.corpus.bench import Bench

EXAMPLE = """
The tries are engine options, as --engine-option takes them. With --tries FILE, a JSON list of your own:
  [{}, {"max_num_seqs": 128}, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4,
  "prompt_lookup_max": 4}}, {"quantization": "fp8"}]
Quantised weights write other pairs: see with `ipt evaluate` whether they are as good.
"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    bench = commands.add_parser(
        "bench",
        help="try engine settings on your machine and corpus",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("model", metavar="MODEL", help="smol, a Hub id or a folder")
    bench.add_argument("source", metavar="INPUT", help="a Hub id, a folder, or a file load_dataset takes")
    bench.add_argument("--texts", type=int, default=48, metavar="N", help="of each run (%(default)s)")
    bench.add_argument("--tries", metavar="FILE", help="a JSON list of engine options (a few for each engine)")
    bench.add_argument("--repeats", type=int, default=3, metavar="K", help="runs of each, their median counts")
    bench.add_argument("--run-minutes", type=float, default=15.0, metavar="M", help="end a run after (%(default)s)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")
    _add_settings(bench)
    bench.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Try engine settings, and print a table and the best command."""
    from ipt_datasets.corpus.bench import bench
    from ipt_datasets.durable import check_writable, write_json

    if args.json:
        check_writable(args.json)  # before the model works for hours
    tries = read_json(args.tries) if args.tries else None
    if tries is not None and not isinstance(tries, list):
        raise RecipeError(f"{args.tries} holds {type(tries).__name__}, expected a list of engine options")
    made = bench(
        args.source,
        {"shots": args.shots, **synthesis_settings(args)},
        split=args.split,
        config_name=args.config_name,
        revision=args.revision,
        texts=args.texts,
        tries=tries,
        repeats=args.repeats,
        run_minutes=args.run_minutes,
        seed=args.seed,
    )
    command = _command(args, made)
    if args.json:
        found = {"model": args.model, "input": args.source, "engine": made.engine, "texts": made.texts}
        found |= {"tries": [tried.to_dict() for tried in made.tries], "best": command}
        write_json(args.json, found)
    _print(args, made, command)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shots", type=int, default=2, help="raw texts a chain, the paper's M (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="for the sample and sampling (%(default)s)")
    add_source_options(parser)
    add_synthesis_options(parser, with_model=False)


def _print(args: argparse.Namespace, made: "Bench", command: str) -> None:
    from ipt_datasets.corpus.bench import written

    print(f"{args.model} with {made.engine}, {made.texts} texts of {args.source}, medians of {args.repeats} runs\n")
    print(
        f"{'raw tok/s':>10}{'slowest-fastest':>18}{'out tok/s':>11}{'cached':>8}{'texts':>7}{'pairs':>7}{'load s':>8}"
    )
    for tried in made.tries:
        if tried.error:
            print(
                f"{'-':>10}{'':>18}{'-':>11}{'-':>8}{'-':>7}{'-':>7}{'-':>8}  {written(tried.options)}: {tried.error}"
            )
            continue
        last = tried.runs[-1]
        low, high = tried.spread
        cached = last["cached_tokens"] / max(last["prompt_tokens"], 1)
        print(
            f"{tried.rate('raw_tokens'):>10,.0f}{f'{low:,.0f}-{high:,.0f}':>18}{tried.rate('output_tokens'):>11,.0f}"
            f"{cached:>8.0%}{last['texts']:>7,.0f}{last['pairs']:>7,.0f}{last['loading_seconds']:>8.0f}"
            f"  {written(tried.options)}"
        )
    best = made.best
    if best is None:
        raise RecipeError(f"none of the {len(made.tries)} tries ran; the first said: {made.tries[0].error}")
    print(f"\nbest here: {written(best.options)}\n  {command}")
    others = [tried for tried in made.tries if not tried.error and tried is not best]
    if any(tried.spread[1] >= best.spread[0] for tried in others):
        print("the runs of others overlap with it: more --texts or --repeats would tell them apart")


def _command(args: argparse.Namespace, made: "Bench") -> str:
    """Give the command line that augments the input with the best options; "" where every try died."""
    if made.best is None:
        return ""
    fresh = argparse.ArgumentParser()
    _add_settings(fresh)
    words = ["ipt", "augment", args.source, "OUTPUT", "--model", args.model]
    given = {**vars(args), "engine": made.engine}
    chosen = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in made.best.options.items()
    ]
    for name, default in vars(fresh.parse_args([])).items():
        value = [*given[name], *chosen] if name == "engine_option" else given[name]
        if value != default:
            for one in value if isinstance(value, list) else [value]:
                words += [f"--{name.replace('_', '-')}", str(one)]
    return shlex.join(words)
