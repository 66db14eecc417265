"""Turn raw corpora into instruction-augmented pre-training corpora (Instruction Pre-Training, arXiv 2406.14491).

pairs = ds.map(synthesize_batch, batched=True)
texts = pairs.map(templatize_batch, batched=True, remove_columns=pairs.column_names)
texts.push_to_hub("me/augmented")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipt_datasets.corpus.augment import augment
    from ipt_datasets.corpus.builders import InstructionAugmentedCorpora
    from ipt_datasets.corpus.mix import mix
    from ipt_datasets.corpus.mixing.sources import MixSource
    from ipt_datasets.corpus.pack import pack
    from ipt_datasets.corpus.publish import publish
    from ipt_datasets.quality.evaluate import ScoreSheet, evaluate
    from ipt_datasets.recipe import Recipe
    from ipt_datasets.schema import Pair
    from ipt_datasets.synthesis.markup import parse_pairs, render_prompt
    from ipt_datasets.synthesis.synthesizer import Synthesizer, synthesize_batch
    from ipt_datasets.tasks.builder import SynthesizerCollection
    from ipt_datasets.templating.report import diversity_report
    from ipt_datasets.templating.templatizer import Templatizer, templatize_batch

_HOMES = {
    "InstructionAugmentedCorpora": "corpus.builders",
    "MixSource": "corpus.mixing.sources",
    "Pair": "schema",
    "Recipe": "recipe",
    "ScoreSheet": "quality.evaluate",
    "Synthesizer": "synthesis.synthesizer",
    "SynthesizerCollection": "tasks.builder",
    "Templatizer": "templating.templatizer",
    "augment": "corpus.augment",
    "diversity_report": "templating.report",
    "evaluate": "quality.evaluate",
    "mix": "corpus.mix",
    "pack": "corpus.pack",
    "parse_pairs": "synthesis.markup",
    "publish": "corpus.publish",
    "render_prompt": "synthesis.markup",
    "synthesize_batch": "synthesis.synthesizer",
    "templatize_batch": "templating.templatizer",
}

__all__ = [
    "InstructionAugmentedCorpora",
    "MixSource",
    "Pair",
    "Recipe",
    "ScoreSheet",
    "Synthesizer",
    "SynthesizerCollection",
    "Templatizer",
    "augment",
    "diversity_report",
    "evaluate",
    "mix",
    "pack",
    "parse_pairs",
    "publish",
    "render_prompt",
    "synthesize_batch",
    "templatize_batch",
]


def __getattr__(name: str) -> Any:
    # Each name is imported when it is first used: `import ipt_datasets` costs next to nothing.
    if name not in _HOMES:
        raise AttributeError(f"module 'ipt_datasets' has no attribute {name!r}")
    value = getattr(import_module(f"ipt_datasets.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
