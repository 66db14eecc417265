"""Task sets become rows: nothing is lost without a reason, nothing of an evaluation set is tuned on."""

import json
import re
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt_datasets.errors import InputError
from ipt_datasets.schema import TASK_FEATURES, Pair
from ipt_datasets.synthesis.markup import PAPER, parse_pairs
from ipt_datasets.tasks.converters import (
    CONVERTERS,
    LEFT_OUT,
    LeftOut,
    TaskText,
    from_chain_of_thought,
    from_collection,
    from_multiple_choice,
    from_prompts,
    from_questions,
    from_squad,
    from_summary,
    from_yes_no,
)
from ipt_datasets.tasks.derive import (
    add_options,
    add_rationales,
    first_of_each_answer,
    gather,
    join_neighbours,
    order_by_place,
    shuffle_some,
)
from ipt_datasets.tasks.description import read_description, shipped_description
from ipt_datasets.tasks.public_sets import read_written, write_table
from ipt_datasets.tasks.select import OVERLAP_WORDS, Overlap, is_held_out, most_pairs
from ipt_datasets.tasks.sets import Report, read_evaluation_rows, read_task_rows, read_texts

TEXT = (
    "The lighthouse was built in 1884 by Anna Berg. It stands on the island of Utsira. "
    "Its lamp burned oil until 1952, when Karl Moe installed electric light. The tower is 13 metres high."
)
PAIRS = (
    Pair("How high is the tower?", "13 metres"),
    Pair("Who built the lighthouse?", "Anna Berg"),
    Pair("Who installed electric light?", "Karl Moe"),
    Pair("Where does it stand?", "Utsira"),
    Pair("When was it built?", "1884"),
)


def one(found) -> TaskText:
    [text] = found
    assert isinstance(text, TaskText), text
    return text


def reasons(found) -> list[str]:
    return [each.reason for each in found if isinstance(each, LeftOut)]


def test_squad_articles_with_several_answers_none_and_no_context():
    article = {
        "title": "Utsira",
        "paragraphs": [
            {
                "context": TEXT,
                "qas": [
                    {"question": "who built it", "answers": [{"text": "Anna Berg"}, {"text": "Berg"}]},
                    {"question": "Who painted it?", "answers": [{"text": "a"}], "is_impossible": True},
                    {"question": " ", "answers": [{"text": "1884"}]},
                ],
            },
            {"context": " ", "qas": [{"question": "Why?", "answers": [{"text": "so"}]}]},
            {"context": "Nothing is asked here.", "qas": []},
        ],
    }
    found = list(from_squad({"data": [article]}))
    assert reasons(found) == ["no_answer", "no_question", "no_text", "no_pairs"]
    [text] = [each for each in found if isinstance(each, TaskText)]
    assert text == TaskText(TEXT, (Pair("Who built it?", "Anna Berg"),), "Utsira")


@pytest.mark.parametrize(
    "answers", ["Anna Berg", ["Anna Berg", "Berg"], {"text": ["Anna Berg"], "answer_start": [36]}, [["", "Anna Berg"]]]
)
def test_answers_are_read_in_every_way_they_are_written(answers):
    row = {"passage": {"body": TEXT}, "q": "Who built it?", "a": answers}
    assert one(from_questions(row, text="passage.body", question="q", answer="a")).pairs[0].response == "Anna Berg"


@pytest.mark.parametrize("answer", ["B", "b)", 1, "Karl Moe", "B) Karl Moe", "karl moe."])
def test_the_right_option_is_found_by_letter_number_and_text(answer):
    row = {"context": TEXT, "question": "Who?", "options": ["A) Anna Berg", "B) Karl Moe"], "answer": answer}
    pair = one(from_multiple_choice(row)).pairs[0]
    assert (pair.response, pair.options) == ("Karl Moe", ("Anna Berg", "Karl Moe"))


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (["E. coli", "H. pylori", "B. subtilis"], "H. pylori", "H. pylori"),
        (["E. coli", "B. subtilis"], "B", "B. subtilis"),  # by its place, not by what it begins with
        (["3", "1", "2"], "1", "1"),
        (["3", "1", "2"], 1, "1"),
        (["3", "1", "2"], 2, "2"),
        ([3, 1, 2], 1, "1"),
        ("A) Anna Berg\nB) Karl Moe", "B", "Karl Moe"),
        ({"text": ["Anna", "Karl"], "label": [1, 2]}, 2, "Karl"),
        (["(A) one", "(B) two", "(D) four"], "(D) four", "(D) four"),
    ],
)
def test_labels_are_taken_off_only_where_they_are_labels(options, answer, right):
    row = {"context": TEXT, "question": "Which?", "options": options, "answer": answer}
    pair = one(from_multiple_choice(row)).pairs[0]
    assert pair.response == right
    assert len(pair.options) == (len(options) if isinstance(options, list) else 2)


def test_an_answer_outside_the_options_is_left_out_with_its_reason():
    row = {"context": TEXT, "question": "Who?", "options": ["Anna", "Karl"], "answer": "Eva"}
    assert reasons(from_multiple_choice(row)) == ["not_in_options"]
    assert reasons(from_multiple_choice({**row, "options": ["Eva"]})) == ["too_few_options"]
    assert reasons(from_yes_no({"passage": TEXT, "question": "Is it?", "answer": "perhaps"})) == ["not_in_options"]


@pytest.mark.parametrize(("answer", "word"), [(True, "yes"), (0, "no"), ("Maybe", "maybe"), ("false", "no")])
def test_yes_no_maybe(answer, word):
    row = {"passage": TEXT, "question": "is it old", "answer": answer}
    pair = one(from_yes_no(row, options=("yes", "no", "maybe"))).pairs[0]
    assert (pair.instruction, pair.response, pair.options) == ("Is it old?", word, ("yes", "no", "maybe"))


def test_summaries_and_titles_are_asked_for():
    row = {"body": TEXT, "title": "A lighthouse", "tldr": ["", "An old lighthouse."]}
    text = one(from_summary(row, text="body", asked={"tldr": "Summarize.", "title": "Give a title."}))
    assert text.pairs == (Pair("Summarize.", "An old lighthouse."), Pair("Give a title.", "A lighthouse"))


def test_a_word_problem_is_cut_into_text_and_question():
    row = {"question": "Ann has 2 pens. She buys 3. How many pens has she?", "answer": "2+3 = <<2+3=5>>5 pens.\n#### 5"}
    text = one(from_chain_of_thought(row, rationale=""))
    assert text == TaskText("Ann has 2 pens. She buys 3.", (Pair("How many pens has she?", "5", (), "2+3 = 5 pens."),))
    assert reasons(from_chain_of_thought({"question": "Why?", "answer": "so", "rationale": "r"})) == ["no_text"]


def test_the_text_is_taken_out_of_a_prompt():
    pattern = r"Read this\.\n(?P<text>.*)\nQ: (?P<question>[^\n]*)\n(?P<options>.*)\n"
    row = {"prompt": f"Read this.\n{TEXT}\nQ: Who?\n- Anna\n - Karl\n", "completion": "Karl<|endoftext|>"}
    assert one(from_prompts(row, pattern=pattern)).pairs == (Pair("Who?", "Karl", ("Anna", "Karl")),)
    assert reasons(from_prompts({"prompt": "Else", "completion": "x"}, pattern=pattern)) == ["no_match"]


def test_rows_of_the_released_collection_are_read_with_options_and_reasoning():
    pairs = [
        Pair("Who?", "Anna", ("Anna", "Karl")),
        Pair("How old?", "7", (), "It is 2 and 5."),
        Pair("Where?", "Utsira"),
    ]
    listed = [{"Q": PAPER.render_question(pair), "A": PAPER.render_answer(pair)} for pair in pairs]
    bad = [{"Q": "Who?\nOptions:\n- Anna\n- Karl", "A": "Eva"}, {"Q": "", "A": "x"}]
    row = {"context": TEXT, "QA_list": listed + bad, "QA_type": "free", "rc_name": "x"}
    found = list(from_collection(row))
    assert reasons(found) == ["not_in_options", "no_question"]
    assert found[-1] == TaskText(TEXT, tuple(pairs))


def test_pairs_about_one_text_come_together_and_equal_questions_once():
    found = list(gather([TaskText(TEXT, PAIRS[:2]), LeftOut("no_text", ""), TaskText(f" {TEXT}\n", PAIRS[1:3])]))
    assert reasons(found) == ["no_text", "duplicate"]
    assert found[-1].pairs == PAIRS[:3]


def test_only_neighbours_of_one_document_are_joined():
    parts = [TaskText(f"Part {at} has five words.", (PAIRS[at],), "ab"[at > 2]) for at in range(5)]
    joined = list(join_neighbours(parts, 10))
    assert [text.text.count("Part") for text in joined] == [2, 1, 2]
    assert [pair for text in joined for pair in text.pairs] == list(PAIRS)


def test_pairs_are_ordered_as_the_text_answers_them():
    ordered = order_by_place(TEXT, PAIRS)
    assert [pair.response for pair in ordered] == ["1884", "Anna Berg", "Utsira", "Karl Moe", "13 metres"]
    implied = Pair("Why is there no oil any more?", "Because of the electric light that Moe installed")
    assert order_by_place(TEXT, (*PAIRS, implied))[-3] == implied  # where its sentence begins


def test_of_pairs_with_the_same_answer_the_first_is_tuned_on_and_all_are_asked(sets):
    again = Pair("Which woman built the lighthouse?", "anna berg.")
    chosen = Pair("Who, of the two?", "Anna Berg", ("Anna Berg", "Karl Moe"))
    kept, left = first_of_each_answer((*PAIRS, again, chosen))
    assert kept == (*PAIRS, chosen)
    assert left == [LeftOut("same_answer", again.instruction)]
    qas = [{"question": pair.instruction, "answer": pair.response} for pair in (*PAIRS, again)]
    (sets.parent / "wiki.json").write_text(json.dumps([{"context": TEXT, "qas": qas}]))
    for use, expected in (("tune", {"same_answer": 1}), ("evaluate", {})):
        report = Report()
        [text] = read_texts(replace(read_description(sets)["wiki"], use=use), sets.parent, report)
        assert len(text.pairs) + report.left_out.total() == 6
        assert report.left_out == expected


def test_every_pair_beyond_the_most_of_a_text_is_counted(sets):
    qas = [{"question": pair.instruction, "answer": pair.response} for pair in PAIRS]
    (sets.parent / "wiki.json").write_text(json.dumps([{"context": TEXT, "qas": qas}]))
    report = Report()
    [text] = read_texts(replace(read_description(sets)["wiki"], max_pairs=2), sets.parent, report)
    assert [pair.response for pair in text.pairs] == ["1884", "Utsira"]
    assert report.left_out == {"over_max_pairs": 3}


def test_about_the_given_share_of_texts_is_shuffled():
    shuffled = [shuffle_some(f"Text {at}", PAIRS, 0.4, 0) for at in range(300)]
    assert 90 < sum(pairs != PAIRS for pairs in shuffled) < 150
    assert all(sorted(pairs, key=PAIRS.index) == list(PAIRS) for pairs in shuffled)
    assert shuffle_some(TEXT, PAIRS, 0.0, 0) == PAIRS


@given(st.permutations(PAIRS), st.integers(0, 50))
def test_derived_options_and_reasons_keep_question_and_answer(pairs, seed):
    pairs = tuple(pairs)
    chosen = add_options(TEXT, pairs, 1.0, seed)
    assert [(pair.instruction, pair.response) for pair in chosen] == [(p.instruction, p.response) for p in pairs]
    for pair in chosen:
        if pair.options:
            assert pair.response in pair.options
            assert len(set(pair.options)) == len(pair.options) >= 3
    for before, pair in zip(pairs, add_rationales(TEXT, pairs, 1.0, seed), strict=True):
        assert replace(pair, rationale="") == before
        assert not pair.rationale or before.response in pair.rationale
    assert add_options(TEXT, pairs, 0.0, seed) == add_rationales(TEXT, pairs, 0.0, seed) == pairs


def test_wrong_options_are_of_the_same_kind():
    for pair in add_options(TEXT, PAIRS, 1.0, 0):
        assert all(option[0].isdecimal() == pair.response[0].isdecimal() for option in pair.options)
    assert any(pair.options for pair in add_options(TEXT, PAIRS, 1.0, 0))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 20))
def test_the_texts_with_most_pairs_are_kept(numbers, most):
    texts = [TaskText(f"text {at}", PAIRS[:number]) for at, number in enumerate(numbers)]
    kept, left = most_pairs(texts, most, 0)
    assert len(kept) + len(left) == len(texts)
    assert len(kept) == min(most, len(texts))
    dropped = [len(text.pairs) for text in texts if text not in kept]
    assert max(dropped, default=0) <= min(len(text.pairs) for text in kept)
    assert kept == [text for text in texts if text in kept]


def test_overlap_is_found_inside_longer_texts_and_not_between_others():
    words = [f"w{at}" for at in range(40)]
    known = Overlap([" ".join(words), "Too short"])
    assert "X " + " ".join(words[5 : 5 + OVERLAP_WORDS]).upper() + ", y." in known
    assert "x " + " ".join(words[5 : 4 + OVERLAP_WORDS]) + " y" not in known
    assert "too short!" in known
    assert "Too short a text" not in known


@pytest.fixture
def sets(tmp_path):
    """A description of two sets to tune on and one to evaluate on, with its data."""
    wiki = [
        {
            "context": f"Town {at} has {at + 10} gates. {TEXT}",
            "qas": [{"question": "How many?", "answer": str(at + 10)}],
        }
        for at in range(40)
    ]
    (tmp_path / "wiki.json").write_text(json.dumps(wiki))
    lines = [{"p": f"A place called {at}.", "q": "is it a place", "a": at % 2} for at in range(30)]
    lines += [
        {"p": "", "q": "is it", "a": 1},
        {"p": "x", "q": "is it", "a": "?"},
        {"p": "a \ud800", "q": "is it", "a": 1},
    ]
    (tmp_path / "bool.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "seen.csv").write_text(f'c,q,a\n"Town 7 has 17 gates. {TEXT}",How many?,17\n')
    (tmp_path / "sets.toml").write_text(
        """
        [wiki]
        files = ["wiki.json"]
        convert = "squad"
        [bool]
        files = ["bool.jsonl"]
        convert = "yes_no"
        max_texts = 20
        arguments = { text = "p", question = "q", answer = "a" }
        [unseen]
        files = ["seen.csv"]
        convert = "questions"
        use = "evaluate"
        arguments = { text = "c", question = "q", answer = "a" }
        """
    )
    return tmp_path / "sets.toml"


def test_rows_are_split_by_text_and_free_of_evaluation_texts(sets):
    parts = {part: read_task_rows(sets, sets.parent, part=part, held_out=0.3) for part in ("tune", "held_out")}
    rows = {part: list(found) for part, (found, _) in parts.items()}
    texts = {part: {row["text"] for row in found} for part, found in rows.items()}
    assert not texts["tune"] & texts["held_out"]
    assert len(texts["tune"] | texts["held_out"]) == sum(map(len, texts.values()))
    assert 3 < len(texts["held_out"]) < 12
    unseen, _ = read_task_rows(sets, sets.parent, part="evaluate")
    assert [row["task_set"] for row in unseen] == ["unseen"]
    report = parts["tune"][1]["wiki"]
    # All towns share the lighthouse with the evaluation set: none of them may be tuned on.
    assert report.left_out == {"in_evaluation": 40}
    assert not any(row["task_set"] == "wiki" for part in rows.values() for row in part)
    left = parts["tune"][1]["bool"].left_out
    assert left == {"no_text": 1, "not_in_options": 1, "not_unicode": 1, "over_max_texts": 10}
    assert set(left) <= set(LEFT_OUT)


def test_texts_with_too_few_pairs_are_left_out_and_reported(sets):
    sets.write_text(sets.read_text().replace("max_texts = 20", "min_pairs = 2"))
    with pytest.raises(InputError, match="no rows to tune on in bool"):
        read_task_rows(sets, sets.parent, names=["bool"])
    report = Report()
    assert read_texts(read_description(sets)["bool"], sets.parent, report) == []
    assert report.left_out["under_min_pairs"] == 30


def test_rows_have_the_documented_schema_and_parse_back(sets):
    rows, reports = read_task_rows(sets, sets.parent, names=["bool"], held_out=0.0)
    assert rows.features == TASK_FEATURES
    assert len(rows) == reports["bool"].texts == 20
    for row in rows:
        assert parse_pairs(row["completion"]).pairs == tuple(map(Pair.read, row["pairs"]))
        assert row["prompt"] == PAPER.render_text(row["text"])
    assert read_task_rows(sets, sets.parent, names=["bool"], held_out=0.0)[0][:] == rows[:]


def test_the_split_depends_on_the_text_alone():
    held = [is_held_out(f"text {at}", 0.25, 1) for at in range(400)]
    assert 60 < sum(held) < 140
    assert held == [is_held_out(f" text  {at}\n", 0.25, 1) for at in range(400)]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[a]\nfiles = ['x.json']\nconvert = 'squid'", "convert = 'squid'"),
        ("[a]\nconvert = 'squad'", "needs `files` and `convert`"),
        ("[a]\nfiles = ['x']\nconvert = 'squad'\nmax_text = 3", "max_text"),
        ("files = 3", "needs `files`"),
        ("", "describes no task set"),
        ("[a", "cannot be read"),
        ("[a]\nfiles = ['none.json']\nconvert = 'squad'", "none.json"),
        ("[a]\nfiles = ['none']\nconvert = 'public'", "there is no folder"),
        ("[a]\nfiles = ['/x.json']\nconvert = 'squad'", "has files = ['/x.json']; expected a list of files or globs"),
        ("[a]\nfiles = 'x.json'\nconvert = 'squad'", "has files = 'x.json'"),
        ("[a]\nfiles = ['x']\nconvert = 'squad'\nuse = 'train'", 'expected "tune" or "evaluate"'),
        (
            "[a]\nfiles = ['x']\nconvert = 'squad'\nmax_texts = 0",
            "max_texts = 0; expected a whole number of at least 1",
        ),
        ("[a]\nfiles = ['x']\nconvert = 'squad'\noptions = 15", "options = 15; expected a share from 0 to 1"),
        (
            "[a]\nfiles = ['x']\nconvert = 'squad'\narguments = { text = 'c' }",
            "got an unexpected keyword argument 'text'",
        ),
        ("[a]\nfiles = ['x']\nconvert = 'summary'", "missing a required argument: 'asked'"),
        ("[a]\nfiles = ['x']\nconvert = 'prompts'\narguments = { pattern = '(' }", "which is no regular expression"),
        ("[a]\nfiles = ['x']\nconvert = 'prompts'\narguments = { pattern = '(?P<text>.*)' }", "with the groups text;"),
    ],
)
def test_a_wrong_description_gets_one_clear_line(tmp_path, written, said):
    (tmp_path / "sets.toml").write_text(written)
    with pytest.raises(InputError, match=re.escape(said)):
        read_task_rows(tmp_path / "sets.toml", tmp_path)


def test_unknown_names_and_broken_lines_are_named(sets):
    with pytest.raises(InputError, match="has no set boole; it has wiki, bool, unseen"):
        read_task_rows(sets, sets.parent, names=["boole"])
    (sets.parent / "bool.jsonl").write_text('{"p": "A text.", "q": "is it", "a": 1}\n{"p": \n')
    with pytest.raises(InputError, match=r"bool\.jsonl, line 2"):
        read_task_rows(sets, sets.parent, names=["bool"])


def test_rows_that_are_not_what_the_converter_reads_are_counted_and_the_others_used(sets):
    rows = [
        {"title": "x", "paragraphs": 5},
        {"title": "y", "paragraphs": [{"context": TEXT, "qas": [7]}]},
        "no row",
        {"context": TEXT, "qas": [{"question": "Who built it?", "answer": "Anna Berg"}]},
    ]
    (sets.parent / "wiki.json").write_text(json.dumps({"version": "1", "data": rows}))
    report = Report()
    [text] = read_texts(read_description(sets)["wiki"], sets.parent, report)
    assert text.pairs == (Pair("Who built it?", "Anna Berg"),)
    assert report.left_out == {"unreadable": 3}


def test_a_file_of_one_row_is_that_row(sets):
    (sets.parent / "wiki.json").write_text(json.dumps({"context": TEXT, "qas": [{"question": "Who?", "answer": "A"}]}))
    [text] = read_texts(read_description(sets)["wiki"], sets.parent, Report())
    assert text.text == TEXT


def test_files_that_cannot_be_read_get_one_clear_line(sets):
    (sets.parent / "wiki.json").write_bytes('[{"context": "Zürich"}]'.encode("latin-1"))
    with pytest.raises(InputError, match=r"wiki\.json cannot be read: .*expected JSON in UTF-8"):
        read_task_rows(sets, sets.parent, names=["wiki"])
    (sets.parent / "wiki.json").write_text("[]")
    with pytest.raises(InputError, match=r"\[wiki\] nothing was found in wiki\.json"):
        read_task_rows(sets, sets.parent, names=["wiki"])
    (sets.parent / "scitldr").mkdir()
    sets.write_text(
        "[written_abstracts]\nfiles = ['scitldr']\nconvert = 'public'\narguments = { pubmedqa = 'no.json' }"
    )
    with pytest.raises(InputError, match=r"\[written_abstracts\] .*scitldr cannot be read: FileNotFoundError"):
        read_task_rows(sets, sets.parent)


def test_what_is_left_out_of_an_evaluation_set_is_told(sets):
    rows, report = read_evaluation_rows(sets, sets.parent, "unseen")
    assert (len(rows), report.texts, report.pairs) == (1, 1, 1)
    lines = [{"p": f"A place called {at}.", "q": "is it a place", "a": at % 3} for at in range(300)]
    (sets.parent / "bool.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sets.write_text(sets.read_text().replace("max_texts = 20", "max_texts = 150"))
    rows, report = read_evaluation_rows(sets, sets.parent, "bool")  # tuned on, so these are its held-out texts
    assert report.left_out == {"not_in_options": 100, "over_max_texts": 50}
    assert 0 < len(rows) < 20


CHINESE = "灯塔由安娜建于一八八四年。它位于乌特西拉岛上。直到一九五二年，灯里一直烧油。塔高十三米，有一百二十级台阶。"


def test_texts_in_a_script_without_spaces_are_joined_ordered_and_compared_by_character():
    pairs = (Pair("塔有多高？", "十三米"), Pair("谁建了灯塔？", "安娜"))
    assert [pair.response for pair in order_by_place(CHINESE, pairs)] == ["安娜", "十三米"]
    parts = [TaskText(CHINESE, pairs[:1], "d"), TaskText(CHINESE, pairs[1:], "d")]
    assert len(list(join_neighbours(parts, 60))) == 2
    assert len(list(join_neighbours(parts, 200))) == 1
    known = Overlap([CHINESE])
    assert f"前面还有别的话，{CHINESE[10:30]}后面也有。" in known
    assert "海边有一座很老的塔，没有人知道是谁建的，也没有人上去过。" not in known


def test_the_shipped_description_is_whole():
    described = read_description(shipped_description("smol"))
    unseen = {name for name, task_set in described.items() if task_set.use == "evaluate"}
    assert unseen == {"squad", "policyqa", "qed", "boolq"}
    assert all(task_set.licence and task_set.origin for task_set in described.values())
    assert {task_set.convert for task_set in described.values()} <= {*CONVERTERS, "public"}


def test_written_pairs_find_their_abstracts_and_miss_none_silently(tmp_path):
    written = [json.loads(line) for line in files("ipt_datasets.tasks").joinpath("written.jsonl").open()]
    assert len({row["id"] for row in written}) == len(written) > 400
    for row in written:
        pairs = [Pair.read(pair) for pair in row["pairs"]]
        assert all(pair.instruction.strip() and pair.response.strip() for pair in pairs)
        assert all(pair.response in pair.options for pair in pairs if pair.options)
        assert len({pair.instruction for pair in pairs}) == len(pairs) >= 4
    first, second = written[0], written[-1]
    (tmp_path / "scitldr").mkdir()
    paper = {"paper_id": second["id"], "source": ["We do this.", " It works. "]}
    (tmp_path / "scitldr" / "SciTLDR-Data__SciTLDR-A__dev.jsonl").write_text(json.dumps(paper) + "\n")
    (tmp_path / "pubmed.json").write_text(json.dumps({first["id"]: {"CONTEXTS": ["Aim.", "Found."]}}))
    read = list(read_written(tmp_path / "scitldr", "../pubmed.json"))
    assert [text.text for text in read if isinstance(text, TaskText)] == ["Aim.\n\nFound.", "We do this. It works."]
    assert reasons(read) == ["no_text"] * (len(written) - 2)


def test_tables_are_written_line_by_line():
    assert (
        write_table([["", "2019", 2018], ["", "", ""], ["Total\nsales", "$1", ""]]) == "2019 | 2018\nTotal sales | $1"
    )
