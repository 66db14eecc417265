"""Kinds of pairs, and shares that are None where there is nothing to take a share of."""

from ipt_datasets.quality.overlap import words
from ipt_datasets.schema import Pair

KINDS = ("free_form", "multiple_choice", "chain_of_thought", "both")
YES_NO = frozenset({"yes", "no", "true", "false"})


def kind_of(pair: Pair) -> str:
    """Give the pair's kind, one of `KINDS`: with options, with a rationale, with both or with neither."""
    if pair.rationale:
        return "both" if pair.options else "chain_of_thought"
    return "multiple_choice" if pair.options else "free_form"


def is_yes_no(pair: Pair) -> bool:
    """Whether the response is a bare yes, no, true or false."""
    found = words(pair.response)
    return len(found) == 1 and found[0] in YES_NO


def share(part: float, whole: int) -> float | None:
    """Divide, to four decimals; None where the whole is 0."""
    return round(part / whole, 4) if whole else None
