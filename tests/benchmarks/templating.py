"""Speed and variety of templating.

    python -m tests.benchmarks.templating

The contents are made up and the numbers do not depend on them, except for the speed (chains of two texts of 250 words
with five pairs each, in seconds of one core, rows in batches of 1,000 as `Dataset.map` gives them).
"""

import random
import time
from typing import Any

from ipt_datasets.templating.report import distinct_renderings, diversity_report
from ipt_datasets.templating.templatizer import Templatizer
from tests.benchmarks.figures import Figure, compare, options, report

PART = "templating"
REFERENCE_CHAINS = 4500
"""Chains a second and core of the reference code, from its analysis at LMOps 4f2a9deb; not measured beside ours."""

_WORDS = ["harbour", "stone", "water", "light", "every", "small", "of", "the", "carried", "under", "winter", "early"]
Row = dict[str, Any]


def pair(instruction: str, response: str, options: tuple[str, ...] = (), rationale: str = "", shot: int = 0) -> Row:
    options_list = list(options)
    return {
        "instruction": instruction, "response": response, "options": options_list, "rationale": rationale, "shot": shot
    }  # fmt: skip


def row(text: str, pairs: list[Row], chain: str, position: int = 0) -> Row:
    shot = {"chain": chain, "position": position, "start": 0, "end": len(text)}
    return {"text": text, "pairs": pairs, "shots": [shot]}


def chains(number: int, mixed: bool) -> list[Row]:
    words = random.Random(5)

    def some(length: int) -> str:
        return " ".join(words.choices(_WORDS, k=length))

    def pairs() -> list[Row]:
        if not mixed:
            return [pair(some(10), some(8)) for _ in range(5)]
        options = tuple(f"{some(2)} {at}" for at in range(4))
        return [
            pair(some(10), some(8)),
            pair(some(10), some(8)),
            pair(some(10), options[1], options),
            pair(some(10), some(4), (), some(20)),
            pair(some(10), options[2], options, some(20)),
        ]

    return [row(some(250), pairs(), f"chain {at // 2}", at % 2) for at in range(2 * number)]


def chains_per_second(rows: list[Row], repeats: int) -> list[float]:
    batches = [rows[at : at + 1000] for at in range(0, len(rows), 1000)]
    columns = [{name: [row[name] for row in batch] for name in batch[0]} for batch in batches]
    Templatizer()(columns[0])
    found = []
    for seed in range(repeats):
        templatizer = Templatizer(seed)
        began = time.process_time()
        for batch in columns:
            templatizer(batch)
        found.append(len(rows) / 2 / (time.process_time() - began))
    return found


def variety(scale: int) -> dict[str, Any]:
    """Count how different the texts are; `scale` divides the numbers of seeds."""
    two_pairs = [row("A text.", [pair("First?", "one"), pair("Second?", "two")], "a chain")]
    four_kinds = [
        pair("First?", "one"),
        pair("Second?", "b", ("b", "c", "d")),
        pair("Third?", "three", (), "It says so."),
        pair("Fourth?", "e", ("e", "f"), "It says that."),
    ]
    asked = [
        row(f"Text {at}.", [pair("Which?", "w", ("w", "x", "y", "z")), pair("And?", "so")], f"c{at}")
        for at in range(2000 // scale)
    ]
    report = diversity_report(asked)
    varied = diversity_report(chains(10_000 // scale, mixed=True))
    return {
        "seeds": 60_000 // scale,
        "distinct_renderings_of_one_two_pair_document": distinct_renderings(two_pairs, range(60_000 // scale)),
        "joint_seeds": 20_000 // scale,
        "distinct_joint_choices": distinct_renderings([row("A text.", four_kinds, "a chain")], range(20_000 // scale)),
        "right_position_of_first_question": report.first_right_positions[4],
        "chains_reported": varied.texts,
        "distinct_skeletons": varied.distinct_skeletons,
        "bare_share": round(varied.bare_share, 4),
        "most_frequent_opening": varied.most_frequent_opening,
        "most_frequent_opening_share": round(varied.most_frequent_opening_share, 4),
        "frames": varied.frames,
        "right_positions": varied.right_positions,
    }


def measure(number: int, rounds: int, scale: int) -> tuple[list[Figure], dict[str, Any]]:
    """Measure the speed on so many chains, and the variety."""
    figures = []
    for what, mixed in (("free-form", False), ("of all four kinds", True)):
        speeds = chains_per_second(chains(number, mixed), rounds)
        unit, beside = "chains a CPU second", [REFERENCE_CHAINS] * rounds
        what = f"5 pairs a text, {what}"
        figures.append(compare(PART, what, unit, speeds, beside, "reference code, elsewhere", at_least=1.0))
    return figures, {"chains": number, "variety": variety(scale)}


def main() -> None:
    """Measure, print, write."""
    args = options(__doc__).parse_args()
    rounds = args.rounds or (1 if args.quick else 5)
    report(*measure(100 if args.quick else 2000, rounds, 100 if args.quick else 1), args.json)


if __name__ == "__main__":
    main()
