"""Which engine runs a model, and how it is opened."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipt_datasets.recipe import Recipe
from ipt_datasets.synthesis.engines import Engine
from ipt_datasets.synthesis.markup import MARKUPS


def choose_engine(engine: str) -> str:
    """Give the engine's name; "auto" is vLLM where it is installed with a GPU, else transformers."""
    if engine != "auto":
        return engine
    if find_spec("vllm") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def open_engine(recipe: Recipe, model: str | Path, revision: str | None, options: Mapping[str, Any]) -> Engine:
    """Load a model.

    Args:
        recipe: names the engine, the markup and the length.
        model: where the model is: a folder or a Hub id.
        revision: of a Hub id.
        options: the engine's own.

    Raises:
        EngineError: the engine is not installed, or the model cannot be loaded.
    """
    if recipe.engine == "scripted":
        from ipt_datasets.synthesis.engines.scripted import ScriptedEngine

        return ScriptedEngine(MARKUPS[recipe.markup], max_model_len=recipe.max_model_len, **options)
    if recipe.engine == "vllm":
        from ipt_datasets.synthesis.engines.vllm import VLLMEngine

        return VLLMEngine(model, revision=revision, max_model_len=recipe.max_model_len, **options)
    from ipt_datasets.synthesis.engines.transformers import TransformersEngine

    return TransformersEngine(model, revision=revision, max_model_len=recipe.max_model_len, **options)
