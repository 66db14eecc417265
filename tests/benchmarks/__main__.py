"""All measurements that README.md quotes, as one Markdown table and one JSON file: `python -m tests.benchmarks`.

    python -m tests.benchmarks                                 # all: hours, on a machine with nothing else to do
    python -m tests.benchmarks --quick                         # all with small sizes: that they work
    python -m tests.benchmarks --only templating host --json FILE

Every figure is a ratio of two things that took turns in one run, the median of several rounds. Each part runs in a
process of its own, and can be called by itself: `python -m tests.benchmarks.PART --help`. Two programs that stand
beside the suite have commands of their own: `tests.benchmarks.scores` (the score sheet of a synthesizer) and
`tests/benchmarks/gpu.py` (tokens per GPU-hour).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, caption, table

PARTS = ("schedule", "host", "templating", "mixing", "memory")


def main() -> int:
    """Run the parts one after the other; what is measured is on the disk after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small sizes: that it works, not what it measures")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="what was measured (%(default)s)")
    args = parser.parse_args()
    passed = ["--quick"] * args.quick + (["--rounds", str(args.rounds)] if args.rounds else [])
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for part in args.only:
            file, began = Path(name) / f"{part}.json", time.monotonic()
            print(f"== {part}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", f"tests.benchmarks.{part}", *passed, "--json", str(file)]
            failed = subprocess.run(command, stdout=sys.stderr).returncode
            if failed:
                print(f"{part} ended with {failed}; the other parts go on", file=sys.stderr)
                continue
            measured[part] = {**json.loads(file.read_text("utf-8")), "minutes": (time.monotonic() - began) / 60}
            args.json.write_text(json.dumps({"quick": args.quick, "parts": measured}, indent=1) + "\n", "utf-8")
    if not measured:
        return 1
    print(whole_table(measured))
    return 0 if len(measured) == len(args.only) else 1


def whole_table(measured: dict[str, Any]) -> str:
    """Write one table of all parts, ready for README.md."""
    rows = [{**row} for part in measured.values() for row in part["figures"]]
    figures = [Figure(**{name: value for name, value in row.items() if name != "goal"}) for row in rows]
    return f"{table(figures)}\n\n{caption(next(iter(measured.values()))['machine'])}"


if __name__ == "__main__":
    sys.exit(main())
