"""Which texts of a set are used: those with most pairs, none that stands in an evaluation set, some held out."""

import re
from collections.abc import Iterable, Iterator

from ipt_datasets.quality.overlap import UNSPACED
from ipt_datasets.tasks.converters import LeftOut, TaskText
from ipt_datasets.templating.draw import Draw

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")

OVERLAP_WORDS = 13
"""So many words in a row in common make two texts the same, as in the contamination checks of GPT-3 (Brown et al.
2020, arXiv 2005.14165, appendix C)."""


def most_pairs(texts: list[TaskText], max_texts: int | None, seed: int) -> tuple[list[TaskText], list[LeftOut]]:
    """Keep at most so many texts, those with most pairs first, a seeded draw among equals; their order stays.

    The paper takes at most 10,000 a set in this way (Cheng et al. 2024, section 2.1).
    """
    if max_texts is None or len(texts) <= max_texts:
        return texts, []
    draw = Draw.seeded(seed)
    ranked = sorted(
        range(len(texts)), key=lambda at: (-len(texts[at].pairs), draw.within(texts[at].text).fraction("kept"))
    )
    kept = set(ranked[:max_texts])
    left = [LeftOut("over_max_texts", text.text[:120]) for at, text in enumerate(texts) if at not in kept]
    return [text for at, text in enumerate(texts) if at in kept], left


def is_held_out(text: str, share: float, seed: int) -> bool:
    """Whether a text is held out of tuning; decided by the text alone, so that all its pairs go with it."""
    return Draw.seeded(seed).within(" ".join(text.split())).fraction("held out") < share


class Overlap:
    """Finds texts that share words with known ones.

    Args:
        texts: those to be found again; a text shorter than `OVERLAP_WORDS` words only as a whole.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._known = {run for text in texts for run in _runs(text)}

    def __contains__(self, text: str) -> bool:
        return any(run in self._known for run in _runs(text))


def _runs(text: str) -> Iterator[int]:
    words = _WORD.findall(text.lower())
    for start in range(max(len(words) - OVERLAP_WORDS + 1, 1)):
        yield hash(tuple(words[start : start + OVERLAP_WORDS]))
