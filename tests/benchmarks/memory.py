"""Peak memory and speed of `augment` over corpora of growing size, with the scripted engine: both should stay flat.

    python -m tests.benchmarks.memory                         # 10 thousand, 100 thousand, 1 million rows
    python -m tests.benchmarks.memory --rows 10000 100000
    python -m tests.benchmarks.memory --rows 20000 --repeat 3 --compare-journal

Each measurement is a process of its own, on texts of about 500 characters, in a temporary folder. With
`--compare-journal`, runs with the journal take turns with runs whose completions are not kept. Prints one JSON line a
measurement.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ipt_datasets import Synthesizer, augment
from ipt_datasets.corpus.journal import Journal
from ipt_datasets.synthesis.engines import Completion

SENTENCE = (
    "In the {n}th harbour the boats are counted every morning, and whoever counts them writes {n} into the book. "
)


def write_corpus(file: Path, rows: int) -> None:
    """Write texts that are all different."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            out.write(json.dumps({"text": SENTENCE.format(n=number) * 5}) + "\n")


def forget_completions() -> None:
    """Let the journal keep nothing."""

    def keep(self: Journal, row: int, start: int, chain: str, completion: Completion) -> None:
        pass

    Journal.keep = keep  # type: ignore[method-assign]


def measure(rows: int, with_journal: bool) -> dict[str, object]:
    """Augment a corpus of so many rows in this process."""
    if not with_journal:
        forget_completions()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "corpus.jsonl"
        write_corpus(source, rows)
        started, worked = time.monotonic(), time.process_time()
        made = augment(str(source), Path(folder) / "out", Synthesizer(engine="scripted"), progress=False)
        seconds, worked = time.monotonic() - started, time.process_time() - worked
    return {
        "rows": rows,
        "journal": with_journal,
        "pairs": made.counts.n_pairs,
        "rows_per_second": round(rows / seconds),
        "rows_per_cpu_second": round(rows / worked),  # the figure to compare on a machine with other work
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--compare-journal", action="store_true")
    parser.add_argument("--here", choices=("with", "without"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(measure(args.rows[0], args.here == "with")), flush=True)
        return
    for rows in args.rows:
        for _ in range(args.repeat):
            for way in ("with", "without") if args.compare_journal else ("with",):
                command = [sys.executable, "-m", "tests.benchmarks.memory", "--rows", str(rows), "--here", way]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
