"""What a training leaves behind: weights, card, log, picture of the loss, recipe."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ipt_datasets.corpus.folder import CARD, RECIPE
from ipt_datasets.tuning.folder import TuningFolder
from ipt_datasets.tuning.plan import read_and_learned
from ipt_datasets.tuning.prepare import Prepared

PICTURE, LOG = "loss.png", "training_log.jsonl"
_EMBEDDED_BASE = (
    "The base weights are those of a 4-bit file, dequantised to bfloat16; the original ones are near but not equal."
)


def write_result(
    folder: TuningFolder,
    model: Any,
    prepared: Prepared,
    log: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    base: str,
) -> None:
    """Write the adapter, or the tuned model with its tokenizer, and all that tells where it comes from.

    Args:
        folder: shows the files when all of them are there.
        model: with a peft adapter, or without.
        prepared: what was learned.
        log: what `tune` gives.
        recipe: what decides the weights.
        base: the name of the base model, for those who load the adapter.
    """
    import torch

    result = folder.new_result()
    if prepared.settings.lora_rank:
        for parameter in model.parameters():
            if parameter.requires_grad:  # half the size, and the base it is added to has no more digits
                parameter.data = parameter.data.to(torch.bfloat16)
        model.peft_config["default"].base_model_name_or_path = base
        if isinstance(prepared.location, str):  # a Hub id: its commit
            model.peft_config["default"].revision = recipe["model"]["revision"]
        model.save_pretrained(result, save_embedding_layers=False)
    else:
        model.config.use_cache = True
        model.to(torch.bfloat16).save_pretrained(result)
        prepared.prompter.tokenizer.tokenizer.save_pretrained(result)  # type: ignore[attr-defined]
    for weights in result.glob("*.safetensors"):  # safetensors makes its files readable by nobody else
        weights.chmod(next(result.glob("*config.json")).stat().st_mode)
    lines = (json.dumps(entry) + "\n" for entry in log)
    (result / LOG).write_text("".join(lines), "utf-8")
    draw_loss(log, result / PICTURE)
    folder.write_json(result / RECIPE, {**recipe, "steps": prepared.plan.steps})
    (result / CARD).write_text(render_card(prepared, log, recipe, base), "utf-8")
    folder.publish()


def command(prepared: Prepared) -> str:
    """Give the command line that makes the same adapter, the output's name aside."""
    flags = [f"--adapter {prepared.adapter}"] if prepared.adapter else []
    flags += [
        f"--{name.replace('_', '-')} {value}"
        for name, value in prepared.settings.to_dict().items()
        if value is not None and name != "shown_first"  # that stands in the description of the sets
    ]
    return f"ipt tune {prepared.model} OUTPUT --on {prepared.source} {' '.join(flags)}"


def draw_loss(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training and held-out loss over the tokens read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("held_out_loss", "held-out", "o-")):
        points = [(entry["tokens"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=4)
    axes.set_xlabel("tokens read")
    axes.set_ylabel("mean loss of a learned token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def render_card(prepared: Prepared, log: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], base: str) -> str:
    """Write the model card: what it is, how to use it, what it learned from, how."""
    settings, plan, table = prepared.settings, prepared.plan, prepared.shots.table
    what = "LoRA adapter" if settings.lora_rank else "model"
    header = [
        "---",
        f"base_model: {json.dumps(base)}",
        f"library_name: {'peft' if settings.lora_rank else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags: [instruction-pretraining, synthetic-data, ipt-datasets]",
        "---",
    ]
    rows = np.bincount(table.sets, minlength=len(table.set_names))
    sets = []
    for name, *counts in zip(table.set_names, rows, *read_and_learned(table, plan), strict=True):
        cells = [name or "(unnamed)", *prepared.origins.get(name, ("", "")), *(f"{int(count):,}" for count in counts)]
        left_out = prepared.left_out.get(name, {})
        cells.append(", ".join(f"{count:,} {reason}" for reason, count in left_out.items()))
        sets.append(f"| {' | '.join(cells)} |")
    last = [entry["loss"] for entry in log if "loss" in entry][-20:]
    held_out = [(entry["step"], entry["held_out_loss"]) for entry in log if "held_out_loss" in entry]
    losses = [f"The mean training loss of the last {len(last)} steps is {np.mean(last):.3f}."] if last else []
    if held_out:
        losses.append(
            f"The loss on the held-out rows went from {held_out[0][1]:.3f} at step {held_out[0][0]:,} to "
            f"{held_out[-1][1]:.3f} at step {held_out[-1][0]:,}."
        )
    body = [
        f"# An instruction synthesizer: {what} on {base}",
        "",
        "It reads a raw text and writes instruction-response pairs about it, in the markup of Instruction Pre-Training "
        "(Cheng et al. 2024, arXiv 2406.14491). It was tuned with `ipt tune` of the package ipt-datasets.",
        "",
        *([_EMBEDDED_BASE, ""] if prepared.model == "smol-base" else []),
        f"![Loss over the tokens read]({PICTURE})",
        "",
        *losses,
        "",
        "## What it was tuned on",
        "",
        "| set | from | licence | rows | tokens read | of them learned | left out |",
        "|---|---|---|---:|---:|---:|---|",
        *sets,
        "",
        f"Up to {settings.shots} rows of one set make a sequence of at most {settings.max_length:,} tokens. The texts "
        "are read, the pairs and the token that ends them are learned. "
        f"{plan.steps:,} steps read {int(plan.tokens[-1]):,} tokens and learned from {int(plan.learned[-1]):,}.",
        "",
        "## How",
        "",
        f"`{command(prepared)}`",
        "",
        "| setting | value |",
        "|---|---|",
        *(
            f"| {name} | {', '.join(value) if isinstance(value, list) else value} |"
            for name, value in settings.to_dict().items()
            if value not in (None, [])
        ),
        f"| base revision | {recipe['model']['revision'] or 'newest'} |",
        *([f"| went on from | an adapter, {recipe['model']['adapter']} |"] if prepared.adapter else []),
        f"| fingerprint of the rows | {recipe['rows']['fingerprint']} |",
        f"| made with | {recipe['package']} |",
        "",
    ]
    return "\n".join([*header, "", *body])
