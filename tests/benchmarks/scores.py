"""The score sheet of the embedded synthesizer and the untuned model: `python -m tests.benchmarks.scores --data FOLDER`.

FOLDER holds `tasks/` (the sets of `ipt_datasets/tasks/smol.toml`) and `raw/` (corpora without gold). Greedy decoding;
the first texts of each set in a seeded order. Prints the table of README.md; --json writes every number of every sheet.
"""

import argparse
import csv
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ipt_datasets.quality.evaluate import ScoreSheet, evaluate
from ipt_datasets.synthesis.synthesizer import Synthesizer
from ipt_datasets.tasks.description import shipped_description
from ipt_datasets.tasks.sets import read_evaluation_rows
from ipt_datasets.templating.draw import Draw

GOLD = ("squadshifts_new_wiki", "squad", "policyqa", "qed", "boolq")
"""The first by its held-out texts; the others were never tuned on."""

ABSTRACTS = {"q-bio abstracts": "q-bio.*", "q-fin abstracts": "q-fin.*"}
TEXTBOOK = "economics textbook"

MODELS: dict[str, dict[str, Any]] = {
    "untuned, prompted": {"model": "smol-base", "markup": "chat", "primer": []},
    "untuned, plain markup and primer": {"model": "smol-base", "markup": "plain"},
    "untuned, prompted with primer": {"model": "smol-base"},
    "smol": {"model": "smol"},
}

HEADING = """\
| set | model | response F1 | zero- · few-shot quality | chains | pairs | any | alike | parsed | grounded | kinds |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""
"""Zero-shot and few-shot, which is behind two gold examples, are means over all texts. `chains`, the quality behind
an earlier shot of the model's own, and what follows it are of chains of two texts; the last is the share of pairs with
options or reasons."""

EXAMPLES = 2


def sample(texts: Iterator[str], number: int) -> list[tuple[str, list[Any]]]:
    """Give so many texts in a seeded order, without gold."""
    draw = Draw.seeded(0)
    ordered = sorted(set(texts), key=lambda text: draw.within(text).fraction("order"))
    return [(text, []) for text in ordered[:number]]


def gold(rows: Any, number: int) -> list[Any]:
    """Give the first rows, or all but the examples, behind these: the rows that follow them."""
    taken = list(rows.select(range(min(number + EXAMPLES, len(rows)))))
    return taken[-EXAMPLES:] + taken[:-EXAMPLES]


def abstracts(folder: Path, category: str) -> Iterator[str]:
    for path in sorted(folder.glob(f"*per_category__{category}.tsv.xz")):
        with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                text = " ".join(row["abstract"].split())
                if 60 <= len(text.split()) <= 300 and "withdrawn" not in text:
                    yield text


def textbook(folder: Path) -> Iterator[str]:
    """Give the paragraphs of textbook sections, joined up to 220 words."""
    for path in sorted(folder.glob("*.cnxml")):
        for section in ElementTree.parse(path).iter("{http://cnx.rice.edu/cnxml}section"):
            words: list[str] = []
            for paragraph in section.findall("{http://cnx.rice.edu/cnxml}para"):
                words += re.sub(r"\s+", " ", "".join(paragraph.itertext())).split()
                if len(words) > 80:
                    break
            if 80 < len(words) <= 220:
                yield " ".join(words)


def line(model: str, sheet: ScoreSheet) -> str:
    """One line of the table: one model on one set."""
    alone, last = sheet.passes[:2]
    cells = [sheet.name, model]
    if sheet.accuracy is None:
        cells += ["", "", ""]
    else:
        few_shot = sheet.passes[-1]["quality"]["all_shots"]
        cells += [
            f"{sheet.accuracy['f1']:.1f} of {sheet.accuracy['questions']}",
            f"{alone['quality']['all_shots'] or 0:.1f} · {few_shot or 0:.1f}",
            f"{last['quality']['few_shot'] or 0:.1f}",
        ]
    kinds = last["kinds"]
    shares = [
        last["yield"]["texts_with_pairs_share"],
        last["variety"]["texts_with_alike_pairs_share"],
        last["yield"]["parsed_share"],
        last["grounding"]["grounded_share"],
        1 - kinds["free_form_share"] if last["yield"]["pairs"] else None,
    ]
    cells += [f"{last['yield']['pairs_a_text']:.1f}", *("-" if share is None else f"{share:.0%}" for share in shares)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--texts", type=int, default=30, help="of each set (%(default)s)")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of the table's rows, or model folders")
    parser.add_argument("--sets", nargs="+", default=[*GOLD, *ABSTRACTS, TEXTBOOK], help="names of sets (all)")
    parser.add_argument("--json", type=Path, default=Path("scores.json"))
    args = parser.parse_args()
    if args.data is None:
        print("give the folder of the task sets and raw corpora with --data; nothing measured")
        return
    sets: dict[str, Any] = {
        name: gold(read_evaluation_rows(shipped_description("smol"), args.data / "tasks", name)[0], args.texts)
        for name in GOLD
    }
    for name, category in ABSTRACTS.items():
        sets[name] = sample(abstracts(args.data / "raw" / "arxiv", category), args.texts)
    sets[TEXTBOOK] = sample(textbook(args.data / "raw" / "openstax_economics"), args.texts)
    everything = json.loads(args.json.read_text()) if args.json.exists() else {}
    print(HEADING, flush=True)
    for model in args.models:
        sheets = []
        with Synthesizer(engine=args.engine, **MODELS.get(model, {"model": model})) as synthesizer:
            for name in args.sets:
                examples = EXAMPLES if name in GOLD else 0
                sheets.append(evaluate(synthesizer, sets[name], name=name, shots=(1, 2), examples=examples, samples=3))
                print(line(model, sheets[-1]), flush=True)
        everything[model] = [sheet.to_dict() for sheet in sheets]
        args.json.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
