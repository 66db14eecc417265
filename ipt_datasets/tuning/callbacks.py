"""What happens between the steps of a training: evaluations, checkpoints sealed, progress shown."""

import time
from pathlib import Path
from typing import Any

from ipt_datasets.tuning.folder import TuningFolder
from ipt_datasets.tuning.loss import evaluate
from ipt_datasets.tuning.plan import ForwardPasses, Plan


def training_callback(
    trainer: Any,
    folder: TuningFolder,
    plan: Plan,
    held_out: ForwardPasses | None,
    begin: int,
    evaluate_every: int,
    before_decay: int | None,
) -> Any:
    """Give the `TrainerCallback` that evaluates the held-out shots and seals checkpoints.

    Args:
        trainer: of transformers.
        folder: holds the checkpoints.
        plan: of the training.
        held_out: evaluated before the first step, every so many steps and behind the last.
        begin: the id that pads.
        evaluate_every: in steps.
        before_decay: the step behind which a checkpoint is written and kept.
    """
    from transformers import TrainerCallback

    def evaluate_now(model: Any) -> None:
        if held_out is not None:
            trainer.log({"held_out_loss": evaluate(model, trainer.accelerator, held_out, begin)})

    class Between(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                evaluate_now(trainer.model)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            if state.global_step % evaluate_every == 0 or state.global_step == plan.steps:
                evaluate_now(trainer.model)
                control.should_log = True  # logging the evaluation has reset it, and the step's loss is still to come
            if state.global_step == before_decay:
                control.should_save = True
            return control

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer.accelerator.wait_for_everyone()  # each process writes its random state
            if state.is_world_process_zero:
                folder.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", before_decay)

    return Between()


def progress_callback(plan: Plan) -> Any:
    """Give the `TrainerCallback` that shows steps, loss, and tokens a second since this process began."""
    from datasets.utils import tqdm
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began_at, self.began = state.global_step, time.monotonic()
            self.shown: dict[str, str] = {}
            self.bar = tqdm(total=plan.steps, initial=state.global_step, desc="Tuning", unit="step")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            read = plan.tokens[state.global_step] - plan.tokens[self.began_at]
            if logs and "loss" in logs:
                self.shown["loss"] = f"{logs['loss']:.3f}"
                self.shown["tokens/s"] = f"{read / (time.monotonic() - self.began):.0f}"
            if logs and "held_out_loss" in logs:
                self.shown["held-out"] = f"{logs['held_out_loss']:.3f}"
            self.bar.set_postfix(self.shown)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Progress()
