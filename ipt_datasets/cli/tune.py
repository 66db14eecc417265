"""`ipt tune`."""

import argparse
import sys
from typing import Any

from ipt_datasets.cli.launch import is_main_process
from ipt_datasets.cli.options import add_output_options, add_row_options

HELD_OUT_ROWS = 36
"""So many held-out rows of described task sets are evaluated again and again in a training."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    tune = commands.add_parser("tune", help="tune a model into a synthesizer, by default with a LoRA adapter")
    tune.add_argument("model", metavar="MODEL", help="smol-base, a Hub id or a folder")
    tune.add_argument("output", metavar="OUTPUT", help="the folder to write")
    tune.add_argument(
        "--on",
        metavar="SETS",
        required=True,
        help="task rows: a folder, a file or a Hub id; or with --data the description of task sets: smol, a TOML file",
    )
    tune.add_argument("--data", metavar="FOLDER", help="where the files of described task sets lie")
    tune.add_argument("--only", metavar="NAME", nargs="+", help="of the described task sets only these")
    tune.add_argument(
        "--validation",
        metavar="ROWS",
        help=f"rows to compute the loss on ({HELD_OUT_ROWS} held-out ones of described sets)",
    )
    tune.add_argument("--model-revision", metavar="R", help="branch, tag or commit of the model's Hub id")
    tune.add_argument("--dry-run", action="store_true", help="show what would be learned; writes nothing")
    tune.add_argument("--seed", type=int, default=0, help="for dealing, order and first weights (%(default)s)")
    add_row_options(tune)
    _add_length_options(tune)
    _add_weight_options(tune)
    _add_running_options(tune)
    add_output_options(tune)
    tune.set_defaults(run=run)


def _add_length_options(tune: argparse.ArgumentParser) -> None:
    group = tune.add_argument_group("sequences, and how many")
    group.add_argument("--shots", type=int, default=3, help="the most rows of a sequence (%(default)s)")
    group.add_argument("--max-length", type=int, default=1024, help="tokens of a sequence (%(default)s)")
    group.add_argument("--batch-tokens", type=int, default=8192, help="tokens an optimizer step (%(default)s)")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps")
    length.add_argument("--epochs", type=int, metavar="N", help="how often each row is read (1 if no length is given)")
    length.add_argument("--max-tokens", type=int, metavar="N", help="tokens read")


def _add_weight_options(tune: argparse.ArgumentParser) -> None:
    from ipt_datasets.tuning.settings import FULL_RATE, LORA_RATE, SCHEDULES

    group = tune.add_argument_group("weights")
    group.add_argument("--lora-rank", type=int, default=24, help="0 tunes all weights (%(default)s)")
    group.add_argument("--lora-alpha", type=int, default=48, help="(%(default)s)")
    group.add_argument("--adapter", metavar="FOLDER", help="go on from these weights: an adapter's folder, or smol")
    group.add_argument("--learning-rate", type=float, help=f"the highest ({LORA_RATE:g}, with rank 0 {FULL_RATE:g})")
    group.add_argument("--schedule", choices=SCHEDULES, default=SCHEDULES[0], help="(%(default)s)")
    group.add_argument("--warmup-share", type=float, default=0.03, help="of the steps (%(default)s)")
    group.add_argument("--decay-share", type=float, default=0.2, help="of the steps, at the end (%(default)s)")


def _add_running_options(tune: argparse.ArgumentParser) -> None:
    group = tune.add_argument_group("running")
    group.add_argument("--forward-tokens", type=int, metavar="N", help="tokens a forward pass, about (--max-length)")
    group.add_argument("--save-every", type=int, default=50, metavar="N", help="steps (%(default)s)")
    group.add_argument("--evaluate-every", type=int, metavar="N", help="steps, with --validation (--save-every)")
    group.add_argument("--threads", type=int, metavar="N", help="of torch on a CPU")
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    group.add_argument("--compile", action="store_true", help="fused layers: faster, after half a minute")


def run(args: argparse.Namespace) -> None:
    """Tune a model, or show what it would learn."""
    from ipt_datasets.errors import RecipeError
    from ipt_datasets.tuning.prepare import prepare
    from ipt_datasets.tuning.report import counts
    from ipt_datasets.tuning.settings import TuneSettings
    from ipt_datasets.tuning.train import Running, check_installed, tune

    if not args.dry_run:
        check_installed()
    if args.only and not args.data:
        raise RecipeError("--only names sets of a description; give the folder of their files with --data")
    source = {"split": args.split, "config_name": args.config_name, "revision": args.revision}
    told = [args.on, *(["--data FOLDER"] if args.data else []), *(["--only", *args.only] if args.only else [])]
    if args.data:
        rows, validation, sets, left_out = _read_sets(args.on, args.data, args.only)
    else:
        rows, validation, sets, left_out = _read_rows(args.on, **source), None, {}, {}
    settings = TuneSettings(
        shots=args.shots,
        max_length=args.max_length,
        batch_tokens=args.batch_tokens,
        max_steps=args.max_steps,
        epochs=args.epochs if args.epochs or args.max_steps or args.max_tokens else 1,
        max_tokens=args.max_tokens,
        learning_rate=args.learning_rate,
        schedule=args.schedule,
        decay_share=args.decay_share,
        warmup_share=args.warmup_share,
        lora_rank=args.lora_rank,
        lora_alpha=args.lora_alpha,
        seed=args.seed,
        shown_first=tuple(name for name, task_set in sets.items() if task_set.shown_first),
    )
    running = Running(
        args.forward_tokens,
        args.save_every,
        args.evaluate_every,
        args.threads,
        args.gradient_checkpointing,
        args.compile,
    )
    prepared = prepare(
        args.model,
        rows,
        settings,
        validation=_read_rows(args.validation) if args.validation else validation,
        source=" ".join(told),
        origins={name: (task_set.origin, task_set.licence) for name, task_set in sets.items()},
        left_out=left_out,
        revision=args.model_revision,
        adapter=args.adapter,
    )
    if args.dry_run:
        _show(prepared)
        return
    if is_main_process():
        print(counts(prepared), flush=True)
    tuned = tune(
        prepared, args.output, running, resume=args.resume, overwrite=args.overwrite, revision=args.model_revision
    )
    if not is_main_process():
        return
    if not tuned.is_new:
        print(f"{tuned.path} is finished already: {prepared.plan.steps:,} steps")
        return
    held_out = [entry["held_out_loss"] for entry in tuned.log if "held_out_loss" in entry]
    said = f"; held-out loss {held_out[0]:.3f} -> {held_out[-1]:.3f}" if held_out else ""
    print(f"{prepared.plan.steps:,} steps, {int(prepared.plan.tokens[-1]):,} tokens{said}. It lies in {tuned.path}")


def _read_rows(on: str, **source: Any) -> Any:
    """Read task rows, with the columns of `schema.TASK_FEATURES`, from what `load_dataset` takes."""
    from ipt_datasets.corpus.source import open_source

    return open_source(on, streaming=False, **source)


def _read_sets(description: str, data: str, names: list[str] | None) -> tuple[Any, Any, dict[str, Any], Any]:
    """Read described task sets: rows, held-out ones, the descriptions, and what is left out, which is also said."""
    from ipt_datasets.errors import InputError
    from ipt_datasets.tasks.description import read_description, shipped_description
    from ipt_datasets.tasks.sets import read_task_rows

    path = shipped_description(description)
    rows, reports = read_task_rows(path, data, names=names)
    for name, report in reports.items():
        print("\n".join(report.lines(name)))
    try:
        held_out = read_task_rows(path, data, part="held_out", names=names)[0].shuffle(seed=1)
    except InputError:  # the sets could be read above, so they are too small for a held-out text
        print("no text is held out of sets so small: the loss is that of the training alone")
        held_out = None
    sets = {name: task_set for name, task_set in read_description(path).items() if name in reports}
    left_out = {name: dict(report.left_out.most_common()) for name, report in reports.items()}
    return rows, held_out and held_out.select(range(min(HELD_OUT_ROWS, len(held_out)))), sets, left_out


def _show(prepared: Any) -> None:
    """Print the first sequence with what is learned of it marked, and what the training would read."""
    from ipt_datasets.tuning.report import counts, marked

    first = prepared.plan.sequences(0)[0]
    before, behind = ("\x1b[7m", "\x1b[0m") if sys.stdout.isatty() else ("[[", "]]")
    print(marked(prepared.shots, first, before, behind))
    print(
        f"\n(the first sequence; what is learned stands between {'inverse' if sys.stdout.isatty() else '[[ and ]]'})\n"
    )
    print(counts(prepared))
