"""Peak memory and speed of mixing and packing as a corpus grows, beside plain tokenizing and datasets' own mixing.

    python -m tests.benchmarks.mixing                      # 10 thousand, 100 thousand and 1 million rows
    python -m tests.benchmarks.mixing --rows 10000 100000

Two sources of equally many rows, the shipped abstracts over and over, each with a number in front so that no two are
equal. Every measurement is a process of its own; `peak_mib` is the most memory that it held, the libraries included:

- `tokenize`: every text through the tokenizer in batches of 256, nothing kept: what counting tokens costs by itself;
- `interleave`: `datasets.interleave_datasets` by rows, streaming, every row read: no tokens, nothing written;
- `mix`: ours, 1:1 by tokens with the default shuffle buffer, into shards on the disk;
- `pack`: what `mix` wrote, into rows of 2,048 tokens.

Prints one JSON line a measurement.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = ("tokenize", "interleave", "mix", "pack")


def write_sources(folder: Path, rows: int) -> list[str]:
    import ipt_datasets

    demo = Path(ipt_datasets.__file__).parent / "data" / "demo.jsonl"
    texts = [json.loads(line)["text"] for line in demo.read_text("utf-8").splitlines()]
    files = [folder / "one.jsonl", folder / "two.jsonl"]
    for part, file in enumerate(files):
        with file.open("w", encoding="utf-8") as out:
            for number in range(rows // 2):
                text = f"{2 * number + part}. {texts[(7 * number + part) % len(texts)]}"
                out.write(json.dumps({"id": f"{part}-{number}", "text": text}) + "\n")
    return [str(file) for file in files]


def run_step(step: str, folder: Path, sources: list[str]) -> int:
    """Run one step; gives the tokens that it counted, or the rows where it counts none."""
    from ipt_datasets.corpus.mix import mix
    from ipt_datasets.corpus.pack import pack
    from ipt_datasets.corpus.source import iter_rows, open_source
    from ipt_datasets.corpus.tokenizing import DocumentTokenizer

    if step == "mix":
        named = [f"s{number}={source}:1" for number, source in enumerate(sources)]
        return mix(named, folder / "mixed", "smol", progress=False).audit.tokens
    if step == "pack":
        return pack(str(folder / "mixed"), folder / "packed", "smol", length=2048, progress=False).counts.tokens
    opened = [open_source(source) for source in sources]
    if step == "interleave":
        from datasets import interleave_datasets

        return sum(1 for _ in interleave_datasets(opened, [0.5, 0.5], seed=0))
    tokenizer = DocumentTokenizer.load("smol")
    total = 0
    for one, source in zip(opened, sources, strict=True):
        batch: list[str] = []
        for row in iter_rows(one, source):
            batch.append(row["text"])
            if len(batch) == 256:
                total += sum(tokenizer.count(batch))
                batch = []
        total += sum(tokenizer.count(batch))
    return total


def measure(step: str, folder: Path, sources: list[str]) -> None:
    """Run one step in this process and print what it took."""
    from ipt_datasets.corpus.tokenizing import DocumentTokenizer

    DocumentTokenizer.load("smol")  # the time of the imports is not what is measured
    began, began_cpu = time.monotonic(), time.process_time()
    counted = run_step(step, folder, sources)
    seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    result = {
        "step": step,
        "counted": counted,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "per_second": round(counted / seconds),
        "per_cpu_second": round(counted / cpu),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    """Measure each step at each size, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, folder, *sources = args.step
        return measure(step, Path(folder), sources)
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            sources = write_sources(Path(folder), rows)
            # open_source reads without the cache; what else would write there goes with the folder.
            environment = {**os.environ, "HF_DATASETS_CACHE": f"{folder}/cache"}
            for step in args.steps:
                command = [sys.executable, "-m", "tests.benchmarks.mixing", "--step", step, folder, *sources]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                print(json.dumps({"rows": rows, **json.loads(done.stdout.splitlines()[-1])}), flush=True)


if __name__ == "__main__":
    main()
