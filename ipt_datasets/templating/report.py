"""How varied templated texts are: what a corpus shows beside its contents, counted.

The numbers come from rendering anew (a `Templatizer` is pure, so it gives the same texts again), with the contents
taken out: comparing whole texts would count their contents' variety as the templates'.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipt_datasets.templating.render import Plan, skeleton
from ipt_datasets.templating.templatizer import Templatizer

_BARE = "⟨text⟩"


@dataclass(frozen=True)
class DiversityReport:
    """What `diversity_report` counted; `dataclasses.asdict` gives it as JSON.

    Attributes:
        texts: with at least one pair.
        plain_texts: without pairs; they take no part in what follows.
        pairs: in all texts.
        distinct_skeletons: different texts that remain when raw texts, instructions, options, rationales and responses
            are each replaced by one word. Depends on how many pairs and options there are, so compare like with like.
        most_frequent_skeleton_share: of `texts`.
        bare_share: of `texts`, those that begin with the raw text itself, without words of a template.
        most_frequent_opening: the line that most of the other texts begin with, contents taken out.
        most_frequent_opening_share: of `texts`.
        frames: shots by frame.
        right_positions: by number of options, how often the right one stands at each position, where just one is right.
        first_right_positions: the same for each text's first question with options only.
    """

    texts: int
    plain_texts: int
    pairs: int
    distinct_skeletons: int
    most_frequent_skeleton_share: float
    bare_share: float
    most_frequent_opening: str
    most_frequent_opening_share: float
    frames: dict[str, int]
    right_positions: dict[int, list[int]]
    first_right_positions: dict[int, list[int]]


def diversity_report(rows: Iterable[Mapping[str, Any]], templatizer: Templatizer | None = None) -> DiversityReport:
    """Count how varied the texts are that a templatizer makes of rows.

    Args:
        rows: with the columns that synthesis gives, e.g. a `Dataset` or a part of it. All are held in memory and taken
            as one batch: a sample of some ten thousand is plenty.
        templatizer: the one the texts were made with, by default one with default settings.

    Raises:
        InputError: columns are missing.
    """
    plans = _plans(rows, templatizer or Templatizer())
    with_pairs = [plan for plan in plans if plan.shots[0].items]
    skeletons = Counter(skeleton(plan) for plan in with_pairs)
    openings: Counter[str] = Counter()
    for surface, times in skeletons.items():
        openings[surface.split("\n", 1)[0]] += times
    worded = Counter({opening: times for opening, times in openings.items() if opening != _BARE})
    opening, opened = worded.most_common(1)[0] if worded else ("", 0)
    texts = len(with_pairs)
    return DiversityReport(
        texts=texts,
        plain_texts=len(plans) - texts,
        pairs=sum(len(shot.items) for plan in with_pairs for shot in plan.shots),
        distinct_skeletons=len(skeletons),
        most_frequent_skeleton_share=max(skeletons.values(), default=0) / max(texts, 1),
        bare_share=openings[_BARE] / max(texts, 1),
        most_frequent_opening=opening,
        most_frequent_opening_share=opened / max(texts, 1),
        frames=dict(Counter(shot.frame for plan in with_pairs for shot in plan.shots).most_common()),
        right_positions=_right_positions(with_pairs, first_only=False),
        first_right_positions=_right_positions(with_pairs, first_only=True),
    )


def distinct_renderings(rows: Iterable[Mapping[str, Any]], seeds: Iterable[int], text_column: str = "text") -> int:
    """Count the different surfaces (contents taken out) that the same rows get with each of `seeds`."""
    held = list(rows)
    return len({tuple(map(skeleton, _plans(held, Templatizer(seed, text_column)))) for seed in seeds})


def _plans(rows: Iterable[Mapping[str, Any]], templatizer: Templatizer) -> list[Plan]:
    held = list(rows)
    batch = {name: [row.get(name) for row in held] for name in (held[0] if held else templatizer.columns)}
    return [plan for _, plan in templatizer.plans(batch)]


def _right_positions(plans: Sequence[Plan], first_only: bool) -> dict[int, list[int]]:
    counted: dict[int, list[int]] = {}
    for plan in plans:
        for shot in plan.shots:
            arranged = [item.arranged for item in shot.items if item.arranged is not None]
            for shown in arranged:
                if len(shown.right) == 1:
                    positions = counted.setdefault(len(shown.options), [0] * len(shown.options))
                    positions[shown.right[0]] += 1
                if first_only:
                    break
            if first_only and arranged:
                break
    return dict(sorted(counted.items()))
