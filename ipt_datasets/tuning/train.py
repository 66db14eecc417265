"""Tuning a language model into a synthesizer: transformers' Trainer on a fixed plan, resumed exactly."""

import contextlib
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipt_datasets.errors import EngineError, InputError, OutputError, RecipeError, one_line
from ipt_datasets.models.embedded import BASE_ID
from ipt_datasets.models.identity import hash_folder, resolve_revision
from ipt_datasets.tuning import loading
from ipt_datasets.tuning.callbacks import progress_callback, training_callback
from ipt_datasets.tuning.folder import TuningFolder
from ipt_datasets.tuning.loss import collate, mean_loss
from ipt_datasets.tuning.plan import ForwardPasses, Plan, make_plan
from ipt_datasets.tuning.prepare import Prepared
from ipt_datasets.tuning.result import write_result
from ipt_datasets.tuning.settings import TuneSettings


@dataclass(frozen=True)
class Running:
    """How a training is run; changes nothing but rounding errors in what comes out.

    Attributes:
        forward_tokens: about how many tokens one forward pass reads, padding included; None for `max_length`.
        save_every: steps between checkpoints.
        evaluate_every: steps between evaluations on the held-out rows; None for `save_every`.
        threads: of torch on a CPU; None for its own choice.
        gradient_checkpointing: less memory, more time.
        compile: let torch fuse what each layer does; half a minute before the first step and a C++ compiler on a CPU,
            then steps take about five sixths of the time.
    """

    forward_tokens: int | None = None
    save_every: int = 50
    evaluate_every: int | None = None
    threads: int | None = None
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("forward_tokens", "save_every", "evaluate_every", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RecipeError(f"{name}={value!r}: expected a whole number of at least 1")


@dataclass(frozen=True)
class Tuned:
    """What a training came to.

    Attributes:
        path: the folder of the adapter, or of the model.
        log: one entry a step (`step`, `tokens`, `loss`, `learning_rate`) or evaluation (`step`, `held_out_loss`).
        is_new: False where it had been finished before.
    """

    path: Path
    plan: Plan
    log: list[dict[str, Any]] = field(default_factory=list)
    is_new: bool = True


def tune(
    prepared: Prepared,
    output: str | Path,
    running: Running | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
) -> Tuned:
    """Tune a model on what `prepare` gave, and write the adapter (or the model), its card, log and recipe.

    Under `accelerate launch` every process calls this; the main one writes.

    Args:
        prepared: model, settings and plan.
        output: the folder to write.
        running: how it is run.
        resume: go on from the last whole checkpoint; start where there is none.
        overwrite: replace what an earlier training wrote.
        revision: branch, tag or commit of a Hub id.

    Raises:
        OutputError: the folder cannot be used, see `TuningFolder.begin`, or the disk is full.
        EngineError: the model cannot be loaded, or memory does not suffice.
    """
    check_installed()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    running = running or Running()
    for read in (prepared.location, prepared.adapter):
        if isinstance(read, Path) and read.resolve() == Path(output).resolve():
            raise RecipeError(f"{output} is what the training reads its weights from; name another folder")
    state = PartialState(cpu=loading.on_cpu())  # told so, it joins several processes on a CPU, too
    recipe = make_recipe(prepared, revision)
    with contextlib.ExitStack() as stack, _plain_errors(output):
        folder = TuningFolder(output, is_main=state.is_main_process)
        stack.enter_context(folder)
        goes_on = True
        if state.is_main_process:
            goes_on = folder.begin(recipe, prepared.plan.steps, resume=resume, overwrite=overwrite)
        if not broadcast_object_list([goes_on])[0]:
            return Tuned(folder.path, prepared.plan, is_new=False)
        log = _train(prepared, folder, running, revision, recipe)
        state.wait_for_everyone()
    return Tuned(folder.path, prepared.plan, log)


def check_installed() -> None:
    """Make sure that all that a training needs is there, before it takes hours.

    Raises:
        EngineError: a package is missing.
    """
    missing = [name for name in ("torch", "transformers", "accelerate", "peft", "matplotlib") if not find_spec(name)]
    if missing:
        raise EngineError(f'tuning needs {", ".join(missing)}: run `pip install "ipt-datasets[tune]"`')


def make_recipe(prepared: Prepared, revision: str | None = None) -> dict[str, Any]:
    """Give everything that decides the weights, as `recipe.json` holds it."""
    table = prepared.shots.table
    held_out = prepared.held_out.table.fingerprint() if prepared.held_out else None
    return {
        "settings": prepared.settings.to_dict(),
        "model": {
            "name": prepared.model,
            "revision": resolve_revision(prepared.model, revision or "", "transformers"),
            **({"adapter": hash_folder(prepared.adapter)} if prepared.adapter else {}),
        },
        "rows": {"number": len(table), "fingerprint": table.fingerprint(), "held_out": held_out},
        "package": ", ".join(f"{name} {_version(name)}" for name in ("ipt-datasets", "torch", "transformers", "peft")),
    }


def _train(
    prepared: Prepared, folder: TuningFolder, running: Running, revision: str | None, recipe: Mapping[str, Any]
) -> list[dict[str, Any]]:
    import torch
    from transformers import Trainer, set_seed
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    if running.threads:
        torch.set_num_threads(running.threads)
    set_seed(prepared.settings.seed)
    args = _arguments(prepared, folder, running)
    model = loading.load_model(prepared, revision, running.gradient_checkpointing, running.compile)
    begin = prepared.prompter.tokenizer.eos_id
    parts = args.gradient_accumulation_steps * args.world_size
    held_out = None
    if prepared.held_out:
        once = TuneSettings(
            shots=prepared.settings.shots,
            max_length=prepared.settings.max_length,
            batch_tokens=prepared.settings.batch_tokens,
            epochs=1,
            shown_first=prepared.settings.shown_first,
        )
        held_out = ForwardPasses(prepared.held_out, make_plan(prepared.held_out.table, once), parts)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=ForwardPasses(prepared.shots, prepared.plan, parts, args.world_size),
        data_collator=partial(collate, begin=begin),
        compute_loss_func=mean_loss,
    )
    for default in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(default)
    before_decay = prepared.settings.decay_start(prepared.plan.steps)
    every = running.evaluate_every or running.save_every
    if args.process_index == 0:
        trainer.add_callback(progress_callback(prepared.plan))
    trainer.add_callback(training_callback(trainer, folder, prepared.plan, held_out, begin, every, before_decay))
    checkpoint = folder.last_checkpoint()
    with loading.quiet():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    log = _log(trainer.state.log_history, prepared.plan)
    if not all(torch.isfinite(one).all() for one in trainer.model.parameters() if one.requires_grad):
        raise EngineError(
            f"the training diverged: weights are not finite after {prepared.plan.steps:,} steps, and nothing was "
            "written; start anew with --overwrite and a lower --learning-rate"
        )
    if trainer.is_world_process_zero():
        name = BASE_ID if prepared.model == "smol-base" else prepared.model
        write_result(folder, trainer.accelerator.unwrap_model(trainer.model), prepared, log, recipe, name)
    return log


def _arguments(prepared: Prepared, folder: TuningFolder, running: Running) -> Any:
    import torch
    from transformers import TrainingArguments

    settings, steps = prepared.settings, prepared.plan.steps
    schedule: dict[str, Any] = {}
    if settings.schedule == "warmup_stable_decay":
        schedule = {"num_decay_steps": steps - (settings.decay_start(steps) or 0), "decay_type": "1-sqrt"}
    args = TrainingArguments(
        output_dir=str(folder.checkpoints),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=settings.rate,
        lr_scheduler_type=settings.schedule,
        lr_scheduler_kwargs=schedule,
        warmup_steps=settings.warmup_steps(steps),
        adam_beta2=0.95,
        weight_decay=0.0,
        optim="adamw_torch",
        seed=settings.seed,
        train_sampling_strategy="sequential",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=running.save_every,
        report_to="none",
        remove_unused_columns=False,
        gradient_checkpointing=running.gradient_checkpointing,
        use_cpu=loading.on_cpu(),
        # An adapter on 16-bit weights needs no autocast; on a CPU that computes in 16 bits it is faster with it.
        bf16=loading.cpu_computes_in_16_bits() if settings.lora_rank else torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
    )
    if args.n_gpu > 1:  # several devices are for `accelerate launch`: replicas in threads would mix up what is kept
        args._n_gpu = 1
    passes = math.ceil(settings.batch_tokens / (running.forward_tokens or settings.max_length))
    args.gradient_accumulation_steps = max(1, round(passes / args.world_size))
    return args


def _log(history: Sequence[Mapping[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Give what Trainer and the evaluations noted, under our names and with the tokens read so far."""
    log = []
    for entry in history:
        if "loss" in entry:
            kept = {"loss": entry["loss"], "learning_rate": entry["learning_rate"], "grad_norm": entry.get("grad_norm")}
        elif "held_out_loss" in entry:
            kept = {"held_out_loss": entry["held_out_loss"]}
        else:
            continue
        step = int(entry["step"])
        log.append({"step": step, "tokens": int(plan.tokens[step]), **kept})
    return log


@contextlib.contextmanager
def _plain_errors(output: str | Path) -> Iterator[None]:
    """Turn what a full disk or too little memory raises, each library in its way, into one line."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"memory does not suffice ({one_line(error):.150}); lower --forward-tokens or --max-length, or give "
            "--gradient-checkpointing"
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, EngineError | RecipeError | InputError | OutputError):
            raise
        writing = isinstance(error, OSError | SafetensorError) or re.search(
            "PytorchStreamWriter|inline_container|file write", str(error)
        )
        if not writing:
            raise
        raise OutputError(
            f"{output} could not be written ({one_line(error)}); whole checkpoints are kept: make room and go on with "
            "--resume"
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        logging.getLogger(__name__).debug("%s is not installed", package)
        return "none"
