"""Which engine runs a model, and how it is opened."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipt_datasets.errors import RecipeError
from ipt_datasets.recipe import Recipe
from ipt_datasets.synthesis.engines import Engine
from ipt_datasets.synthesis.markup import MARKUPS

OWN_SETTINGS = {
    "model": "--model",
    "name": "--model",
    "revision": "--model-revision",
    "tokenizer": "--model",
    "markup": "--markup",
    "max_model_len": "--max-model-len",
}
"""What no engine option may say, since it decides the output: settings of their own, and how the commands call them."""

SCRIPTED_OPTIONS = frozenset({"script", "max_requests"})

LEAST = {
    "batch_size": 1,
    "cache_tokens": 0,
    "max_requests": 1,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
}
"""Options that this package counts with, and the least that each may be; the rest is checked by who takes it."""


def choose_engine(engine: str) -> str:
    """Give the engine's name; "auto" is vLLM where it is installed with a GPU, else transformers."""
    if engine != "auto":
        return engine
    if find_spec("vllm") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def check_workers(workers: int, engine: str | Engine) -> None:
    """Make sure that an engine can be had in several processes.

    Args:
        workers: how many.
        engine: its name, or an engine object.

    Raises:
        RecipeError: no number of workers, or an engine that is not ours to start.
    """
    if not isinstance(workers, int) or workers < 1:
        raise RecipeError(f"workers={workers!r}: expected a whole number of at least 1, one a GPU of this machine")
    if workers > 1 and not isinstance(engine, str):
        raise RecipeError(f"workers={workers} needs the name of an engine, not an engine object that runs already")
    if workers > 1 and engine == "server":
        raise RecipeError(f"workers={workers}: engine='server' starts no model here; give it more servers instead")


def open_engine(
    recipe: Recipe, model: str | Path, revision: str | None, options: Mapping[str, Any], workers: int = 1
) -> Engine:
    """Load a model.

    Args:
        recipe: names the engine, the markup and the length.
        model: where the model is: a folder or a Hub id.
        revision: of a Hub id.
        options: the engine's own.
        workers: in how many processes, see `WorkersEngine`; with 1 in this one.

    Raises:
        EngineError: the engine is not installed, or the model cannot be loaded.
        RecipeError: an option that has a setting of its own, or one that is no option of the engine.
    """
    if own := sorted(OWN_SETTINGS.keys() & options.keys()):
        raise RecipeError(
            f"engine option {', '.join(own)}: this decides the output, so it is a setting of its own; give "
            f"{OWN_SETTINGS[own[0]]} on the command line, "
            f"{OWN_SETTINGS[own[0]].removeprefix('--').removeprefix('model-').replace('-', '_')}= to a Synthesizer"
        )
    if recipe.engine == "scripted" and (unknown := sorted(options.keys() - SCRIPTED_OPTIONS)):
        raise RecipeError(
            f"engine option {', '.join(unknown)}: the scripted engine has {', '.join(sorted(SCRIPTED_OPTIONS))}"
        )
    if recipe.engine == "scripted" and not callable(options.get("script") or str):
        raise RecipeError(f"engine option script={options['script']!r:.100}: expected a function; leave it out")
    for name in sorted(LEAST.keys() & options.keys()):
        value = options[name]
        if name == "cache_tokens" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < LEAST[name]:
            raise RecipeError(f"engine option {name}={value!r}: expected a whole number of at least {LEAST[name]}")
    if workers > 1:
        from ipt_datasets.synthesis.engines.workers import WorkersEngine

        return WorkersEngine(recipe, model, revision, options, workers)
    if recipe.engine == "scripted":
        from ipt_datasets.synthesis.engines.scripted import ScriptedEngine

        return ScriptedEngine(MARKUPS[recipe.markup], max_model_len=recipe.max_model_len, **options)
    if recipe.engine == "vllm":
        from ipt_datasets.synthesis.engines.vllm import VLLMEngine

        return VLLMEngine(model, revision=revision, max_model_len=recipe.max_model_len, **options)
    if recipe.engine == "server":
        from ipt_datasets.synthesis.engines.server import ServerEngine

        return ServerEngine(model, name=recipe.model, revision=revision, max_model_len=recipe.max_model_len, **options)
    from ipt_datasets.synthesis.engines.transformers import TransformersEngine

    return TransformersEngine(model, revision=revision, max_model_len=recipe.max_model_len, **options)
