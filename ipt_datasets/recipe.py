"""The recipe of a synthesis: everything that decides its output, and nothing else. Frozen, JSON, versioned."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ipt_datasets.errors import RecipeError
from ipt_datasets.schema import Pair

RECIPE_VERSION = 1
"""Rises whenever the same recipe would give another output."""

ENGINES = ("auto", "vllm", "transformers", "server", "scripted")
MARKUP_NAMES = ("paper", "plain", "chat")
LONG_TEXTS = ("split", "truncate", "skip")

Primer = tuple[tuple[str, tuple[Pair, ...]], ...]


@dataclass(frozen=True)
class Recipe:
    """What decides the pairs that are written about a corpus.

    Attributes:
        model: "smol" or "smol-base" (the embedded ones), a Hub id or a folder.
        revision: the commit of a Hub id, or the hash of the weights; "" until it has been looked up.
        engine: what runs the model, "auto" until it has been chosen.
        markup: how shots are written for the model: "paper" for synthesizers tuned on the paper's tags, "plain" for
            any base model behind a primer, "chat" for an instruct model through its chat template.
        primer: finished shots in front of every chain, each a text and its pairs; none for tuned models.
        shots: raw texts (or windows of long ones) a chain, the paper's M.
        max_new_tokens: the most tokens of one completion (400 in the paper).
        max_model_len: prompt and completion together, in tokens; None: the model's own length, 4096 at most.
        temperature: 0 is greedy.
        top_p: share of the probability that sampling draws from.
        repetition_penalty: above 1 makes what already stands in the prompt and the completion less likely, the text's
            own words among it.
        frequency_penalty: above 0 makes what already stands in the completion less likely, the more the oftener: it
            ends the loops of small models and leaves the text's words alone, but in the end also the markup fails.
        presence_penalty: the same, but equally much however often it stands there, so that the markup holds.
        long_texts: what happens to a text longer than one prompt holds: "split" in windows that are shots of their
            own, "truncate" (only the first window is read), or "skip" (status `too_long`).
        max_windows: the most windows of one long text; None: all.
        max_pairs: the most pairs kept of one text; None: all.
        text_column: the column that holds the raw texts.
        seed: decides sampling.
        version: of the recipe's meaning, see RECIPE_VERSION.
    """

    model: str = "smol"
    revision: str = ""
    engine: str = "auto"
    markup: str = "paper"
    primer: Primer = ()
    shots: int = 2
    max_new_tokens: int = 400
    max_model_len: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    long_texts: str = "split"
    max_windows: int | None = None
    max_pairs: int | None = None
    text_column: str = "text"
    seed: int = 0
    version: int = field(default=RECIPE_VERSION)

    def __post_init__(self) -> None:
        _check_choice("engine", self.engine, ENGINES)
        _check_choice("markup", self.markup, MARKUP_NAMES)
        _check_choice("long_texts", self.long_texts, LONG_TEXTS)
        for name in ("shots", "max_new_tokens"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("max_model_len", "max_windows", "max_pairs"):
            if getattr(self, name) is not None:
                _check_at_least(name, getattr(self, name), 1)
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_number("top_p", self.top_p, 1e-6, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        if not isinstance(self.seed, int):
            raise RecipeError(f"seed={self.seed!r}: expected a whole number")
        if not self.model or not isinstance(self.model, str):
            raise RecipeError(f"model={self.model!r}: expected 'smol', 'smol-base', a Hub id or a folder")
        if not self.text_column or not isinstance(self.text_column, str):
            raise RecipeError(f"text_column={self.text_column!r}: expected the name of a column")

    def to_dict(self) -> dict[str, Any]:
        """Give the recipe as JSON holds it."""
        loaded: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return loaded

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Read what `to_dict` gave.

        Raises:
            RecipeError: unknown keys, or a recipe of another version.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise RecipeError(f"unknown keys in the recipe: {', '.join(unknown)}; expected {', '.join(sorted(known))}")
        if values.get("version", RECIPE_VERSION) != RECIPE_VERSION:
            raise RecipeError(
                f"the recipe is of version {values['version']}, this package reads version {RECIPE_VERSION}; "
                "use the package version that wrote it, or start anew"
            )
        return cls(**{**values, "primer": read_primer(values.get("primer", ()))})


def read_primer(primer: Iterable[Any]) -> Primer:
    """Read finished shots: (text, pairs) tuples or {"text": ..., "pairs": [...]} mappings.

    A pair is whatever `Pair.read` reads: a `Pair`, a mapping with `instruction` and `response`, or a tuple of them.

    Raises:
        RecipeError: a shot without a text or without pairs, or a pair that is none of the above.
    """
    shots = []
    for number, shot in enumerate(primer):
        try:
            text, pairs = (shot["text"], shot["pairs"]) if isinstance(shot, Mapping) else shot
            read = tuple(Pair.read(pair) for pair in pairs)
        except (TypeError, ValueError, KeyError) as error:
            raise RecipeError(
                f"shot {number} of the primer is {shot!r:.200}; expected a text and its pairs, each with an "
                "instruction and a response"
            ) from error
        if not isinstance(text, str) or not text.strip() or not read:
            raise RecipeError(f"shot {number} of the primer needs a text and at least one pair, got {shot!r:.200}")
        shots.append((text, read))
    return tuple(shots)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")


def _check_at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RecipeError(f"{name}={value!r}: expected a whole number of at least {least}")


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise RecipeError(f"{name}={value!r}: expected a number from {least:g} to {most:g}")
