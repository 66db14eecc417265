"""The sources of a mixture: what a user asks of each, as the command line writes it and as `mix` takes it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ipt_datasets.errors import RecipeError

ON_END = ("stop", "repeat", "fail")


def _read_weight(name: str, weight: Any) -> Fraction:
    number = _as_number(str(weight))
    if number is None or number <= 0:
        raise RecipeError(f"weight {str(weight)!r} of source {name!r}: expected a number above 0")
    return number


def _as_number(written: str) -> Fraction | None:
    try:
        return Fraction(written)
    except (ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True, slots=True)
class MixSource:
    """One source of a mixture.

    Attributes:
        name: stands in the column `source` and in the audit.
        source: whatever `load_dataset` takes.
        weight: its part of the tokens, relative to the other sources' weights.
        on_end: what happens when its turn comes and it has no document left: "stop" ends the mixture there, "repeat"
            reads it again in another order, "fail" is an error that leaves nothing behind.
        max_repeats: how often it may be read again; then the mixture ends as with "stop". None: without limit.
        columns: the column of its texts, or of its questions and of its responses; None: known by their names.
        split: of the source.
        config_name: of the source.
        revision: of the source, where it is a Hub id.
    """

    name: str
    source: str
    weight: Fraction | float | str = 1
    on_end: str = "stop"
    max_repeats: int | None = None
    columns: tuple[str, ...] | None = None
    split: str = "train"
    config_name: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise RecipeError(f"source name {self.name!r}: expected letters, digits and any of _ . + -")
        if not self.source:
            raise RecipeError(f"source {self.name!r} names nothing to read; expected a Hub id, a folder or a file")
        if self.on_end not in ON_END:
            raise RecipeError(f"on_end={self.on_end!r} of source {self.name!r}: expected one of {', '.join(ON_END)}")
        if self.max_repeats is not None and self.max_repeats < 1:
            raise RecipeError(f"max_repeats={self.max_repeats} of source {self.name!r}: expected at least 1")
        if self.max_repeats is not None and self.on_end != "repeat":
            raise RecipeError(f"max_repeats of source {self.name!r} needs on_end='repeat', it has {self.on_end!r}")
        object.__setattr__(self, "weight", _read_weight(self.name, self.weight))

    @classmethod
    def parse(cls, written: str, default_weights: Mapping[str, str] | None = None) -> "MixSource":
        """Read NAME=SOURCE:WEIGHT: NAME ends at the first equals sign, WEIGHT begins at the last colon.

        Args:
            written: as a user wrote it.
            default_weights: by name; only with one of them the weight may be left out.

        Raises:
            RecipeError: it is not of that form, or the weight is not a positive number.
        """
        name, equals, rest = written.partition("=")
        source, colon, weight = rest.rpartition(":")
        default = (default_weights or {}).get(name)
        if equals and default is not None and (not colon or _as_number(weight) is None):
            return cls(name, rest, default)
        if not equals or not colon:
            raise RecipeError(f"source {written!r}: expected NAME=SOURCE:WEIGHT, e.g. web=corpus.parquet:1")
        return cls(name, source, weight)

    def to_dict(self) -> dict[str, Any]:
        """Give the source as a recipe holds it."""
        return {
            "source": self.source,
            "weight": str(self.weight),
            "on_end": self.on_end,
            "max_repeats": self.max_repeats,
            "columns": list(self.columns) if self.columns else None,
            "split": self.split,
            "config_name": self.config_name,
            "revision": self.revision,
        }


RECIPES: Mapping[str, Mapping[str, MixSource]] = {
    "from-scratch": {
        "corpus": MixSource("corpus", "-"),
        "tuning": MixSource("tuning", "-", "0.008", on_end="repeat", max_repeats=3),
    },
    "domain-adaptive": {
        "augmented": MixSource("augmented", "-"),
        "instructions": MixSource("instructions", "-", on_end="repeat"),
    },
}
"""The paper's two recipes, as shorthands for weights and for what happens at a source's end.

from-scratch: `corpus` is what `ipt augment --shots 2 --fraction 0.2` wrote: a fifth of the texts augmented, the others
unchanged, each text once. `tuning`, which may be left out, is the data that the synthesizer was tuned on: read four
times at most, 0.2 billion tokens four times for each 100 billion. domain-adaptive: `augmented` is what `ipt augment
--shots 3` wrote, read once; `instructions` are general ones, as many tokens, read again where they are fewer.
"""
OPTIONAL = ("tuning",)


def read_sources(written: Sequence[str | MixSource], recipe: str | None = None) -> list[MixSource]:
    """Read the sources of a mixture.

    Args:
        written: NAME=SOURCE:WEIGHT each; with a recipe, NAME=SOURCE for the names that it knows.
        recipe: a key of RECIPES.

    Raises:
        RecipeError: one is not of that form, two have one name, or one of the recipe's is missing.
    """
    if recipe is not None and recipe not in RECIPES:
        raise RecipeError(f"recipe={recipe!r}: expected one of {', '.join(RECIPES)}")
    known = RECIPES[recipe] if recipe else {}
    weights = {name: str(preset.weight) for name, preset in known.items()}
    sources = [given if isinstance(given, MixSource) else MixSource.parse(given, weights) for given in written]
    names = [source.name for source in sources]
    if not names:
        raise RecipeError("a mixture needs at least one source: NAME=SOURCE:WEIGHT")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"source name {twice[0]!r} is given twice; every source needs a name of its own")
    if missing := [name for name in known if name not in names and name not in OPTIONAL]:
        raise RecipeError(f"recipe {recipe!r} needs a source named {missing[0]!r}: {missing[0]}=SOURCE")
    return [
        replace(source, on_end=known[source.name].on_end, max_repeats=known[source.name].max_repeats)
        if isinstance(given, str) and source.name in known
        else source
        for given, source in zip(written, sources, strict=True)
    ]
