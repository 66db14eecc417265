"""How varied the texts are, and what the report says of it."""

import dataclasses
import json

import pytest

from ipt_datasets.errors import InputError
from ipt_datasets.schema import Pair
from ipt_datasets.templating.report import distinct_renderings, diversity_report
from ipt_datasets.templating.templatizer import Templatizer

FREE = Pair("Which port?", "Lisbon")
THOUGHT = Pair("Why so late?", "ice", (), "It was January.")


def row(text, pairs, chain):
    shot = {"chain": chain, "position": 0, "start": 0, "end": len(text)}
    return {"text": text, "pairs": [pair.to_row(0) for pair in pairs], "shots": [shot]}


def choice(right):
    return Pair("Which?", "nesw"[right], tuple("nesw"))


def test_the_first_questions_of_documents_share_no_permutation():
    rows = [row(f"Text {at}.", [choice(0), choice(0)], f"c{at}") for at in range(2000)]
    positions = diversity_report(rows).first_right_positions[4]
    assert sum(positions) == 2000
    assert all(420 < at < 580 for at in positions)


def test_the_questions_of_a_document_are_shuffled_independently():
    seen = set()
    for at in range(400):
        _, plan = next(Templatizer().plans({k: [v] for k, v in row("A.", [choice(0), choice(0)], f"c{at}").items()}))
        seen.add(tuple(item.arranged.right[0] for item in plan.shots[0].items))
    assert len(seen) == 16


def test_choices_are_not_tied_to_each_other():
    one = [row("A text.", [FREE, FREE], "c")]
    four = [row("A text.", [FREE, choice(1), THOUGHT, dataclasses.replace(THOUGHT, options=("ice", "fog"))], "c")]
    assert distinct_renderings(one, range(1000)) > 950
    assert distinct_renderings(four, range(500)) > 498


def test_the_report_counts_surfaces_and_not_contents():
    rows = [row(f"Text {at}.", [Pair(f"Question {at}?", f"{at}")], f"c{at}") for at in range(40)]
    fixed = Templatizer(frame_weights={"classic": 1})
    mine = diversity_report([*rows, row("Plain.", [], "d")], fixed)
    assert (mine.texts, mine.plain_texts, mine.pairs) == (40, 1, 40)
    assert mine.distinct_skeletons > 30
    assert mine.frames == {"classic": 40}
    same_chain = [row(f"Text {at}.", [Pair(f"Question {at}?", f"{at}")], "c") for at in range(3)]
    assert diversity_report(same_chain).distinct_skeletons == 1
    assert json.loads(json.dumps(dataclasses.asdict(mine)))["texts"] == 40


def test_openings_are_those_of_templates(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('replace = true\n[text]\nlead_ins = ["Look here: {text}"]')
    rows = [row(f"Text {at}.", [FREE], f"c{at}") for at in range(20)]
    report = diversity_report(rows, Templatizer(templates=path, frame_weights={"classic": 1}))
    assert (report.most_frequent_opening, report.most_frequent_opening_share) == ("Look here: ⟨text⟩", 1)
    assert report.bare_share == 0


def test_no_rows_give_an_empty_report_and_rows_without_pairs_columns_an_error():
    assert diversity_report([]).texts == 0
    with pytest.raises(InputError, match="no column pairs"):
        diversity_report([{"text": "A text."}])
