"""Public task sets whose files need more than a mapping of columns: nested, spread over several files, or tables.

Each function takes the folder of the set and yields what a converter yields; the sets and their licences are listed
in `smol.toml`.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ipt_datasets.schema import Pair
from ipt_datasets.tasks.converters import Converted, LeftOut, TaskText
from ipt_datasets.templating.draw import Draw

EFFECTS = {
    "significantly increased": "It was significantly increased",
    "significantly decreased": "It was significantly decreased",
    "no significant difference": "There was no significant difference",
}


def read_fairytaleqa(folder: Path) -> Converted:
    """Read FairyTaleQA (Xu et al. 2022): the sections of each story, and the questions about one or several of them.

    A question about several sections belongs to the last of them only where they are neighbours that are later joined;
    here it is left out.
    """
    for story in sorted(folder.glob("*__section-stories__train__*-story.csv")):
        name = story.name.split("__train__")[1].removesuffix("-story.csv")
        questions = story.with_name(
            story.name.replace("section-stories", "questions").replace("-story.csv", "-questions.csv")
        )
        by_section: dict[str, list[Pair]] = {}
        for row in _csv_rows(questions):
            if not row["answer1"].strip():
                yield LeftOut("no_answer", row["question"])
            elif row["cor_section"].strip().isdecimal():
                pair = Pair(" ".join(row["question"].split()), row["answer1"].strip())
                by_section.setdefault(row["cor_section"].strip(), []).append(pair)
            else:
                yield LeftOut("unreadable", f"about several sections: {row['question']}")
        for row in _csv_rows(story):
            if pairs := by_section.get(row["section"].strip()):
                yield TaskText(row["text"].strip(), tuple(pairs), document=name)
            else:
                yield LeftOut("no_pairs", f"{name}, section {row['section']}")


def read_evidence_inference(folder: Path, abstracts: str) -> Converted:
    """Read Evidence Inference 2.0 (DeYoung et al. 2020): what a treatment did to an outcome, with the evidence.

    The set asks about whole articles. Only questions whose evidence stands in the abstract can be answered from it.

    Args:
        folder: the set's folder.
        abstracts: the JSON lines with `id` and `text` of the articles' abstracts, relative to the folder.
    """
    prompts = {row["PromptID"]: row for row in _csv_rows(folder / "annotations__prompts_merged.csv")}
    texts = {row["id"].removeprefix("PMC"): row["text"] for row in _json_lines(folder / abstracts)}
    found: dict[str, dict[str, Pair]] = {}
    for row in _csv_rows(folder / "annotations__v2_annotations.csv"):
        prompt, text = prompts.get(row["PromptID"]), texts.get(row["PMCID"], "")
        label = row["Label"].replace("significantly increase", "significantly increased").replace("edd", "ed")
        evidence = _sentences_with(text, row["Annotations"])
        if not prompt or label not in EFFECTS or not evidence:
            yield LeftOut("no_text", f"article {row['PMCID']}: the evidence is not in its abstract")
            continue
        named = {part: " ".join(prompt[part].split()) for part in ("Outcome", "Intervention", "Comparator")}
        instruction = (
            f"Compared with {named['Comparator']}, what was the effect of {named['Intervention']} on "
            f"{named['Outcome']}?"
        )
        pair = Pair(instruction, EFFECTS[label], tuple(EFFECTS.values()), evidence)
        found.setdefault(row["PMCID"], {}).setdefault(row["PromptID"], pair)
    for article, pairs in found.items():
        yield TaskText(texts[article], tuple(pairs.values()))


def read_tatqa(folder: Path) -> Converted:
    """Read TAT-QA (Zhu et al. 2021): financial tables with their paragraphs; a derivation becomes the rationale."""
    for page in json.loads((folder / "dataset_raw__tatqa_dataset_dev.json").read_text("utf-8")):
        paragraphs = [paragraph["text"] for paragraph in sorted(page["paragraphs"], key=lambda each: each["order"])]
        text = "\n\n".join([*paragraphs, write_table(page["table"]["table"])])
        pairs = []
        for entry in page["questions"]:
            answer = entry["answer"]
            said = ", ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
            if not said:
                yield LeftOut("no_answer", entry["question"])
                continue
            is_number = entry["answer_type"] in ("arithmetic", "count")
            scale = entry["scale"] if is_number or not re.search(r"[a-z]", said) else ""
            said = f"{said}%" if scale == "percent" and "%" not in said else said
            if scale not in ("", "percent") and scale not in said:
                said = f"{said} {scale}"
            derivation = entry["derivation"].strip() if entry["answer_type"] == "arithmetic" else ""
            rationale = f"{derivation} = {answer}" if derivation else ""
            pairs.append(Pair(" ".join(entry["question"].split()), said, (), rationale))
        yield TaskText(text, tuple(pairs))


def read_fetaqa(folder: Path) -> Converted:
    """Read FeTaQA (Nan et al. 2022): Wikipedia tables, each with a question answered in a sentence."""
    for file in sorted(folder.glob("data__fetaQA-*.jsonl")):
        for row in _json_lines(file):
            title = f"{row['table_page_title']}: {row['table_section_title']}".rstrip(": ")
            text = f"{title}\n{write_table(row['table_array'])}"
            yield TaskText(text, (Pair(row["question"], row["answer"]),))


def read_scitldr(folder: Path) -> Converted:
    """Read SciTLDR (Cachola et al. 2020): abstracts, each with its title and a summary in one sentence."""
    for row, text in _scitldr_abstracts(folder):
        summary = next((target.strip() for target in row["target"] if target.strip()), "")
        asked = [(_SUMMARY, summary), (_TITLE, row.get("title", "").strip())]
        pairs = tuple(Pair(_choose(variants, text), said) for variants, said in asked if said)
        yield TaskText(text, pairs) if pairs else LeftOut("no_pairs", text[:120])


def read_written(folder: Path, pubmedqa: str) -> Converted:
    """Read the pairs that were written for this project about abstracts of SciTLDR and PubMedQA.

    Args:
        folder: of SciTLDR.
        pubmedqa: the JSON file of PubMedQA, relative to the folder.
    """
    texts = {row["paper_id"]: text for row, text in _scitldr_abstracts(folder)}
    for key, row in json.loads((folder / pubmedqa).read_text("utf-8")).items():
        texts[key] = "\n\n".join(part.strip() for part in row["CONTEXTS"])
    for row in _json_lines(Path(__file__).with_name("written.jsonl")):
        pairs = tuple(Pair.read(pair) for pair in row["pairs"])
        yield TaskText(texts[row["id"]], pairs) if row["id"] in texts else LeftOut("no_text", f"abstract {row['id']}")


def read_passages(_: Path) -> Converted:
    """Read the texts that were written for this project together with their pairs: they ship in the package."""
    for row in _json_lines(Path(__file__).with_name("passages.jsonl")):
        yield TaskText(row["text"], tuple(Pair.read(pair) for pair in row["pairs"]))


PUBLIC_SETS: Mapping[str, Callable[..., Converted]] = {
    "fairytaleqa": read_fairytaleqa,
    "evidence_inference": read_evidence_inference,
    "tatqa": read_tatqa,
    "fetaqa": read_fetaqa,
    "scitldr": read_scitldr,
    "written_abstracts": read_written,
    "written_passages": read_passages,
}
"""The readers by the names that a task-set file uses."""

_SUMMARY = (
    "What is the main contribution of this work, in one sentence?",
    "Summarize the text in one sentence.",
    "What is the text about, in short?",
)
_TITLE = (
    "What would be a fitting title for this text?",
    "Suggest a title for the text.",
    "Under which title could this text appear?",
)


def write_table(rows: list[list[Any]]) -> str:
    """Write a table as lines of cells, empty cells and empty lines left out."""
    lines = (" | ".join(filter(None, (" ".join(str(cell).split()) for cell in row))) for row in rows)
    return "\n".join(filter(None, lines))


def _choose(variants: tuple[str, ...], text: str) -> str:
    return variants[Draw.seeded(0).within(text).permutation("instruction", len(variants))[0]]


def _csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _json_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _scitldr_abstracts(folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Give the rows of SciTLDR, each with its abstract as one text."""
    for file in sorted(folder.glob("SciTLDR-Data__SciTLDR-A__*.jsonl")):
        for row in _json_lines(file):
            yield row, " ".join(sentence.strip() for sentence in row["source"])


def _sentences_with(text: str, evidence: str) -> str:
    """Give the whole sentences of a text in which the evidence stands, "" where it does not."""
    plain = " ".join(text.split())
    found = " ".join(evidence.split()).strip(" .")
    at = plain.find(found) if len(found) > 20 else -1
    if at < 0:
        return ""
    start = max((match.end() for match in re.finditer(r"[.!?:]\s+(?=[A-Z])", plain[:at])), default=0)
    end = re.search(r"[.!?](?=\s|\Z)", plain[at + len(found) :])
    return plain[start : at + len(found) + (end.end() if end else 0)].strip()
