"""One step over a prepared folder in this process: what it took, as one JSON line. The other parts call it in children.

    python -m tests.benchmarks.steps STEP FOLDER

- `tokenize`: every text through the tokenizer in batches of 256, nothing kept: what counting tokens costs by itself;
- `interleave`: `datasets.interleave_datasets` by rows, streaming, every row read: no tokens, nothing written;
- `mix`: ours, 1:1 by tokens with the default shuffle buffer, into shards on the disk;
- `pack`: what `mix` wrote, into rows of 2,048 tokens;
- `augment`: ours, with the engine that needs no model and its own tokenizer;
- `augment-no-journal`: the same, and its journal keeps nothing.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPS = ("tokenize", "interleave", "mix", "pack", "augment", "augment-no-journal")


def prepare(folder: Path, rows: int) -> None:
    """Write two sources of equally many rows, all different."""
    from tests.benchmarks.figures import demo_texts, write_texts

    texts = demo_texts(rows)
    write_texts(folder / "one.jsonl", texts[0::2])
    write_texts(folder / "two.jsonl", texts[1::2])


def run_step(step: str, folder: Path) -> int:
    """Run one step; gives the tokens that it counted, or the rows where it counts none."""
    from ipt_datasets.corpus.mix import mix
    from ipt_datasets.corpus.pack import pack

    if step == "tokenize":
        return _tokenize(folder)
    if step == "interleave":
        from datasets import interleave_datasets

        return sum(1 for _ in interleave_datasets([opened for opened, _ in _sources(folder)], [0.5, 0.5], seed=0))
    if step == "mix":
        named = [f"{source.stem}={source}:1" for source in sorted(folder.glob("*.jsonl"))]
        return mix(named, folder / "mixed", "smol", progress=False, overwrite=True).audit.tokens
    if step == "pack":
        packed = pack(str(folder / "mixed"), folder / "packed", "smol", length=2048, progress=False, overwrite=True)
        return packed.counts.tokens
    return _augment(folder, keeps_journal=step == "augment")


def _tokenize(folder: Path) -> int:
    from ipt_datasets.corpus.source import iter_rows
    from ipt_datasets.corpus.tokenizing import DocumentTokenizer

    tokenizer = DocumentTokenizer.load("smol")
    total, batch = 0, []
    for opened, source in _sources(folder):
        for row in iter_rows(opened, source):
            batch.append(row["text"])
            if len(batch) == 256:
                total += sum(tokenizer.count(batch))
                batch = []
    return total + sum(tokenizer.count(batch))


def _augment(folder: Path, keeps_journal: bool) -> int:
    from ipt_datasets import Synthesizer, augment
    from ipt_datasets.corpus.journal import Journal

    if not keeps_journal:
        Journal.keep = lambda *_: None  # type: ignore[method-assign]
    made = augment(str(folder / "*.jsonl"), folder / "out", Synthesizer(engine="scripted"), progress=False)
    shutil.rmtree(folder / "out")
    return made.counts.rows


def _sources(folder: Path) -> Iterator[tuple[Any, str]]:
    from ipt_datasets.corpus.source import open_source

    for source in sorted(folder.glob("*.jsonl")):
        yield open_source(str(source)), str(source)


def peak_mib() -> float:
    """Tell the most memory that this process has held.

    Linux counts in `ru_maxrss` what the parent held when it made this process; the high-water mark starts anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(step: str, folder: Path) -> None:
    """Run one step and print what it took."""
    if step.startswith("augment"):
        import ipt_datasets.corpus.augment  # noqa: F401 (the time of the imports is not what is measured)
    else:
        from ipt_datasets.corpus.tokenizing import DocumentTokenizer

        DocumentTokenizer.load("smol").count(["warm"])
    began, began_cpu = time.monotonic(), time.process_time()
    counted = run_step(step, folder)
    seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    took = {"step": step, "counted": counted, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak_mib()}
    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
