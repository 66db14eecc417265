"""The `ipt` command: one function a command, thin over the library.

Exit 0 only when the output is whole; 1 for what went wrong, in one line; 2 for a usage error; 130 for Ctrl-C.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipt_datasets.errors import IPTError, RecipeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ipt`; returns the exit status."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Its readers log what they then raise, and we say it in one line.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    try:
        args.run(args)
    except IPTError as error:
        print(f"ipt: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = " ".join([*sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])])
        print(f"\nipt: stopped; finished shards are kept, go on with: ipt {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone: nothing is left to tell
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    parser = argparse.ArgumentParser(prog="ipt", description="Turn raw corpora into instruction-augmented ones.")
    parser.add_argument("--version", action="version", version=f"ipt-datasets {version('ipt-datasets')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    augment = commands.add_parser("augment", help="write pairs about raw texts and render both as training texts")
    augment.add_argument("source", metavar="INPUT", help="a Hub id, a folder, or a file load_dataset takes")
    augment.add_argument("output", metavar="OUTPUT", help="the folder to write")
    _add_source_options(augment)
    _add_synthesis_options(augment)
    _add_templating_options(augment)
    augment.add_argument(
        "--fraction", type=float, default=1.0, help="augment a seeded share, pass the rest (%(default)s)"
    )
    augment.add_argument("--shuffle", action="store_true", help="deal texts into chains in a seeded order")
    augment.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    augment.add_argument(
        "--seed", type=int, default=0, help="for sampling, templates, fraction and order (%(default)s)"
    )
    augment.add_argument("--rows-per-shard", type=int, default=10_000, help="raw texts a shard (%(default)s)")
    _add_output_options(augment)
    augment.set_defaults(run=_augment)

    templatize = commands.add_parser("templatize", help="render a corpus's pairs anew, without a model")
    templatize.add_argument("source", metavar="FOLDER", help="what `ipt augment` wrote, or its Hub id")
    templatize.add_argument("output", metavar="OUTPUT", help="the folder to write")
    _add_source_options(templatize, config_name="pairs")
    templatize.add_argument("--seed", type=int, default=1, help="another seed, another surface (%(default)s)")
    _add_templating_options(templatize)
    templatize.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote")
    templatize.set_defaults(run=_templatize)

    inspect = commands.add_parser("inspect", help="count what a corpus holds and show some of its texts")
    inspect.add_argument("folder", metavar="FOLDER", type=Path, help="what `ipt augment` wrote")
    inspect.add_argument("--samples", type=int, default=3, help="how many training texts to show (%(default)s)")
    inspect.set_defaults(run=_inspect)
    return parser


def _add_source_options(parser: argparse.ArgumentParser, config_name: str | None = None) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("--split", default="train", help="(%(default)s)")
    group.add_argument("--config-name", metavar="C", default=config_name, help="config of the dataset (%(default)s)")
    group.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub id")
    group.add_argument("--text-column", default="text", help="the column of raw texts (%(default)s)")


def _add_synthesis_options(parser: argparse.ArgumentParser) -> None:
    from ipt_datasets.recipe import ENGINES, LONG_TEXTS, MARKUP_NAMES

    group = parser.add_argument_group("synthesis")
    group.add_argument("--model", default="smol", help="smol, a Hub id or a folder (%(default)s)")
    group.add_argument("--model-revision", metavar="R", help="branch, tag or commit of the model's Hub id")
    group.add_argument("--engine", default="auto", choices=ENGINES, help="(%(default)s)")
    group.add_argument("--shots", type=int, default=2, help="raw texts a chain, the paper's M (%(default)s)")
    group.add_argument("--markup", choices=MARKUP_NAMES, help="how shots are written (chat for smol, else paper)")
    group.add_argument("--primer", metavar="FILE", help="JSON list of finished shots: [{text, pairs: [...]}]")
    group.add_argument("--max-new-tokens", type=int, default=400, help="of one completion (%(default)s)")
    group.add_argument("--max-model-len", type=int, help="prompt and completion together (the model's, 4096 at most)")
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    group.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    group.add_argument("--repetition-penalty", type=float, default=1.0, help="1 is off (%(default)s)")
    group.add_argument("--frequency-penalty", type=float, help="0 is off; against loops (0.1 for smol, else 0)")
    group.add_argument("--long-texts", default="split", choices=LONG_TEXTS, help="(%(default)s)")
    group.add_argument("--max-windows", type=int, metavar="N", help="windows of one long text")
    group.add_argument("--max-pairs", type=int, metavar="N", help="pairs kept of one text")
    group.add_argument(
        "--engine-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to the engine, e.g. gpu_memory_utilization=0.9; may be given several times",
    )


def _add_templating_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("templates")
    group.add_argument(
        "--templates", action="append", default=[], metavar="FILE", help="a TOML file of templates to add"
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="go on where a run stopped; start in an empty folder")
    either.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote")


def _augment(args: argparse.Namespace) -> None:
    from ipt_datasets.corpus.augment import augment
    from ipt_datasets.synthesis.synthesizer import Synthesizer
    from ipt_datasets.templating.templatizer import Templatizer

    synthesizer = Synthesizer(
        model=args.model,
        engine=args.engine,
        shots=args.shots,
        max_new_tokens=args.max_new_tokens,
        max_model_len=args.max_model_len,
        temperature=args.temperature,
        text_column=args.text_column,
        long_texts=args.long_texts,
        seed=args.seed,
        revision=args.model_revision,
        markup=args.markup,
        primer=_read_json(args.primer) if args.primer else None,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        frequency_penalty=args.frequency_penalty,
        max_windows=args.max_windows,
        max_pairs=args.max_pairs,
        engine_options=dict(_read_option(option) for option in args.engine_option),
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
    _print_counts(made.counts)
    print(f'\n{made.seconds:.0f} s. Load it with: load_dataset("{made.path}")')


def _templatize(args: argparse.Namespace) -> None:
    from ipt_datasets.corpus.templatize import templatize
    from ipt_datasets.templating.templatizer import Templatizer

    made = templatize(
        args.source,
        args.output,
        Templatizer(seed=args.seed, text_column=args.text_column, templates=args.templates),
        split=args.split,
        config_name=args.config_name,
        revision=args.revision,
        overwrite=args.overwrite,
    )
    print(f'{made.texts:,} training texts. Load them with: load_dataset("{made.path}")')


def _inspect(args: argparse.Namespace) -> None:
    from ipt_datasets.corpus.inspect import inspect_folder

    found = inspect_folder(args.folder, args.samples)
    for number, sample in enumerate(found.samples, 1):
        heading = f"--- {number} of {found.counts.texts:,}: {sample['n_pairs']} pairs, {sample['template']} "
        print(f"{heading.ljust(100, '-')}\n{sample['text']}\n")
    _print_counts(found.counts)
    if report := found.diversity:
        print(f"surfaces of the first {report.texts + report.plain_texts:,} texts")
        print(f"  {report.distinct_skeletons:,} different ones among {report.texts:,} texts with pairs")
        print(f"  {report.bare_share:.0%} begin with the raw text itself")
        opening = report.most_frequent_opening_share
        print(f"  the most frequent other opening has {opening:.1%}: {report.most_frequent_opening!r}")
        for options, positions in report.right_positions.items():
            print(f"  right one of {options} options by position: {' '.join(map(str, positions))}")


def _print_counts(counts: Any) -> None:
    from ipt_datasets.schema import REJECT_REASONS, STATUSES

    asked = f", the synthesizer read {counts.prompt_tokens:,} and wrote {counts.completion_tokens:,} tokens"
    print(f"{counts.rows:,} raw texts -> {counts.n_pairs:,} pairs -> {counts.texts:,} training texts{asked}")
    for heading, numbers, meanings in (
        ("raw texts", counts.statuses, STATUSES),
        ("pairs", counts.pairs, {}),
        ("rejected pieces", counts.rejected, REJECT_REASONS),
    ):
        for name, number in sorted(numbers.items(), key=lambda item: -item[1]):
            print(f"  {heading:<16}{number:>10,}  {name}{f': {meanings[name]}' if name in meanings else ''}")


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as JSON: {error}") from error


def _read_option(option: str) -> tuple[str, Any]:
    key, equals, value = option.partition("=")
    if not equals or not key:
        raise RecipeError(f"--engine-option {option!r}: expected KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    sys.exit(main())
