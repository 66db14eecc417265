"""What decides a tuned synthesizer, and how long its training lasts."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ipt_datasets.errors import RecipeError

SCHEDULES = ("warmup_stable_decay", "cosine", "linear", "constant_with_warmup")
LENGTHS = ("max_steps", "epochs", "max_tokens")
"""The settings that say how long a training lasts; all others are kept when one is prolonged."""

LORA_RATE, FULL_RATE = 1e-3, 2e-5


@dataclass(frozen=True)
class TuneSettings:
    """What decides the weights that come out, beside the model and the rows.

    Attributes:
        shots: the most shots of a sequence; each sequence draws from 1 to this.
        max_length: the most tokens of a sequence.
        batch_tokens: tokens an optimizer step reads; a step ends with the sequence that reaches them.
        max_steps: how many optimizer steps; one of the three lengths is given.
        epochs: how often every shot is read.
        max_tokens: how many tokens are read.
        learning_rate: the highest; None for 1e-3 with LoRA and 2e-5 without.
        schedule: of the learning rate, a `lr_scheduler_type` of transformers. With "warmup_stable_decay" and
            "constant_with_warmup" a training can be prolonged from before the decay.
        decay_share: share of the steps at the end in which "warmup_stable_decay" lowers the rate to 0.
        warmup_share: share of the steps at the beginning in which the rate rises from 0.
        lora_rank: of the adapter on all linear layers; 0 tunes all weights.
        lora_alpha: the adapter counts `lora_alpha / lora_rank` times.
        seed: decides the dealing of shots into sequences, their order, and the adapter's first weights.
        shown_first: sets that teach how to go on from an example: of each of their sequences the first shot is read
            and not learned. For sets whose style (one pair a text, yes or no) is not what a text alone should get.
    """

    shots: int = 3
    max_length: int = 1024
    batch_tokens: int = 8192
    max_steps: int | None = None
    epochs: int | None = None
    max_tokens: int | None = None
    learning_rate: float | None = None
    schedule: str = "warmup_stable_decay"
    decay_share: float = 0.2
    warmup_share: float = 0.03
    lora_rank: int = 24
    lora_alpha: int = 48
    seed: int = 0
    shown_first: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shots", "max_length", "batch_tokens", *LENGTHS):
            value = getattr(self, name)
            if not (value is None and name in LENGTHS) and (not isinstance(value, int) or value < 1):
                raise RecipeError(f"{name}={value!r}: expected a whole number of at least 1")
        if len(given := [name for name in LENGTHS if getattr(self, name) is not None]) != 1:
            raise RecipeError(
                f"the length of the training is given by {' and '.join(given) or 'nothing'}; expected exactly one of "
                f"{', '.join(LENGTHS)}"
            )
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"schedule={self.schedule!r}: expected one of {', '.join(SCHEDULES)}")
        if self.shown_first and self.shots < 2:
            raise RecipeError(
                f"shots={self.shots}: nothing of {', '.join(self.shown_first)} would be learned, since the first row "
                "of their sequences is only shown; expected at least 2"
            )
        for name in ("decay_share", "warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name}={getattr(self, name)!r}: expected a number from 0 to 1")
        if self.decay_share + self.warmup_share > 1:
            raise RecipeError(
                f"warmup_share={self.warmup_share} and decay_share={self.decay_share} are more than the whole training"
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise RecipeError(f"learning_rate={self.learning_rate!r}: expected a number above 0")
        if self.lora_rank < 0 or (self.lora_rank and self.lora_alpha < 1):
            raise RecipeError(
                f"lora_rank={self.lora_rank}, lora_alpha={self.lora_alpha}: expected a rank of at least 1 and an alpha "
                "of at least 1, or rank 0 to tune all weights"
            )

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LORA_RATE if self.lora_rank else FULL_RATE

    def warmup_steps(self, steps: int) -> int:
        """Tell how many of `steps` the learning rate rises in."""
        return round(self.warmup_share * steps)

    def decay_start(self, steps: int) -> int | None:
        """Tell after which of `steps` the learning rate begins to fall; None where it falls throughout."""
        if self.schedule == "constant_with_warmup":
            return steps
        return steps - round(self.decay_share * steps) if self.schedule == "warmup_stable_decay" else None

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON holds them."""
        return asdict(self) | {"learning_rate": self.rate, "shown_first": list(self.shown_first)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TuneSettings":
        """Read what `to_dict` gave; unknown keys are left aside."""
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        return cls(**known | {"shown_first": tuple(known.get("shown_first", ()))})
