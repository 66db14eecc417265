"""Peak memory and time of augment, mix and pack over corpora of growing size: both should stay flat, row for row.

    python -m tests.benchmarks.memory                         # 10 thousand, 100 thousand, 1 million rows: hours
    python -m tests.benchmarks.memory --rows 10000 100000

Each measurement is a process of its own; `tests/benchmarks/steps.py` says what each step does. The memory is the most
that the process held, libraries included. At the smallest size, runs of `augment` with a journal take turns with runs
whose completions are not kept.
"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, alternate, compare, in_child, options, report
from tests.benchmarks.steps import prepare

PART = "size"
STEPS = ("augment", "mix", "pack")
FLAT = 1.25
"""More memory than so many times that of the smallest size means that it grows with the corpus."""


def measure(sizes: Sequence[int], rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """Run every step at every size, once, and the smallest with and without a journal, `rounds` times."""
    took: dict[str, list[dict[str, Any]]] = {step: [] for step in STEPS}
    journal: dict[str, list[dict[str, Any]]] = {}
    for rows in sorted(sizes):
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), rows)
            run = partial(in_child, "tests.benchmarks.steps", cache=Path(name) / "cache")
            if rows == min(sizes):
                both = ("augment", "augment-no-journal")
                journal = alternate({step: partial(run, step, name) for step in both}, rounds)
            for step in STEPS:
                took[step].append({"rows": rows, **run(step, name)})
                print(f"{step} of {rows:,} rows: {took[step][-1]}", file=sys.stderr, flush=True)
    figures = []
    for step in STEPS:
        first = took[step][0]
        for one in took[step][1:]:
            beside = f"with {first['rows']:,}"
            each = [1e6 * size["cpu_seconds"] / size["rows"] for size in (one, first)]
            what = f"{step} of {one['rows']:,} rows"
            figures += [
                compare(PART, what, "peak MiB", [one["peak_mib"]], [first["peak_mib"]], beside, at_most=FLAT),
                compare(PART, what, "CPU microseconds a row", each[:1], each[1:], beside),
            ]
    with_it, without = ([one["cpu_seconds"] for one in journal[step]] for step in ("augment", "augment-no-journal"))
    what = f"augment of {min(sizes):,} rows"
    figures.append(compare(PART, what, "CPU seconds", with_it, without, "no journal"))
    return figures, {"sizes": took, "journal": journal}


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, nargs="+")
    args = parser.parse_args()
    sizes = args.rows or ([500, 2000] if args.quick else [10_000, 100_000, 1_000_000])
    report(*measure(sizes, args.rounds or (1 if args.quick else 5)), args.json)


if __name__ == "__main__":
    main()
