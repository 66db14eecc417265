"""Totals of a whole input from a sample of it, each with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2_000
CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Estimate:
    """A total that is expected, and between which numbers it lies with a probability of CONFIDENCE."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Estimate":
        """Give the estimate in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, known: float) -> "Estimate":
        """Give the estimate with something added that has no error."""
        return Estimate(self.value + known, self.low + known, self.high + known)


def estimate_totals(
    sums: Mapping[str, Sequence[float]], rows: Sequence[int], total: int, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate totals by the bootstrap over the parts of a sample.

    Args:
        sums: by name, one number a part.
        rows: how many rows each part has.
        total: how many rows there are in all. What the sample holds of them is known and has no error.
        seed: of the bootstrap.
    """
    sizes = np.asarray(rows, dtype=float)
    draws = np.random.default_rng(seed).integers(len(sizes), size=(DRAWS, len(sizes)))
    drawn_rows = sizes[draws].sum(1)
    # n - 1 because a sample's own spread is a little smaller than that of what it was drawn from.
    unknown = max(0.0, 1 - sizes.sum() / total)
    widen = np.sqrt(unknown * len(sizes) / max(len(sizes) - 1, 1))
    estimates = {}
    for name, values in sums.items():
        parts = np.asarray(values, dtype=float)
        value = parts.sum() / sizes.sum() * total
        drawn = parts[draws].sum(1) / drawn_rows * total
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        estimates[name] = Estimate(
            float(value), float(max(0.0, value + (low - value) * widen)), float(value + (high - value) * widen)
        )
    return estimates
