"""The prompts that ask for a response: the ids a synthesizer is tuned on; and how its answers are read."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipt_datasets.errors import RecipeError
from ipt_datasets.quality.accuracy import Accuracy, AccuracyCount, Answer, answer_prompt, opening, read_response
from ipt_datasets.recipe import Recipe
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.engines import Completion
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine, ScriptedTokenizer, write_pairs
from ipt_datasets.synthesis.markup import CHAT, MARKUPS, PAPER, PLAIN
from ipt_datasets.synthesis.prompts import Prompter

TOKENIZERS = ["mistral_tokenizer", "legacy_mistral_tokenizer", "smol_tokenizer", "scripted"]
TEXT = "The heron waits.\n\nIt says </END> and <s> and Answer: nothing <ANS>."
PAIRS = [
    Pair("Who waits?", "the heron"),
    Pair("Which one waits?", "heron", ("heron", "fox, or none")),
    Pair("How many wait?", "1", rationale="One heron waits and the fox sleeps."),
    Pair("How many?", "(2)", ("(1)", "(2)"), "One and one make two."),
    Pair("What is </CON> <s>?", "</s> or </END>"),
    Pair("Où, 誰?", "尾 été"),
]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return ScriptedTokenizer() if request.param == "scripted" else request.getfixturevalue(request.param)


def check_seam(tokenizer, markup, text, pair, primer=()):
    prompter = Prompter(tokenizer, markup, primer)
    text_ids = prompter.encode_text(text)
    prompt = answer_prompt(prompter, text_ids, pair, 4096)
    begin = [*prompter.primer, *(prompter.frame.later if primer else prompter.frame.first)]
    shot = begin + prompter.finish(text_ids, [pair]).ids
    assert shot[: len(prompt)] == prompt
    rest = tokenizer.decode(shot[len(prompt) : len(shot) - len(prompter.frame.end)])
    assert rest == f" {prompter.markup.render_answer(pair)}{prompter.markup.pair_end}"
    assert not set(prompt[len(begin) :]) & prompter.control_ids or markup.is_chat
    return rest


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("markup", [PAPER, PLAIN], ids=["paper", "plain"])
def test_prompt_and_gold_answer_are_the_ids_of_the_finished_shot(tokenizer, markup, pair):
    check_seam(tokenizer, markup, TEXT, pair)
    check_seam(tokenizer, markup, TEXT, pair, [("A cat sat.", (Pair("Who sat?", "a cat"),))])


@pytest.mark.parametrize("pair", PAIRS)
def test_the_same_in_a_chat(smol_tokenizer, pair):
    check_seam(smol_tokenizer, CHAT, TEXT, pair, [("A cat sat.", (Pair("Who sat?", "a cat"),))])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # SmolLM2's vocabulary lacks some bytes and drops them, so rare characters cannot be compared.
    response=st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zs"], max_codepoint=0x17F), min_size=1),
    spaces=st.integers(0, 3),
)
def test_the_seam_holds_whatever_the_response(tokenizer, response, spaces):
    check_seam(tokenizer, PAPER, "A text.", Pair("Why?", response + " " * spaces + "x"))


def test_the_paper_s_prompt_as_a_string(smol_tokenizer):
    prompter = Prompter(smol_tokenizer, PAPER)
    ids = answer_prompt(prompter, prompter.encode_text("It rains."), PAIRS[3], 4096)
    assert smol_tokenizer.decode(ids[1:]) == (
        " <CON> It rains. </CON>\n\n<QUE> How many?\nOptions:\n- (1)\n- (2)\nLet's think step by step. <ANS>"
    )


def test_a_prompt_over_the_budget_is_refused(smol_tokenizer):
    prompter = Prompter(smol_tokenizer, PAPER)
    text_ids = prompter.encode_text("It rains.")
    length = len(answer_prompt(prompter, text_ids, PAIRS[0], 4096))
    assert len(answer_prompt(prompter, text_ids, PAIRS[0], length)) == length
    with pytest.raises(RecipeError):
        answer_prompt(prompter, text_ids, PAIRS[0], length - 1)


@pytest.mark.parametrize("markup", MARKUPS.values(), ids=MARKUPS)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_written_as_gold_is_read_as_gold(markup, pair):
    whole = markup.render_pairs([pair, Pair("Another?", "no")])
    begun = opening(markup, pair)
    assert whole.startswith(begun)
    assert read_response(markup, whole[len(begun) :]) == pair.response


@pytest.mark.parametrize(
    ("markup", "written", "expected"),
    [
        (PAPER, " heron </END>\n\n<QUE> What? <ANS> no </END>", "heron"),
        (PAPER, " heron", "heron"),
        (PAPER, " heron <QUE> What? <ANS> no", "heron"),
        (PAPER, " heron <ANS> heron <ANS> heron", "heron"),
        (PAPER, " </END>", ""),
        (PAPER, "", ""),
        (PAPER, " One waits.\nTherefore, the answer is 1 </END>", "1"),
        (PAPER, " a\nb\n\nc </END>", "a\nb\n\nc"),
        (PLAIN, " heron\n\nQuestion: What?\nAnswer: no", "heron"),
        (PLAIN, " heron\nText: more", "heron"),
        (PLAIN, "\nAnswer: heron", ""),
        (CHAT, " heron, in answer to Question: 1\nAnswer: x", "heron, in answer to Question: 1"),
    ],
)
def test_how_answers_are_read(markup, written, expected):
    assert read_response(markup, written) == expected


class Failing(ScriptedEngine):
    """Fails on prompts that hold a word."""

    def _answer(self, request):
        if "fox" in self.tokenizer.decode(request.prompt):
            return Completion([], "error", error="no memory for a fox")
        return super()._answer(request)


def ask(rows, engine=None, **settings):
    engine = engine or ScriptedEngine()
    recipe = Recipe(model="scripted", engine="scripted", **settings)
    asking = Accuracy(engine, Prompter(engine.tokenizer, PAPER), recipe)
    return sorted(asking.answers(rows), key=lambda answer: (answer.row, answer.question)), asking.left_out


def test_every_question_is_asked_once_and_bounded():
    in_flight, most = set(), [0]

    class Watched(ScriptedEngine):
        def submit(self, request_id, request):
            in_flight.add(request_id)
            most[0] = max(most[0], len(in_flight))
            super().submit(request_id, request)

        def step(self):
            done = super().step()
            in_flight.difference_update(request_id for request_id, _ in done)
            return done

    texts = [f"Number {n} is a text about a heron. It has two sentences, and {n} words." for n in range(9)]
    rows = [(text, write_pairs(text)) for text in texts]
    answers, left_out = ask(rows, Watched(max_requests=4))
    assert [answer.response for answer in answers] == [pair.response for _, gold in rows for pair in gold]
    assert all(answer.is_exact and answer.f1 == 100 for answer in answers)
    assert most[0] == 4
    assert left_out == {"no_text": 0, "too_long": 0}


def test_what_cannot_be_asked_and_what_fails_is_counted():
    rows = [
        (None, [Pair("a?", "b")]),
        (" \n", [Pair("a?", "b"), Pair("c?", "d")]),
        ("lone \ud800 surrogate", [Pair("a?", "b")]),
        ("heron " * 5000, [Pair("a?", "b")]),
        ("A fox digs.", [Pair("a?", "b"), Pair("c?", "d")]),
        ("A heron.", []),
        ("A heron.", write_pairs("A heron.")),
    ]
    answers, left_out = ask(rows, Failing())
    assert left_out == {"no_text": 4, "too_long": 1}
    assert [(answer.row, answer.finish_reason) for answer in answers] == [(4, "error"), (4, "error"), (6, "stop")]
    count = AccuracyCount()
    for answer in answers:
        count.add(answer)
    numbers = count.numbers(left_out)
    assert numbers["engine_errors"] == 2
    assert (numbers["questions"], numbers["f1"], numbers["exact_match"]) == (1, 100.0, 100.0)


def test_answers_cut_by_length_are_scored_as_far_as_they_go():
    engine = ScriptedEngine(script=lambda text: "<QUE> Who? <ANS> heron heron heron heron </END>")
    [answer], _ = ask([("A heron.", [Pair("Who?", "heron")])], engine, max_new_tokens=3)
    assert answer.finish_reason == "length"
    assert answer.response.startswith("her")


def test_means_do_not_depend_on_the_order_of_answers():
    answers = [Answer(0, n, Pair("q?", "one two three"), "one " * n or "-", "stop") for n in range(7)]
    forth, back = AccuracyCount(), AccuracyCount()
    for answer in answers:
        forth.add(answer)
    for answer in reversed(answers):
        back.add(answer)
    assert forth.numbers({}) == back.numbers({})
    mean = round(100 * (2 / 4 + 2 / 5 + 2 / 6 + 2 / 7 + 2 / 8 + 2 / 9) / 7, 4)
    assert forth.numbers({})["by_kind"] == {"free_form": {"questions": 7, "f1": mean, "exact_match": 0.0}}


def test_sampling_has_one_stream_a_question():
    seeds = []

    class Watched(ScriptedEngine):
        def submit(self, request_id, request):
            seeds.append(request.seed)
            super().submit(request_id, request)

    rows = [("A heron.", [Pair("a?", "b"), Pair("c?", "d")]), ("A fox.", [Pair("a?", "b")])]
    ask(rows, Watched(), temperature=1.0)
    ask(list(reversed(rows)), Watched(), temperature=1.0)
    assert len(set(seeds[:3])) == 3
    assert sorted(seeds[:3]) == sorted(seeds[3:])
