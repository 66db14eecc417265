"""The command line that a recipe came from, for the card."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ipt_datasets.corpus.mix import DOCUMENTS_PER_SHARD, SHUFFLE_BUFFER
from ipt_datasets.corpus.share import ROWS_PER_SHARD
from ipt_datasets.recipe import Recipe, read_primer
from ipt_datasets.synthesis.primer import PRIMER

_AUGMENT = {"split": "train", "fraction": 1.0, "seed": 0, "rows_per_shard": ROWS_PER_SHARD}
_TEMPLATIZE = {"split": "train", "config_name": "pairs"}
_MIX = {"seed": 0, "shuffle_buffer": SHUFFLE_BUFFER, "rows_per_shard": DOCUMENTS_PER_SHARD}
_MIX_SOURCE = {"on_end": "stop", "split": "train"}
_PACK = {"split": "train", "text_column": "text", "length": 4096, "rest": "drop"}


def reproducing_command(recipe: Mapping[str, Any]) -> str:
    """Give the command line that makes the same corpus; "" where the recipe does not tell.

    What a recipe holds by value, a primer or templates, has to be given as a file again: the line names PRIMER.json and
    TEMPLATES.toml in their places.
    """
    if "mixture" in recipe:
        words = _mix(recipe)
    elif "length" in recipe and "input" in recipe:
        words = _pack(recipe)
    elif "templating" in recipe and "input" in recipe:
        words = _augment(recipe) if recipe.get("synthesis") else _templatize(recipe)
    else:
        return ""
    return shlex.join(["ipt", *words])


def _augment(recipe: Mapping[str, Any]) -> list[str]:
    given, synthesis = recipe["input"], recipe["synthesis"]
    words = ["augment", str(given["source"]), "OUTPUT", *_options(given, _AUGMENT, "source")]
    shipped = () if synthesis["markup"] == "paper" else PRIMER
    if read_primer(synthesis["primer"]) != read_primer(shipped):
        words += ["--primer", "PRIMER.json"]
    if synthesis["model"] != "smol" and synthesis["engine"] != "scripted":  # else it is a hash of the weights
        words += _options({"model_revision": synthesis["revision"]}, {"model_revision": ""})
    defaults = {field.name: field.default for field in fields(Recipe)}
    words += _options(synthesis, defaults, "primer", "revision", "version", "seed")
    if shard := recipe.get("shard"):
        words += ["--shard", f"{shard['index']}/{shard['count']}"]
    return words + _templates(recipe)


def _templatize(recipe: Mapping[str, Any]) -> list[str]:
    given, templating = recipe["input"], recipe["templating"]
    words = ["templatize", str(given["source"]), "OUTPUT", *_options(given, _TEMPLATIZE, "source")]
    words += _options({"seed": templating["seed"], "text_column": templating["text_column"]}, {"text_column": "text"})
    return words + _templates(recipe)


def _mix(recipe: Mapping[str, Any]) -> list[str]:
    sources = {name: recipe["mixture"][name] for name in recipe["order"]}
    words = ["mix", "OUTPUT", *(f"{name}={one['source']}:{one['weight']}" for name, one in sources.items())]
    words += _tokenizer(recipe)
    words += _options(recipe, _MIX, "mixture", "order", "tokenizer", "version", "package")
    for name, one in sources.items():
        columns = ":".join(one["columns"]) if one["columns"] else None
        for key, value in {**one, "columns": columns}.items():
            if key not in ("source", "weight") and value is not None and value != _MIX_SOURCE.get(key):
                words += [f"--{key.replace('_', '-')}", f"{name}={value}"]
    return words


def _pack(recipe: Mapping[str, Any]) -> list[str]:
    given = recipe["input"]
    words = ["pack", str(given["source"]), "OUTPUT", *_tokenizer(recipe), *_options(given, _PACK, "source")]
    return words + _options(recipe, _PACK, "input", "tokenizer", "version", "package")


def _tokenizer(recipe: Mapping[str, Any]) -> list[str]:
    tokenizer = recipe["tokenizer"]
    return ["--tokenizer", str(tokenizer["name"]), *_options({"tokenizer_revision": tokenizer.get("revision")}, {})]


def _templates(recipe: Mapping[str, Any]) -> list[str]:
    return ["--templates", "TEMPLATES.toml"] * len(recipe["templating"].get("templates") or ())


def _options(values: Mapping[str, Any], defaults: Mapping[str, Any], *left_out: str) -> list[str]:
    """Write options that differ from what they are by default."""
    words = []
    for name, value in values.items():
        if name not in left_out and value is not None and value is not False and value != defaults.get(name):
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    return words
