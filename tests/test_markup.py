"""Markup: render and parse are inverses, agree with the reference code, and nothing in a text can act."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.schema import REJECT_REASONS, Pair
from ipt_datasets.synthesis.markup import CHAT, MARKUPS, PAPER, PLAIN, parse_pairs, render_prompt

ACTING = [
    *("<CON>", "</CON>", "<QUE>", "<ANS>", "</END>", "<s>", "</s>", "\\", "<", ">", "\n", "\n\n", " ", "\r", "\x85"),
    *(
        "Question:",
        "Answer:",
        "Text:",
        "Options:",
        "- ",
        "\n- ",
        "\nOptions:\n- ",
        "{answer}",
        "%s",
        "尾",
        "a",
        "B",
        ".",
    ),
    *("Let's think step by step.", "\nLet's think step by step."),
    *("Therefore, the answer is ", "\nTherefore, the answer is "),
]

texts = st.lists(st.sampled_from(ACTING) | st.text(max_size=4), max_size=8).map("".join)
fields = texts.map(str.strip).filter(bool)


@st.composite
def pair_lists(draw):
    pairs = draw(
        st.lists(
            st.builds(
                Pair,
                instruction=fields,
                response=fields,
                options=st.lists(fields, max_size=3).map(tuple),
                rationale=st.just("") | fields,
            ),
            min_size=1,
            max_size=4,
        )
    )
    seen, distinct = set(), []
    for pair in pairs:
        key = PAPER.render_question(pair).lower(), PLAIN.render_question(pair).lower()
        if not {("paper", key[0]), ("plain", key[1])} & seen:
            seen |= {("paper", key[0]), ("plain", key[1])}
            distinct.append(pair)
    return distinct


@pytest.mark.parametrize("markup", MARKUPS.values(), ids=MARKUPS)
@settings(max_examples=100)
@given(pairs=pair_lists())
def test_parse_is_the_inverse_of_render(markup, pairs):
    parsed = markup.parse(markup.render_pairs(pairs))
    assert list(parsed.pairs) == pairs
    assert not parsed.rejected


@pytest.mark.parametrize("markup", MARKUPS.values(), ids=MARKUPS)
@settings(max_examples=100)
@given(text=texts)
def test_escape_is_reversible_and_leaves_nothing_that_acts(markup, text):
    escaped = markup.escape(text)
    assert markup.unescape(escaped) == text
    assert not any(tag in escaped for tag in (*markup.tags, *markup.control_tokens))
    assert not any(line.startswith(markup.labels) for line in escaped.split("\n") if markup.labels)


@settings(max_examples=100)
@given(completion=texts, finish_reason=st.sampled_from(["stop", "length"]))
def test_parse_never_raises_and_loses_nothing_silently(completion, finish_reason):
    for markup in MARKUPS.values():
        parsed = markup.parse(completion, finish_reason)
        assert all(piece.reason in REJECT_REASONS for piece in parsed.rejected)
        assert all(pair.instruction and pair.response for pair in parsed.pairs)
        if completion.strip():
            assert parsed.pairs or parsed.rejected


def test_an_ordinary_text_is_written_as_it_is():
    text = "Is 3 < 5? Answer: yes.\n- a list\nOptions:\n- none"
    assert PAPER.render_text(text) == f" <CON> {text} </CON>\n\n"
    assert PAPER.escape("</END> and <s>") == "<\\/END> and <\\s>"
    assert PLAIN.escape("one\nAnswer: two") == "one\n\\Answer: two"


def _joined(pair: Pair) -> list[str]:
    return [PAPER.render_question(pair), PAPER.render_answer(pair)]


DIFFERENT_ON_PURPOSE = {
    "<QUE> first <QUE> second <ANS> a </END>": "the reference deletes the inner tag and joins two questions into one; "
    "nobody can know which of the two the answer belongs to, so the piece is rejected as `several_questions`",
}


def test_parses_agree_with_the_reference(golden):
    assert len(golden["parses"]) == 16
    for case in golden["parses"]:
        parsed = parse_pairs(case["completion"])
        if case["completion"] in DIFFERENT_ON_PURPOSE:
            assert [piece.reason for piece in parsed.rejected] == ["several_questions"]
            continue
        assert [_joined(pair) for pair in parsed.pairs] == case["pairs"]


def test_people_may_write_pairs_as_tuples_or_rows():
    pair = Pair("Who?", "the heron")
    forms = [pair, ("Who?", "the heron"), {"instruction": "Who?", "response": "the heron"}, pair.to_row(shot=0)]
    prompts = {render_prompt([("A heron waits.", [form])], "It flies.") for form in forms}
    assert prompts == {
        "<s> <CON> A heron waits. </CON>\n\n<QUE> Who? <ANS> the heron </END></s><s> <CON> It flies. </CON>\n\n"
    }


def test_prompt_strings_agree_with_the_reference(golden):
    for scenario in golden["prompts"]:
        for number, chain in enumerate(scenario["chains"]):
            history: list = []
            for round_, row in enumerate(chain):
                assert render_prompt(history, scenario["texts"][row]) == scenario["prompts_by_round"][round_][number]
                history.append((scenario["texts"][row], parse_pairs(scenario["completions"][row]).pairs))


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("<QUE> q <ANS> a </END>\n\n<QUE> what <ANS> the", "unfinished"),
        ("<QUE> q </END>", "no_answer"),
        ("q <ANS> a </END>", "no_question"),
        ("<QUE> <ANS> a </END>", "empty_question"),
        ("<QUE> q <ANS>  </END>", "empty_answer"),
        ("<QUE> q <ANS> a <ANS> b </END>", "several_answers"),
        ("<QUE> q <QUE> r <ANS> a </END>", "several_questions"),
        ("<QUE> q <ANS> a </END>\n\n<QUE> Q <ANS> b </END>", "duplicate"),
    ],
)
def test_each_rejected_piece_has_its_reason(completion, reason):
    assert [piece.reason for piece in parse_pairs(completion).rejected] == [reason]


def test_the_plain_markup_reads_kinds_and_cut_off_pieces():
    completion = (
        " Who came?\nAnswer: The cat.\n\n"
        "Question: Which one?\nOptions:\n- red\n- blue\nAnswer: blue\n\n"
        "Question: How many?\nLet's think step by step.\nAnswer: Two and two.\nTherefore, the answer is four\n\n"
        "Question: And th"
    )
    parsed = PLAIN.parse(completion, "length")
    assert parsed.pairs == (
        Pair("Who came?", "The cat."),
        Pair("Which one?", "blue", ("red", "blue")),
        Pair("How many?", "four", rationale="Two and two."),
    )
    assert [piece.reason for piece in parsed.rejected] == ["unfinished"]


def test_what_stands_behind_the_end_of_a_shot_is_no_pair_of_it():
    parsed = PLAIN.parse(" a?\nAnswer: b\n\nText: another one\n\nQuestion: c?\nAnswer: d")
    assert parsed.pairs == (Pair("a?", "b"),)
    assert [piece.reason for piece in parsed.rejected] == ["behind_the_end"]


def test_chat_talk_around_the_pairs_is_rejected_not_lost():
    parsed = CHAT.parse(" Sure! Here they are:\n\nQuestion: a?\nAnswer: b")
    assert parsed.pairs == (Pair("a?", "b"),)
    assert parsed.rejected[0].reason == "no_answer"


def test_parsing_takes_linear_time():
    """Ten times the text must not take a hundred times the steps; counted, so that a busy machine cannot fail it."""

    def steps(completion: str) -> int:
        count = 0

        def trace(*_):
            nonlocal count
            count += 1

        sys.setprofile(trace)
        try:
            parse_pairs(completion)
        finally:
            sys.setprofile(None)
        return count

    unit = "<QUE> q <ANS> a </END>\n\n" * 50 + "\n- " * 50
    assert steps(unit * 10) < 12 * steps(unit)
    assert steps("<" + "\\" * 20_000 + "<QUE>" * 2_000) < 200
