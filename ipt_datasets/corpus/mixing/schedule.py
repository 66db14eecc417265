"""From which source the next document comes, such that at every point the tokens stand in the ratio that was asked."""

import math
from collections.abc import Sequence
from fractions import Fraction


class TokenSchedule:
    """Deals out turns among sources by weight, counted in tokens.

    The rule is worst-case fair weighted queueing: among the sources that are not ahead of their share, the one whose
    next document would be through first by its weight. At every point each source is within one document (the longest
    so far) of its share. All arithmetic is exact.

    Args:
        weights: one a source, above 0.
        total: the tokens planned for all sources together; None: no end.

    Attributes:
        tokens: taken so far, one number a source.
    """

    def __init__(self, weights: Sequence[Fraction], total: int | None = None) -> None:
        common = math.lcm(*(weight.denominator for weight in weights))
        self._weights = [int(weight * common) for weight in weights]
        self._sum = sum(self._weights)
        clock = math.lcm(*self._weights)
        self._pace = [clock // weight for weight in self._weights]
        self._total = total
        self.tokens = [0] * len(weights)

    def share(self, source: int) -> Fraction:
        """Give the part of all tokens that a source is to have."""
        return Fraction(self._weights[source], self._sum)

    def planned(self, source: int) -> int:
        """Give the tokens planned for a source: of the total, or of what was taken where there is no total."""
        return round(self.share(source) * (sum(self.tokens) if self._total is None else self._total))

    def choose(self, lengths: Sequence[int | None]) -> int | None:
        """Choose the source of the next document.

        Args:
            lengths: the tokens of each source's next document; None for a source that has ended. It is still chosen
                when it is its turn: then its end matters.

        Returns:
            The index of a source; None when every one is as near to its plan as whole documents get.
        """
        heads = {source: length or 1 for source, length in enumerate(lengths) if self._wants(source, length or 1)}
        if not heads:
            return None
        taken = sum(self.tokens)
        due = [source for source in heads if self.tokens[source] * self._sum <= taken * self._weights[source]]
        return min(
            due or heads, key=lambda source: ((self.tokens[source] + heads[source]) * self._pace[source], source)
        )

    def take(self, source: int, length: int) -> None:
        """Count a document of a source."""
        self.tokens[source] += length

    def _wants(self, source: int, length: int) -> bool:
        """Whether the document brings the source nearer to its plan."""
        if self._total is None:
            return True
        return (2 * self.tokens[source] + length) * self._sum <= 2 * self._total * self._weights[source]
