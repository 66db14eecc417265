"""Independent, repeatable choices: every decision has a stream of its own, taken from a keyed hash.

A choice depends on the seed, on the scope it is made in (a chain, a place in it) and on the decision's name, and on
nothing else: not on a position in a batch, not on other choices, not on the global `random`. One generator that is
seeded anew for each choice would tie all choices together; a keyed hash cannot.
"""

import functools
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

_SHUFFLED_AT_ONCE = 40


@functools.lru_cache(maxsize=4096)  # the names of decisions come again in every chain
def _named(kind: str, name: str) -> bytes:
    # The length goes first: no two sequences of names may run together to the same bytes.
    encoded = name.encode("utf-8", "surrogatepass")
    return f"{kind}{len(encoded)}:".encode() + encoded


class Draw:
    """A scope in which decisions are drawn by name; cheap to make and to narrow."""

    __slots__ = ("_state",)

    def __init__(self, state: Any) -> None:
        self._state = state

    @classmethod
    def seeded(cls, seed: int) -> "Draw":
        """Give the outermost scope of a seed."""
        key = hashlib.blake2b(str(seed).encode(), digest_size=32).digest()
        return cls(hashlib.blake2b(key=key, digest_size=64, person=b"ipt templating"))

    def within(self, scope: str) -> "Draw":
        """Narrow the scope: equal decisions in different scopes are independent."""
        state = self._state.copy()
        state.update(_named("s", scope))
        return Draw(state)

    def _bits(self, decision: str) -> bytes:
        state = self._state.copy()
        state.update(_named("d", decision))
        digest: bytes = state.digest()
        return digest

    def fraction(self, decision: str) -> float:
        """Draw a float in [0, 1)."""
        return int.from_bytes(self._bits(decision)[:6], "big") / (1 << 48)

    def weighted(self, decision: str, cumulative: Sequence[float]) -> int:
        """Draw an index; entry i of `cumulative` is the sum of the weights 0..i, the last one above 0."""
        return bisect_right(cumulative, self.fraction(decision) * cumulative[-1])

    def permutation(self, decision: str, length: int) -> list[int]:
        """Draw an order of `range(length)`, each equally likely."""
        order = list(range(length))
        bits = 0
        for done, last in enumerate(range(length - 1, 0, -1)):
            if done % _SHUFFLED_AT_ONCE == 0:
                bits = int.from_bytes(self._bits(decision if done == 0 else f"{decision} after {done}"), "big")
            bits, pick = divmod(bits, last + 1)
            order[last], order[pick] = order[pick], order[last]
        return order
