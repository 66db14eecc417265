"""Mixing and packing beside a plain tokenizer pass over the same texts and datasets' own way of mixing.

    python -m tests.benchmarks.mixing                      # 20,000 rows, 5 rounds
    python -m tests.benchmarks.mixing --rows 2000 --rounds 3

Each measurement is a process of its own, in processor time; `tests/benchmarks/steps.py` says what each step does.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, alternate, compare, in_child, options, report
from tests.benchmarks.steps import prepare

PART = "mixing"


def measure(rows: int, rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """Let the steps take turns over one pair of sources."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, rows)
        run = partial(in_child, "tests.benchmarks.steps", cache=folder / "cache")
        ways = {step: partial(run, step, name) for step in ("tokenize", "interleave", "mix", "pack")}
        ways["mix"]()  # so that `pack` finds something in the first round, whose turn begins elsewhere
        found = alternate(ways, rounds)
    speed = {step: [one["counted"] / one["cpu_seconds"] for one in turns] for step, turns in found.items()}
    each = found["tokenize"][0]["counted"] / rows  # tokens of a row, to set rows beside tokens
    interleaved = [one * each for one in speed["interleave"]]
    unit = "tokens a CPU second"
    figures = [
        compare(PART, "mix", unit, speed["mix"], speed["tokenize"], "tokenizer alone"),
        compare(PART, "mix", unit, speed["mix"], interleaved, "interleave_datasets, which counts and writes nothing"),
        compare(PART, "pack", unit, speed["pack"], speed["tokenize"], "tokenizer alone"),
    ]
    return figures, {"rows": rows, "tokens_a_row": each, "steps": found}


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    rows = args.rows or (1000 if args.quick else 20_000)
    report(*measure(rows, args.rounds or (1 if args.quick else 5)), args.json)


if __name__ == "__main__":
    main()
