"""Options that several commands share, and how their values are read."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipt_datasets.errors import RecipeError

if TYPE_CHECKING:
    from ipt_datasets.synthesis.synthesizer import Synthesizer
    from ipt_datasets.templating.templatizer import Templatizer


def add_source_options(parser: argparse.ArgumentParser, config_name: str | None = None) -> None:
    """Add what says which part of the input is read, and where its raw texts stand."""
    group = add_row_options(parser, config_name)
    group.add_argument("--text-column", default="text", help="the column of raw texts (%(default)s)")


def add_row_options(parser: argparse.ArgumentParser, config_name: str | None = None) -> Any:
    """Add what says which part of the input is read; gives their group."""
    group = parser.add_argument_group("input")
    group.add_argument("--split", default="train", help="(%(default)s)")
    group.add_argument("--config-name", metavar="C", default=config_name, help="config of the dataset (%(default)s)")
    group.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub id")
    return group


def add_synthesis_options(parser: argparse.ArgumentParser, with_model: bool = True) -> None:
    """Add the arguments of `Synthesizer`; without `with_model` all but `--model` and `--shots`."""
    from ipt_datasets.recipe import ENGINES, LONG_TEXTS, MARKUP_NAMES

    group = parser.add_argument_group("synthesis")
    if with_model:
        group.add_argument("--model", default="smol", help="smol, a Hub id or a folder (%(default)s)")
        group.add_argument("--shots", type=int, default=2, help="raw texts a chain, the paper's M (%(default)s)")
    group.add_argument("--model-revision", metavar="R", help="branch, tag or commit of the model's Hub id")
    group.add_argument("--engine", default="auto", choices=ENGINES, help="(%(default)s)")
    group.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="base URL for --engine server, e.g. http://host:8000/v1; may be given several times",
    )
    group.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine with an engine each, on a GPU of its own where there are any (%(default)s)",
    )
    group.add_argument("--markup", choices=MARKUP_NAMES, help="how shots are written (chat for smol-base, else paper)")
    group.add_argument("--primer", metavar="FILE", help="JSON list of finished shots: [{text, pairs: [...]}]")
    group.add_argument("--max-new-tokens", type=int, default=400, help="of one completion (%(default)s)")
    group.add_argument("--max-model-len", type=int, help="prompt and completion together (the model's, 4096 at most)")
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    group.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    group.add_argument("--repetition-penalty", type=float, default=1.0, help="1 is off (%(default)s)")
    group.add_argument(
        "--frequency-penalty",
        type=float,
        help="0 is off; against loops, stronger each time (smol and adapters like it 0.2, smol-base 0.1, else 0)",
    )
    group.add_argument("--presence-penalty", type=float, help="0 is off; against loops, always alike (smol 1, else 0)")
    group.add_argument("--long-texts", default="split", choices=LONG_TEXTS, help="(%(default)s)")
    group.add_argument("--max-windows", type=int, metavar="N", help="windows of one long text")
    group.add_argument("--max-pairs", type=int, metavar="N", help="pairs kept of one text")
    group.add_argument(
        "--engine-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to the engine; VALUE is JSON where it can be; may be given several times. vllm: max_num_seqs (in "
        'flight), max_num_batched_tokens (a step), gpu_memory_utilization, speculative_config=\'{"method": "ngram", '
        '"num_speculative_tokens": 4, "prompt_lookup_max": 4}\', quantization (fp8). transformers: batch_size (in '
        "flight), cache_tokens (for prefixes), dtype. server: max_concurrency. `ipt bench` tries a few",
    )


def synthesis_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Give what the options of a command say as arguments of `Synthesizer`, all but the shots."""
    return {
        "model": args.model,
        "text_column": args.text_column,
        "seed": args.seed,
        "engine": args.engine,
        "servers": args.server,
        "workers": args.workers,
        "max_new_tokens": args.max_new_tokens,
        "max_model_len": args.max_model_len,
        "temperature": args.temperature,
        "long_texts": args.long_texts,
        "revision": args.model_revision,
        "markup": args.markup,
        "primer": read_json(args.primer) if args.primer else None,
        "top_p": args.top_p,
        "repetition_penalty": args.repetition_penalty,
        "frequency_penalty": args.frequency_penalty,
        "presence_penalty": args.presence_penalty,
        "max_windows": args.max_windows,
        "max_pairs": args.max_pairs,
        "engine_options": dict(read_option(option) for option in args.engine_option),
    }


def add_task_set_options(parser: argparse.ArgumentParser) -> None:
    """Add where described task sets lie."""
    group = parser.add_argument_group("task sets")
    group.add_argument("--data", metavar="FOLDER", help="where the files of described task sets lie")
    group.add_argument(
        "--sets", default="smol", metavar="FILE", help="their description, TOML; smol: the shipped one (%(default)s)"
    )


def add_templating_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `Templatizer`."""
    group = parser.add_argument_group("templates")
    group.add_argument(
        "--templates", action="append", default=[], metavar="FILE", help="a TOML file of templates to add"
    )


def make_synthesizer(args: argparse.Namespace) -> "Synthesizer":
    """Build the synthesizer that the options describe; no model is loaded yet."""
    from ipt_datasets.synthesis.synthesizer import Synthesizer

    return Synthesizer(shots=args.shots, **synthesis_settings(args))


def make_templatizer(args: argparse.Namespace) -> "Templatizer":
    """Build the templatizer that the options describe."""
    from ipt_datasets.templating.templatizer import Templatizer

    return Templatizer(seed=args.seed, text_column=args.text_column, templates=args.templates)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add `--resume` and `--overwrite`."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="go on where a run stopped; start in an empty folder")
    either.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote")


def print_counts(counts: Any) -> None:
    """Print what a corpus holds."""
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


def read_json(path: str) -> Any:
    """Read a JSON file that a user named."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as JSON: {error}") from error


def read_option(option: str) -> tuple[str, Any]:
    """Read KEY=VALUE; the value is JSON where it can be, else a string."""
    key, equals, value = option.partition("=")
    if not equals or not key:
        raise RecipeError(f"--engine-option {option!r}: expected KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
