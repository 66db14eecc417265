"""What is known of a training before its first step; loads no model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipt_datasets.errors import EngineError, RecipeError, one_line
from ipt_datasets.models.adapter import CONFIG, WEIGHTS
from ipt_datasets.models.embedded import ADAPTER
from ipt_datasets.models.identity import locate
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.tokens import HFTokenizer
from ipt_datasets.tuning.plan import Plan, make_plan
from ipt_datasets.tuning.settings import TuneSettings
from ipt_datasets.tuning.shots import TaskShots, read_shots

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first step.

    Attributes:
        model: as the user named it.
        location: where it is loaded from.
        shots: what is learned.
        held_out: what is only evaluated.
        plan: what is read, in order.
        source: where the rows come from.
        origins: of each task set, where it comes from and under which licence, as far as it is known.
        left_out: of each task set, how often each reason of `tasks.converters.LEFT_OUT` was met.
        adapter: the folder of the LoRA adapter whose weights the training begins with; None: new ones.
    """

    model: str
    location: str | Path
    settings: TuneSettings
    prompter: Prompter
    shots: TaskShots
    held_out: TaskShots | None
    plan: Plan
    source: str = ""
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    adapter: Path | None = None


def prepare(
    model: str,
    rows: Rows,
    settings: TuneSettings,
    *,
    validation: Rows | None = None,
    source: str = "the rows",
    origins: Mapping[str, tuple[str, str]] | None = None,
    left_out: Mapping[str, Mapping[str, int]] | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
) -> Prepared:
    """Encode the rows and fix the order in which they are read; loads the tokenizer alone.

    Args:
        model: "smol-base", a Hub id or a folder.
        rows: with the columns `text`, `pairs` and `task_set` of `schema.TASK_FEATURES`.
        settings: what decides the weights.
        validation: rows of which only the loss is computed.
        source: how messages and the card name the rows.
        origins: of each task set, where it comes from and under which licence, for the card.
        left_out: of each task set, what was not made a row, for the card.
        revision: branch, tag or commit of a Hub id.
        adapter: "smol" (the shipped one) or the folder of a LoRA adapter, to go on from its weights.

    Raises:
        EngineError: the model or the adapter is not there, or the tokenizer cannot be loaded.
        RecipeError: the adapter has another rank or alpha than the settings.
        InputError: the rows lack a column, or none of them can be learned.
    """
    location = locate(model, "transformers")
    begin_with = _checked_adapter(adapter, settings) if adapter else None
    try:
        tokenizer = HFTokenizer.from_pretrained(location, revision)
    except (OSError, ValueError) as error:
        raise EngineError(f"the tokenizer of model {model!r} cannot be loaded: {one_line(error)}") from error
    prompter = Prompter(tokenizer, PAPER)
    shots = read_shots(rows, prompter, settings.max_length, source, settings.shown_first)
    held_out = None
    if validation is not None:
        held_out = read_shots(validation, prompter, settings.max_length, "the held-out rows", settings.shown_first)
    plan = make_plan(shots.table, settings)
    return Prepared(
        model, location, settings, prompter, shots, held_out, plan, source, origins or {}, left_out or {}, begin_with
    )


def _checked_adapter(adapter: str | Path, settings: TuneSettings) -> Path:
    """Give the folder of an adapter that a training with these settings can go on from."""
    folder = ADAPTER if adapter == "smol" else Path(adapter)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        (folder / WEIGHTS).stat()
    except (OSError, ValueError) as error:
        raise EngineError(
            f"adapter {str(adapter)!r} cannot be read ({one_line(error)}); expected smol, or a folder with {CONFIG} "
            f"and {WEIGHTS}"
        ) from error
    its = {"lora_rank": config.get("r"), "lora_alpha": config.get("lora_alpha")}
    if its != (asked := {name: getattr(settings, name) for name in its}):
        raise RecipeError(f"adapter {str(adapter)!r} has {its}, and the settings {asked}; give those of the adapter")
    return folder
