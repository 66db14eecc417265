"""The Templatizer on batches: which shots make a text, that nothing of them is lost, and how choices fall."""

import copy
import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templating_rows import BOTH, CHOICE, FREE, THOUGHT, batch, row, shot, texts

from ipt_datasets.schema import Pair
from ipt_datasets.templating.library import load_library
from ipt_datasets.templating.template_file import FRAMES
from ipt_datasets.templating.templatizer import Templatizer, templatize_batch

# Which shots make a text


def test_the_shots_of_a_chain_make_one_text_in_order_with_plain_rows_between():
    out = templatize_batch(
        batch(
            row("First text.", [FREE], ("c", 0), id="x"),
            row("Left out.", status="not_selected", id="y"),
            row("Second text.", [CHOICE, THOUGHT], ("c", 1), id="z"),
            row("Other chain.", [FREE], ("d", 0), id=7),
        )
    )
    assert out["chain"] == ["c", "", "d"]
    assert out["rows"] == [["x", "z"], ["y"], ["7"]]
    assert out["n_pairs"] == [3, 0, 1]
    assert out["template"][1] == "plain"
    assert out["text"][1] == "Left out."
    assert out["text"][0].index("First text.") < out["text"][0].index("Second text.")


def test_a_new_text_begins_where_the_position_does_not_rise():
    rows = [row(f"Text {at}.", [FREE], ("c", position)) for at, position in enumerate([0, 1, 1, 0, 2])]
    assert Templatizer()(batch(*rows))["rows"] == [["0", "1"], ["2"], ["3", "4"]]


def test_chains_that_interleave_are_kept_apart():
    rows = [row(f"Text {c}{p}.", [FREE], (c, p)) for p in (0, 1) for c in "ab"]
    assert Templatizer()(batch(*rows))["chain"] == ["a", "b"]


def test_a_shot_without_pairs_is_a_plain_text_once_and_no_part_of_the_chains_text():
    rows = [row("One.", [FREE], ("c", 0)), row("Two.", [], ("c", 1), "no_pairs"), row("Three.", [FREE], ("c", 2))]
    out = templatize_batch(batch(*rows))
    assert out["rows"] == [["0", "2"], ["1"]]
    assert out["text"][1] == "Two."
    assert "Two." not in out["text"][0]


def test_a_chain_without_any_pair_gives_each_text_once_in_order_and_no_empty_one():
    rows = [row(f"doc {c}", [], ("c", at), "no_pairs") for at, c in enumerate("AB")]
    assert texts(rows) == ["doc A", "doc B"]


def test_null_blank_and_unstorable_texts_give_nothing():
    rows = [row(text, status="empty") for text in (None, "", " \n\t", "\ud800 lone")]
    assert texts(rows) == []
    assert texts([row(" kept as it is \n")]) == [" kept as it is \n"]


def test_windows_of_a_row_show_its_whole_text():
    text = "0123456789" * 3
    windows = [shot("c", 0, 2, 9), shot("c", 1, 12, 20), shot("d", 0, 20, 25)]
    pairs = [(0, FREE), (1, CHOICE), (2, THOUGHT)]
    out = Templatizer(frame_weights={"classic": 1})(batch(row(text, pairs, windows)))
    assert out["chain"] == ["c", "d"]
    assert out["rows"] == [["0"], ["0"]]
    assert text[:12] in out["text"][0]
    assert text[:13] not in out["text"][0]
    assert text[12:20] in out["text"][0]
    assert text[20:] in out["text"][1]


def test_a_window_without_pairs_is_plain_and_a_row_without_any_pair_is_whole():
    text = "alpha beta gamma"
    windows = [shot("c", 0, 0, 6), shot("c", 1, 6, 11), shot("c", 2, 11, 16)]
    out = templatize_batch(batch(row(text, [(0, FREE), (2, FREE)], windows)))
    assert out["text"][1] == "beta "
    assert out["n_pairs"] == [2, 0]
    assert texts([row(text, (), windows, "no_pairs")]) == [text]
    blank = [shot("c", 0, 0, 5), shot("c", 1, 5, 8), shot("c", 2, 8, 13)]
    assert len(texts([row("alpha   gamma", [(0, FREE), (2, FREE)], blank)])) == 1


def test_windows_that_overlap_show_what_they_read():
    out = texts([row("abcdef", [(0, FREE), (1, FREE)], [shot("c", 0, 0, 4), shot("d", 0, 2, 6)])])
    assert "abcd" in out[0]
    assert "cdef" in out[1]


def test_shots_are_told_apart_by_more_than_pairs_are():
    rows = [row("First text.", [FREE, FREE], ("c", 0)), row("Second text.", [FREE, FREE], ("c", 1))]
    separators = [form.source for form in load_library().forms["separators.shots"].entries]
    for seed in range(300):
        text = texts(rows, seed=seed)[0]
        between = text[text.index("First text.") : text.index("Second text.")]
        assert any(separator in between for separator in separators)


def test_one_warning_for_a_chain_whose_beginning_is_missing():
    templatizer = Templatizer()
    rows = batch(row("Two.", [FREE], ("c", 1)), row("Three.", [], ("d", 2)))
    with pytest.warns(UserWarning, match="a chain's beginning is not in the batch") as caught:
        assert templatizer(rows)["n_pairs"] == [1, 0]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        templatizer(rows)
        Templatizer()(batch(row("One.", [], ("c", 0)), row("Two.", [FREE], ("c", 1))))


def test_shots_of_no_chain_are_texts_of_their_own():
    out = templatize_batch(batch(row("One.", [FREE], ("", 0)), row("Two.", [FREE], ("", 1))))
    assert out["rows"] == [["0"], ["1"]]


# Contents


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tricky = st.sampled_from(
    ["use {answer} here", "{instruction}", "100%s \\1 \\n {0}", "??", "{{text}}", "a;b|c/d,e", "\x00"]
)
contents = anything | tricky
words = contents.filter(lambda text: text.strip(" ."))
pairs_ = st.builds(
    Pair,
    words,
    words.map(lambda text: f"<{text}>"),  # never a label
    st.lists(contents, max_size=5).map(tuple),
    contents,
)


@settings(max_examples=100)
@given(
    contexts=st.lists(words, min_size=1, max_size=3),
    pairs=st.lists(pairs_, min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    frame=st.sampled_from(list(FRAMES)),
)
def test_nothing_is_lost_whatever_the_contents(contexts, pairs, seed, frame):
    rows = [row(text, pairs, ("c", at)) for at, text in enumerate(contexts)]
    text = texts(rows, seed=seed, frame_weights={frame: 1})[0]
    assert all(context in text for context in contexts)
    for pair in pairs:
        assert text.count(pair.instruction) >= len(contexts)
        assert text.count(pair.response) >= len(contexts)
        assert not pair.rationale.strip() or text.count(pair.rationale) >= len(contexts)
        assert all(text.count(option) >= len(contexts) for option in pair.options if option.strip())


@pytest.mark.parametrize("frame", list(FRAMES))
@pytest.mark.parametrize("number", [2, 60])
def test_every_question_and_option_is_shown_however_many(frame, number):
    pairs = [
        Pair(f"Question <{at}>", f"Reply <{at}>", tuple(f"Option <{at}.{o}>" for o in range(30)))
        for at in range(number)
    ]
    text = texts([row("A text.", pairs, ("c", 0))], frame_weights={frame: 1})[0]
    for at, pair in enumerate(pairs):
        assert pair.instruction in text
        assert f"Reply <{at}>" in text
        assert all(option in text for option in pair.options)


def test_a_rationale_and_options_are_shown_in_every_frame_and_seed():
    pairs = [FREE, CHOICE, THOUGHT, BOTH]
    for seed in range(400):
        text = texts([row("A text.", pairs, ("c", 0))], seed=seed)[0]
        for pair in pairs:
            assert all(part in text for part in (pair.instruction, pair.response, pair.rationale, *pair.options))


def test_no_punctuation_is_doubled_or_put_behind_a_question():
    pairs = [Pair("What is it?", "A port.", (), "The text says so."), Pair("And where?", "Here.", ("Here.", "There."))]
    for seed in range(400):
        text = texts([row("A text.", pairs, ("c", 0))], seed=seed)[0]
        assert not any(doubled in text for doubled in ("??", "?.", "?:", "?,", "..", "so.,", "port.:"))


def test_the_input_is_never_changed():
    rows = [row("One.", [FREE, CHOICE], ("c", 0)), row("Two.", [], ("c", 1)), row("Three.", [BOTH], ("c", 2))]
    given_ = batch(*rows)
    before = copy.deepcopy(given_)
    first = Templatizer()(given_)
    Templatizer(seed=1)(given_)
    assert given_ == before
    assert Templatizer()(given_) == first


# Choices


def test_same_seed_same_bytes_and_another_seed_another_surface():
    rows = [row(f"Text {at}.", [FREE, CHOICE, BOTH], (f"c{at}", 0)) for at in range(50)]
    random.seed(3)
    first = texts(rows)
    random.seed(4)
    assert texts(rows) == first == [texts([one])[0] for one in rows]  # nor does the batch matter
    assert sum(a == b for a, b in zip(first, texts(rows, seed=1), strict=True)) < 3


def test_one_chain_does_not_touch_another():
    a, b = row("Text a.", [FREE, CHOICE], ("a", 0)), row("Text b.", [FREE, CHOICE], ("b", 0))
    for seed in range(200):
        assert texts([a, b], seed=seed) == [*texts([a], seed=seed), *texts([b], seed=seed)]


def test_frames_follow_their_weights_and_the_number_of_pairs():
    two = [row("A text.", [FREE, FREE], (f"c{at}", 0)) for at in range(2000)]
    frames = Templatizer()(batch(*two))["template"]
    weights = load_library().frame_weights
    for frame in FRAMES:
        assert frames.count(frame) / 2000 == pytest.approx(weights[frame] / sum(weights.values()), abs=0.04)
    one = [row("A text.", [FREE], (f"c{at}", 0)) for at in range(300)]
    assert set(Templatizer()(batch(*one))["template"]) == {"classic", "dialogue", "pairs_first"}
    assert set(Templatizer(frame_weights={"numbered": 1})(batch(*one))["template"]) == {"classic"}
    assert set(Templatizer(frame_weights={"numbered": 1})(batch(*two))["template"]) == {"numbered"}


def test_shots_of_a_chain_are_shown_alike_in_some_chains_and_not_in_others():
    rows = [row(f"Text {at}.", [FREE, FREE], (f"c{at // 2}", at % 2)) for at in range(400)]
    names = Templatizer()(batch(*rows))["template"]
    assert {"classic", "numbered"} <= set(names)
    assert any("+" in name for name in names)


def test_shots_shown_alike_have_one_frame_though_not_all_have_pairs_enough_for_it(tmp_path):
    alike = tmp_path / "alike.toml"
    alike.write_text("[frames]\nalike = 1")
    rows = [row(f"Text {at}.", [FREE, FREE][at % 2 :], (f"c{at // 2}", at % 2)) for at in range(400)]
    names = Templatizer(templates=alike)(batch(*rows))["template"]
    assert set(names) == {"classic", "dialogue", "pairs_first"}


def test_pairs_that_begin_with_their_own_words_are_kept_apart_by_a_blank_line(tmp_path):
    tight = tmp_path / "tight.toml"
    tight.write_text(
        'replace = true\n[separators]\npairs = ["\\n"]\n[pairs]\nfree_form = ["{instruction}\\n{response}"]'
        '\nmultiple_choice = ["Q: {instruction}\\n{options}\\nA: {response}"]'
    )
    templatizer = Templatizer(templates=tight, frame_weights={"classic": 1})
    assert "Lisbon\n\nWhich port?" in templatizer(batch(row("A text.", [FREE, FREE], ("c", 0))))["text"][0]
    assert "\nQ: Which sea?" in templatizer(batch(row("A text.", [CHOICE, CHOICE], ("c", 0))))["text"][0]
    assert "Baltic\n\nQ:" not in templatizer(batch(row("A text.", [CHOICE, CHOICE], ("c", 0))))["text"][0]


def test_a_users_templates_are_used(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('replace = true\n[pairs]\nfree_form = ["ASKED {instruction}\\nTOLD {response}"]')
    templatizer = Templatizer(templates=mine, frame_weights={"classic": 1})
    assert "ASKED Which port?\nTOLD Lisbon" in templatizer(batch(row("A text.", [FREE], ("c", 0))))["text"][0]
