"""`ipt evaluate` and `evaluate` end to end on the scripted engine: numbers by hand, and what goes wrong."""

import json

import pytest
from datasets import Dataset, Features

from ipt_datasets.cli import main
from ipt_datasets.errors import EngineError, InputError, RecipeError
from ipt_datasets.quality.evaluate import evaluate, with_shots
from ipt_datasets.quality.generation import GenerationCount
from ipt_datasets.quality.report import MEASURES, render
from ipt_datasets.schema import TASK_FEATURES, Pair
from ipt_datasets.synthesis.engines import Completion
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine, ScriptedTokenizer, write_pairs
from ipt_datasets.synthesis.markup import MARKUPS, PAPER
from ipt_datasets.synthesis.synthesizer import Synthesizer

LONG = "The heron waits at the river for an hour. A fox digs a hole under the old oak. Then it rains."
HERONS, FOXES = "Herons wait.", "Foxes dig."
# What the scripted engine writes about the two: one pair each.
ABOUT_HERONS = Pair("How does the passage that mentions “Herons wait.” begin?", "Herons wait.")
ABOUT_FOXES = Pair("How does the passage that mentions “Foxes dig.” begin?", "Foxes dig.")


def row(text, *pairs):
    return {"text": text, "pairs": [pair.to_row(0) for pair in pairs], "task_set": "t", "prompt": "", "completion": ""}


ROWS = [
    row(HERONS, Pair(ABOUT_HERONS.instruction, "Herons wait long"), Pair("Zebra?", "zebu", ("zebu", "zoo"))),
    row(FOXES, ABOUT_FOXES),
    row(" ", Pair("Zebra?", "zebu")),
]


def write_rows(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_command_line_on_texts_worked_out_by_hand(tmp_path, capsys):
    source, output = write_rows(tmp_path / "set.jsonl"), tmp_path / "sheet.json"
    command = ["evaluate", "any", "--on", source, "--engine", "scripted", "--json", str(output), "--samples", "1"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    [sheet] = json.loads(output.read_text())["sheets"]
    assert (sheet["name"], sheet["model"], sheet["texts"], sheet["texts_with_gold"]) == (source, "scripted", 3, 3)
    # "herons wait" against "herons wait long" has F1 2*2/5; the script does not know the second question.
    assert sheet["accuracy"] == {
        "questions": 3,
        "f1": 60.0,
        "exact_match": 33.3333,
        "empty_share": 0.3333,
        "by_length_share": 0.0,
        "engine_errors": 0,
        "left_out": {"no_text": 1, "too_long": 0},
        "by_kind": {
            "free_form": {"questions": 2, "f1": 90.0, "exact_match": 50.0},
            "multiple_choice": {"questions": 1, "f1": 0.0, "exact_match": 0.0},
        },
    }
    one, two = sheet["passes"]
    assert (one["shots"], two["shots"]) == (1, 2)
    # 8 tokens of the instruction and 2 of 3 of the response: 2*10/21, over two gold pairs; and a whole one.
    quality = round((100 * 20 / 21 / 2 + 100) / 2, 4)
    assert one["quality"] == {"all_shots": quality, "texts": 2, "few_shot": None, "few_shot_texts": 0}
    assert two["quality"] == {
        "all_shots": quality,
        "texts": 2,
        "few_shot": 100.0,  # only the foxes stand behind another text
        "few_shot_texts": 1,
        "zero_shot_same_texts": 100.0,
    }
    written = [len(ScriptedTokenizer().encode(PAPER.render_pairs([pair]))) + 1 for pair in (ABOUT_HERONS, ABOUT_FOXES)]
    for passed in (one, two):
        assert passed["statuses"] == {"empty": 1, "ok": 2}
        assert passed["engine_errors"] == 0
        assert passed["yield"] == {
            "texts": 2,
            "texts_with_pairs_share": 1.0,
            "pairs": 2,
            "pairs_a_text": 1.0,
            "fewest_pairs": 1,
            "most_pairs": 1,
            "completions": 2,
            "tokens_a_pair": sum(written) / 2,
            "parsed_share": 1.0,
            "clean_share": 1.0,
            "by_length_share": 0.0,
            "rejected": {},
        }
        assert passed["grounding"] == {
            "responses": 2,
            "grounded_share": 1.0,
            "mean_token_share": 1.0,
            "span_share": 1.0,
        }
        assert passed["kinds"]["free_form_share"] == 1.0
        assert passed["variety"] == {
            "distinct_instructions_share": 1.0,
            "distinct_openings": 1,
            "top_opening": "how does the",
            "top_opening_share": 1.0,
            "texts_with_alike_instructions_share": 0.0,
            "texts_with_alike_pairs_share": 0.0,
            "repeated_responses_share": 0.0,
        }
    [sample] = sheet["samples"]
    assert sample["text"] == HERONS
    assert [answer["response"] for answer in sample["answers"]] == ["Herons wait.", ""]
    assert [generated["quality"] for generated in sample["generated"]] == [47.62, 47.62]
    for figure in ("60.00", "33.33", "73.81", "47.6", "how does the", "left out: no_text"):
        assert figure in shown
    first = output.read_bytes()
    assert main(command) == 0
    assert output.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.jsonl", "sheet.json"]


@pytest.mark.parametrize("markup", MARKUPS)
def test_a_synthesizer_is_perfect_on_its_own_pairs_in_every_markup(markup):
    gold = write_pairs(LONG)
    synthesizer = Synthesizer(engine="scripted", markup=markup)
    sheet = evaluate(synthesizer, [(LONG, gold)] * 4)
    assert {kind: numbers["f1"] for kind, numbers in sheet.accuracy["by_kind"].items()} == {
        "free_form": 100.0,
        "multiple_choice": 100.0,
        "chain_of_thought": 100.0,
    }
    assert sheet.accuracy["exact_match"] == 100.0
    for passed in sheet.passes:
        assert passed["quality"]["all_shots"] == 100.0
        assert passed["yield"]["clean_share"] == 1.0
        assert passed["kinds"] == {
            "free_form_share": 0.6,
            "multiple_choice_share": 0.2,
            "chain_of_thought_share": 0.2,
            "both_share": 0.0,
            "yes_no_share": 0.0,
        }
    assert sheet.passes[1]["quality"]["few_shot_texts"] == 2
    assert sheet.recipe["markup"] == markup
    assert "shots" not in sheet.recipe


def test_every_number_is_explained(capsys):
    sheet = evaluate(Synthesizer(engine="scripted"), [(LONG, write_pairs(LONG))])
    assert set(sheet.accuracy) == set(MEASURES["accuracy"])
    for group in set(MEASURES) - {"accuracy"}:
        assert set().union(*(passed[group] for passed in sheet.passes)) == set(MEASURES[group])
        for name in set(MEASURES[group]) - {"rejected"}:
            assert f"  {name} " in render(sheet)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--explain"])
    assert stopped.value.code == 0
    explained = capsys.readouterr().out
    assert all(name in explained for measures in MEASURES.values() for name in measures)


def scripted(*pairs, **settings):
    engine = ScriptedEngine(script=lambda text: PAPER.render_pairs(pairs))
    return Synthesizer(engine=engine, markup="paper", **settings)


def test_grounding_kinds_and_variety_by_hand():
    text = "The grey heron waits at the river for an hour."
    pairs = [
        Pair("Who waits at the river?", "the grey heron"),  # a span
        Pair("Who waits at a river!", "heron, grey"),  # the same question; both tokens, no span
        Pair("What does it do there?", "It flies to waits"),  # 1 of 4 tokens
        Pair("Where does it wait?", "at a river for one hour"),  # 4 of 5 tokens
        Pair("Is it grey?", "Yes."),
        Pair("Is it red?", "yes"),
        Pair("Which one waits?", "the grey heron", ("the grey heron", "a fox")),
        Pair("Is it a heron, or a fox?", "no", ("yes", "no"), "A heron is no fox"),
    ]
    sheet = evaluate(scripted(*pairs), [(text, [])], accuracy=False, shots=[1])
    [passed] = sheet.passes
    assert sheet.accuracy is None
    assert passed["quality"]["all_shots"] is None
    assert passed["grounding"] == {
        "responses": 4,
        "grounded_share": 0.75,
        "mean_token_share": (1 + 1 + 0.25 + 0.8) / 4,
        "span_share": 0.25,
    }
    assert passed["kinds"] == {
        "free_form_share": 0.75,
        "multiple_choice_share": 0.125,
        "chain_of_thought_share": 0.0,
        "both_share": 0.125,
        "yes_no_share": 0.375,
    }
    assert passed["variety"] == {
        "distinct_instructions_share": 0.875,
        "distinct_openings": 7,
        "top_opening": "who waits at",
        "top_opening_share": 0.25,
        "texts_with_alike_instructions_share": 1.0,
        "texts_with_alike_pairs_share": 1.0,  # as a bag, the first two are the same pair
        "repeated_responses_share": 0.125,
    }


def test_alike_instructions_with_other_responses_are_no_alike_pairs():
    pairs = [Pair("Who waits at the river?", "the grey heron"), Pair("Who waits at a river?", "an old fox")]
    [passed] = evaluate(scripted(*pairs), [("A text.", []), ("Another.", [])], shots=[1]).passes
    assert passed["variety"]["texts_with_alike_instructions_share"] == 1.0
    assert passed["variety"]["texts_with_alike_pairs_share"] == 0.0
    assert passed["variety"]["distinct_instructions_share"] == 0.25


def test_rejects_and_completions_cut_by_length_are_counted():
    engine = ScriptedEngine(script=lambda text: "<QUE> Who? <ANS> heron </END>\n\nstray </END>\n\n<QUE> never ends")
    rows = [("A heron.", [Pair("Who?", "heron")])]
    synthesizer = Synthesizer(engine=engine, markup="paper")
    [passed] = evaluate(synthesizer, rows, accuracy=False, shots=[1]).passes
    assert passed["yield"]["rejected"] == {"no_question": 1, "unfinished": 1}
    assert passed["yield"]["clean_share"] == passed["yield"]["parsed_share"] == 0.0
    repeated = "<QUE> Who? <ANS> heron </END>\n\n<QUE> who? <ANS> fox </END>\n\n<QUE> never ends"
    again = Synthesizer(engine=ScriptedEngine(script=lambda text: repeated), markup="paper")
    [passed] = evaluate(again, rows, accuracy=False, shots=[1]).passes
    assert passed["yield"]["rejected"] == {"duplicate": 1, "unfinished": 1}
    assert (passed["yield"]["clean_share"], passed["yield"]["parsed_share"]) == (0.0, 1.0)
    cut = Synthesizer(engine=engine, markup="paper", max_new_tokens=3)
    [passed] = evaluate(cut, rows, accuracy=False, shots=[1]).passes
    assert passed["yield"]["by_length_share"] == 1.0
    assert passed["yield"]["pairs"] == 0
    assert passed["yield"]["tokens_a_pair"] is None
    assert passed["quality"]["all_shots"] == 0.0
    assert passed["statuses"] == {"no_pairs": 1}


def test_long_texts_are_scored_as_a_whole():
    text = " ".join(f"Sentence number {n} tells of the {n}th heron." for n in range(40))
    synthesizer = Synthesizer(engine="scripted", max_model_len=600)
    [row] = synthesizer.synthesize([text])
    gold = [pair for shot in row.shots for pair in shot.pairs]
    assert len(row.shots) > 2
    one, three = evaluate(synthesizer, [(text, gold)], accuracy=False, shots=[3, 1]).passes
    assert one["quality"]["all_shots"] == 100.0
    assert one["yield"]["completions"] == len(row.shots)
    assert one["yield"]["texts"] == 1
    assert three["quality"]["few_shot"] is None  # its first window stands behind nothing


class Failing(ScriptedEngine):
    """Fails on prompts whose last text is about foxes."""

    def _answer(self, request):
        if "Foxes" in self.tokenizer.decode(request.prompt).rsplit("<CON>", 1)[1]:
            return Completion([], "error", error="no memory for a fox")
        return super()._answer(request)


def test_engine_errors_are_counted_and_in_no_mean():
    rows = [(HERONS, [ABOUT_HERONS]), (FOXES, [ABOUT_FOXES])]
    sheet = evaluate(Synthesizer(engine=Failing(), markup="paper"), rows)
    assert sheet.accuracy["engine_errors"] == 1
    assert (sheet.accuracy["questions"], sheet.accuracy["f1"]) == (1, 100.0)
    for passed in sheet.passes:
        assert passed["engine_errors"] == 1
        assert passed["statuses"] == {"engine_error": 1, "ok": 1}
        assert (passed["quality"]["texts"], passed["quality"]["all_shots"]) == (1, 100.0)
        assert passed["yield"]["texts"] == 1
    assert "engine_errors" in render(sheet)


def test_one_engine_serves_every_pass_and_stays_the_caller_s():
    closed, engine = [], ScriptedEngine()
    engine.close = lambda: closed.append(True)
    synthesizer = Synthesizer(engine=engine, markup="paper", seed=7, temperature=0.5, max_pairs=2, shots=5)
    other = with_shots(synthesizer, 3)
    assert other.engine is engine
    assert other.recipe.to_dict() == {**synthesizer.recipe.to_dict(), "shots": 3}
    evaluate(synthesizer, [(HERONS, [])])
    assert not closed
    assert synthesizer.recipe.shots == 5


def test_gold_pairs_without_both_halves_count_nowhere_and_are_told():
    gaps = [
        Pair("What is missing?", " "),
        {"instruction": None, "response": "x"},
        {"instruction": "Y?", "response": None},
    ]
    rows = [(HERONS, [*gaps, ABOUT_HERONS]), (FOXES, [ABOUT_FOXES]), (LONG, gaps)]
    whole = [(HERONS, [ABOUT_HERONS]), (FOXES, [ABOUT_FOXES]), (LONG, [])]
    sheets = [evaluate(Synthesizer(engine="scripted"), each, samples=0).to_dict() for each in (rows, whole)]
    assert [sheet.pop("incomplete_gold") for sheet in sheets] == [6, 0]
    assert sheets[0] == sheets[1]
    assert "left out 6 gold pairs" in render(evaluate(Synthesizer(engine="scripted"), rows))


def test_examples_stand_before_every_text_and_are_not_scored():
    asked = []

    class Noting(ScriptedEngine):
        def submit(self, request_id, request):
            asked.append(self.tokenizer.decode(request.prompt))
            super().submit(request_id, request)

    example = (LONG, [Pair("Which animal digs?", "A fox")])
    synthesizer = Synthesizer(engine=Noting(), primer=[("Another text.", [("Never?", "seen")])], shots=4)
    rows = [example, (HERONS, [ABOUT_HERONS]), (FOXES, [ABOUT_FOXES]), (LONG, [])]
    sheet = evaluate(synthesizer, rows, accuracy=False, shots=(1,), examples=1, limit=2)
    assert (sheet.texts, sheet.texts_with_gold) == (2, 2)
    zero_shot, few_shot = sheet.passes
    assert [(one["shots"], one["examples"]) for one in sheet.passes] == [(1, 0), (1, 1)]
    assert zero_shot["quality"]["all_shots"] == few_shot["quality"]["all_shots"] == 100.0
    assert len(asked) == 4
    for prompt in asked[:2]:
        assert "Never?" in prompt
        assert "Which animal digs?" not in prompt
    for prompt in asked[2:]:
        assert "Never?" not in prompt
        assert "Which animal digs? <ANS> A fox </END>" in prompt
    assert "1 examples" in render(sheet)
    assert [generated["examples"] for generated in sheet.samples[0]["generated"]] == [0, 1]
    with pytest.raises(InputError, match="1 rows with a text and gold pairs among its first 2"):
        evaluate(synthesizer, [example, (HERONS, []), (FOXES, [ABOUT_FOXES])], examples=2)
    with pytest.raises(RecipeError, match="examples=-1"):
        evaluate(synthesizer, rows, examples=-1)


def test_pairs_over_the_limit_are_no_fault_of_a_completion():
    sheet = evaluate(Synthesizer(engine="scripted", max_pairs=1), [(LONG, write_pairs(LONG))], shots=[1])
    [passed] = sheet.passes
    assert passed["yield"]["clean_share"] == 1.0
    assert passed["yield"]["most_pairs"] == 1
    assert passed["quality"]["all_shots"] == pytest.approx(20.0)


def test_rows_come_in_many_forms():
    synthesizer = Synthesizer(engine="scripted")
    as_tuples = [(HERONS, [("Who waits?", "herons")]), (FOXES, [])]
    features = Features({"text": TASK_FEATURES["text"], "pairs": TASK_FEATURES["pairs"]})
    as_rows = [
        {"text": HERONS, "pairs": [Pair("Who waits?", "herons").to_row(0)]},
        {"text": FOXES, "pairs": None},
    ]
    expected = evaluate(synthesizer, as_tuples).to_dict()
    assert evaluate(synthesizer, iter(as_tuples)).to_dict() == expected
    assert evaluate(synthesizer, Dataset.from_list(as_rows, features=features)).to_dict() == expected
    assert evaluate(synthesizer, [*as_tuples, ("Never read.", [])], limit=2).to_dict() == expected


def test_memory_does_not_hold_the_texts():
    count = GenerationCount()
    text = "A heron waits. " * 1000
    [row] = Synthesizer(engine="scripted", long_texts="truncate").synthesize([text])
    count.add(text, [], row)
    assert text not in map(str, vars(count).values())
    assert len(str(vars(count))) < len(text)


@pytest.mark.parametrize(
    ("rows", "settings", "error", "said"),
    [
        ([], {}, InputError, "holds no rows"),
        ([(HERONS, [])], {"quality": False}, InputError, "holds no gold pairs"),
        ([(HERONS, [])], {"quality": False, "accuracy": False}, RecipeError, "nothing is left"),
        ([(HERONS, [])], {"shots": [0]}, RecipeError, "shots"),
        ([(HERONS, [])], {"shots": []}, RecipeError, "shots"),
        ([(HERONS, [])], {"limit": 0}, RecipeError, "limit"),
        ([(HERONS, [])], {"samples": -1}, RecipeError, "samples"),
        ([(HERONS, [("only an instruction",)])], {}, InputError, "row 0"),
        ([(HERONS, [Pair("a?", "b")]), {"pairs": []}], {}, InputError, "row 1"),
        ([(HERONS, [{"instruction": 5, "response": "b"}])], {}, InputError, "row 0"),
        ([7], {}, InputError, "row 0"),
        ([(7, [])], {}, InputError, "row 0"),
    ],
)
def test_what_a_caller_can_get_wrong(rows, settings, error, said):
    with pytest.raises(error, match=said):
        evaluate(Synthesizer(engine="scripted"), rows, **settings)


def test_empty_texts_alone_give_a_sheet_of_nothing():
    sheet = evaluate(Synthesizer(engine="scripted"), [("", []), (None, [Pair("a?", "b")])])
    assert sheet.accuracy["questions"] == 0
    assert sheet.accuracy["f1"] is None
    assert sheet.passes[0]["statuses"] == {"empty": 2}
    assert sheet.passes[0]["yield"]["pairs_a_text"] is None
    assert " -" in render(sheet)


def test_a_raw_corpus_has_only_the_numbers_without_gold(tmp_path, capsys):
    source = tmp_path / "raw.jsonl"
    source.write_text("".join(json.dumps({"body": text}) + "\n" for text in (HERONS, FOXES, LONG)))
    command = ["evaluate", "any", "--on", str(source), "--engine", "scripted", "--text-column", "body"]
    assert main([*command, "--json", str(tmp_path / "out.json"), "--limit", "2", "--shots", "2"]) == 0
    [sheet] = json.loads((tmp_path / "out.json").read_text())["sheets"]
    assert sheet["accuracy"] is None
    assert (sheet["texts"], sheet["texts_with_gold"]) == (2, 0)
    [passed] = sheet["passes"]
    assert (passed["shots"], passed["quality"]["all_shots"], passed["yield"]["pairs"]) == (2, None, 2)
    assert main([*command, "--accuracy"]) == 1
    assert one_line_of(capsys).startswith(f"ipt: {source} holds no gold pairs")


def test_several_sets_make_several_sheets(tmp_path):
    sources = [write_rows(tmp_path / f"{n}.jsonl", ROWS[n : n + 1]) for n in range(2)]
    output = tmp_path / "out.json"
    on = [option for source in sources for option in ("--on", source)]
    assert main(["evaluate", "any", *on, "--engine", "scripted", "--accuracy", "--json", str(output)]) == 0
    sheets = json.loads(output.read_text())["sheets"]
    assert [(sheet["name"], sheet["accuracy"]["f1"]) for sheet in sheets] == [(sources[0], 40.0), (sources[1], 100.0)]
    assert all(sheet["passes"] == [] for sheet in sheets)


def one_line_of(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_a_user_can_get_wrong_is_one_line(tmp_path, capsys):
    source = write_rows(tmp_path / "set.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    on = ["--on", source, "--engine", "scripted"]
    for command, said in [
        (["any", "--on", str(tmp_path / "empty.jsonl"), "--engine", "scripted"], "holds no rows"),
        (["any", *on, "--text-column", "body"], "no column 'body'"),
        (["any", *on, "--json", str(tmp_path / "no" / "sheet.json")], "cannot be written"),
        (["any", *on, "--json", str(tmp_path)], "cannot be written"),
        (["any", *on, "--limit", "0"], "limit=0"),
        ([str(tmp_path), "--on", source, "--engine", "transformers"], "cannot"),
    ]:
        assert main(["evaluate", *command]) == 1
        assert said in one_line_of(capsys)
    for wrong in ["0", "1,", "two"]:
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", "any", *on, "--shots", wrong])
        assert stopped.value.code == 2


def test_a_model_that_cannot_be_loaded_raises_before_anything_is_asked(tmp_path):
    with pytest.raises((EngineError, InputError)):
        evaluate(Synthesizer(model=str(tmp_path), engine="transformers"), [(HERONS, [])])


@pytest.mark.slow
def test_the_embedded_model_on_three_texts(tmp_path, smol):
    rows = [
        row(
            "Basalt is a dark volcanic rock that forms when lava rich in iron and magnesium cools quickly. It makes up "
            "most of the ocean floor.",
            Pair("What colour is basalt?", "dark"),
            Pair("Which of these is basalt?", "a volcanic rock", ("a volcanic rock", "a salt")),
        ),
        row(
            "Saffron is a spice made from the dried stigmas of a crocus. Iran grows most of the world's saffron.",
            Pair("Which country grows most saffron?", "Iran"),
        ),
        row(
            "The bicycle of 1885 was built by John Kemp Starley in Coventry. It was called the Rover.",
            Pair("Who built the bicycle of 1885?", "John Kemp Starley"),
        ),
    ]
    source, output = write_rows(tmp_path / "set.jsonl", rows), tmp_path / "sheet.json"
    command = ["evaluate", "smol", "--on", source, "--max-new-tokens", "60", "--json", str(output)]
    assert main([*command, "--engine", "transformers"]) == 0
    [sheet] = json.loads(output.read_text())["sheets"]
    assert sheet["revision"]
    assert sheet["accuracy"]["questions"] == 4
    assert sheet["accuracy"]["f1"] > 10
    assert sheet["accuracy"]["empty_share"] < 1
    assert sheet["accuracy"]["engine_errors"] == 0
    for passed in sheet["passes"]:
        assert passed["yield"]["texts"] == 3
        assert passed["yield"]["pairs"] >= 2
        assert 0 < passed["quality"]["all_shots"] < 100
        assert passed["grounding"]["mean_token_share"] > 0.3
