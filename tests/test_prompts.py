"""Prompts as token ids: equal to what the reference strings mean, the engine's ids reused, text never a control id."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ipt_datasets.errors import RecipeError
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.engines.scripted import ScriptedTokenizer
from ipt_datasets.synthesis.markup import CHAT, MARKUPS, PAPER, PLAIN, parse_pairs
from ipt_datasets.synthesis.prompts import Prompter

TOKENIZERS = ["mistral_tokenizer", "legacy_mistral_tokenizer", "smol_tokenizer", "scripted"]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return ScriptedTokenizer() if request.param == "scripted" else request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", TOKENIZERS[:2])
def test_prompt_ids_are_what_the_reference_strings_mean(golden, name, request):
    tokenizer = request.getfixturevalue(name)
    prompter = Prompter(tokenizer, PAPER)
    for scenario in golden["prompts"]:
        for number, chain in enumerate(scenario["chains"]):
            history = []
            for round_, row in enumerate(chain):
                text_ids = prompter.encode_text(scenario["texts"][row])
                prompt, kept = prompter.prompt(history, text_ids, budget=3696)
                meant = scenario["prompts_by_round"][round_][number]
                assert prompt == tokenizer.tokenizer.encode(meant, add_special_tokens=False)
                assert kept == round_
                completion = scenario["completions"][row]
                generated = [*tokenizer.encode_continuation(completion), tokenizer.eos_id]
                parsed = parse_pairs(completion)
                if parsed.rejected:
                    history.append(prompter.finish(text_ids, parsed.pairs, generated))
                else:
                    history.append(prompter.finish_exactly(text_ids, generated))


def test_one_bos_a_shot_and_an_eos_behind_each_finished_one(tokenizer):
    prompter = Prompter(tokenizer, PAPER)
    shots = [prompter.finish(prompter.encode_text(f"Text {n}."), [Pair("q?", "a")]) for n in range(3)]
    prompt, kept = prompter.prompt(shots, prompter.encode_text("The last."), budget=4096)
    assert kept == 3
    assert prompt.count(tokenizer.bos_id) == 4
    assert prompt.count(tokenizer.eos_id) == 3
    assert prompt[0] == tokenizer.bos_id
    decoded = tokenizer.decode(prompt)
    assert decoded.count("<QUE> q? <ANS> a </END>") == 3


def test_accepted_ids_are_a_prefix_of_the_next_prompt(tokenizer):
    prompter = Prompter(tokenizer, PAPER)
    text_ids = prompter.encode_text("The heron waits.")
    first, _ = prompter.prompt([], text_ids, 4096)
    # An uncommon but accepted spelling: the ids must stay what the engine has seen, not what we would write.
    generated = [*tokenizer.encode_continuation("  <QUE>who?<ANS>the heron</END>\n"), tokenizer.eos_id]
    assert parse_pairs(prompter.completion_text(generated)).pairs == (Pair("who?", "the heron"),)
    history = [prompter.finish_exactly(text_ids, generated)]
    second, _ = prompter.prompt(history, prompter.encode_text("It flies."), 4096)
    assert second[: len(first) + len(generated)] == first + generated


def test_ids_are_reused_as_far_as_they_decode_to_the_kept_pairs(tokenizer):
    prompter = Prompter(tokenizer, PAPER)
    text_ids = prompter.encode_text("The heron waits.")
    kept = "<QUE> who waits, où, 尾? <ANS> the heron </END>"
    for tail in ("\n\n<QUE> unfinished", "\n\n<QUE> who waits, où, 尾? <ANS> again </END>", " trailing"):
        generated = tokenizer.encode_continuation(kept + tail)
        pairs = parse_pairs(prompter.completion_text(generated)).pairs
        shot = prompter.finish(text_ids, pairs, generated)
        assert tokenizer.decode(shot.ids[len(text_ids) : -1]) == kept
        assert shot.ids[-1] == tokenizer.eos_id
        same = sum(1 for ours, theirs in zip(shot.ids[len(text_ids) :], generated, strict=False) if ours == theirs)
        assert same >= len(tokenizer.encode_continuation(kept)) - 2  # at most the last ids are encoded anew


# SmolLM2's vocabulary lacks some bytes and drops them, so rare characters cannot be compared.
SOME_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"], max_codepoint=0x17F), max_size=5)
CONTROL_TEXTS = st.lists(
    st.sampled_from(
        ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "</CON>", "<CON>", "<QUE>", "</END>", "<unk>"]
    )
    | SOME_TEXT,
    max_size=6,
).map("".join)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=CONTROL_TEXTS)
@example(text="Text:")
def test_no_text_becomes_a_control_id_or_markup(tokenizer, text):
    for markup in (PAPER, PLAIN):
        prompter = Prompter(tokenizer, markup)
        ids = prompter.encode_text(text)
        assert not set(ids) & prompter.control_ids
        decoded = tokenizer.decode(ids)
        if markup is PAPER:
            assert decoded.count("<CON>") == decoded.count("</CON>") == 1
            assert not any(tag in decoded for tag in ("<QUE>", "<ANS>", "</END>"))
        closing = markup.text_close + markup.prefill
        inside = decoded.split(markup.text_open.strip(), 1)[1].rsplit(closing.strip(), 1)[0]
        # The space behind the opening is the markup's: with it, no label would begin the line.
        assert prompter.markup.unescape(inside.removeprefix(" ")).strip() == text.strip()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), budget=st.integers(70, 400))
def test_prompts_fit_the_budget_and_the_oldest_shots_leave_first(tokenizer, lengths, budget):
    prompter = Prompter(tokenizer, PAPER)
    history = [
        prompter.finish(prompter.encode_text("word " * length), [Pair(f"q{n}", "a")])
        for n, length in enumerate(lengths)
    ]
    text_ids = prompter.encode_text("x")
    for limit in (budget, prompter.overhead + len(text_ids)):
        prompt, kept = prompter.prompt(history, text_ids, limit)
        assert len(prompt) <= limit
        assert prompt[: len(prompt) - len(text_ids) - 1] == prompter.join(history[len(history) - kept :])
        if kept < len(history):
            one_more, _ = prompter.prompt(history[len(history) - kept - 1 :], text_ids, 10**6)
            assert len(one_more) > limit


def test_a_primer_stands_before_every_prompt_and_never_leaves(tokenizer):
    primer = [("A cat sat.", (Pair("Who sat?", "a cat"),))]
    prompter = Prompter(tokenizer, PLAIN, primer)
    shots = [prompter.finish(prompter.encode_text(f"Text {n}."), [Pair("q?", "a")]) for n in range(3)]
    text_ids = prompter.encode_text("The end.")
    bare, kept = prompter.prompt(shots, text_ids, prompter.overhead + len(text_ids))
    assert kept == 0
    assert bare[: len(prompter.primer)] == prompter.primer
    assert "Who sat?" in tokenizer.decode(prompter.primer)
    full, kept = prompter.prompt(shots, text_ids, 4096)
    assert kept == 3
    assert full[: len(prompter.primer)] == prompter.primer


def test_a_text_that_does_not_fit_is_refused_before_the_engine(tokenizer):
    prompter = Prompter(tokenizer, PAPER)
    with pytest.raises(RecipeError, match="split it first"):
        prompter.prompt([], prompter.encode_text("word " * 50), 20)


def test_chat_prompts_are_the_chat_template_s(smol_tokenizer):
    prompter = Prompter(smol_tokenizer, CHAT, [("A cat sat.", (Pair("Who sat?", "a cat"),))])
    prompt, _ = prompter.prompt([], prompter.encode_text("It rains."), 4096)
    turns = [
        {"role": "user", "content": CHAT.text_open + "A cat sat."},
        {"role": "assistant", "content": "Question: Who sat?\nAnswer: a cat"},
        {"role": "user", "content": CHAT.text_open + "It rains."},
    ]
    meant = smol_tokenizer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert smol_tokenizer.decode(prompt) == meant + CHAT.prefill
    generated = [*smol_tokenizer.encode_continuation(" What falls?\nAnswer: rain"), smol_tokenizer.eos_id]
    text_ids = prompter.encode_text("It rains.")
    longer, _ = prompter.prompt([prompter.finish_exactly(text_ids, generated)], prompter.encode_text("Dry."), 4096)
    assert longer[: len(prompt) + len(generated)] == prompt + generated


def test_chat_needs_a_chat_template(mistral_tokenizer):
    with pytest.raises(RecipeError, match="chat template"):
        Prompter(mistral_tokenizer, CHAT)


def test_every_markup_has_a_name_in_the_recipe():
    from ipt_datasets.recipe import MARKUP_NAMES

    assert tuple(MARKUPS) == MARKUP_NAMES


@settings(max_examples=200)
@given(st.text("ab é🙂\n.<>", max_size=60), st.integers(0, 60), st.text("ab é🙂", max_size=6), st.integers(0, 40))
def test_as_many_generated_ids_are_reused_as_decode_to_the_accepted_pairs(text, shared, other, generated):
    tokenizer = ScriptedTokenizer()
    ids, written = tokenizer.encode(text)[:generated], text[:shared] + other
    reused, length = Prompter(tokenizer, PAPER)._common(ids, written)
    fitting = [n for n in range(len(ids) + 1) if written.startswith(tokenizer.decode(ids[:n]))]
    assert reused == ids[: max(fitting)]
    assert length == len(tokenizer.decode(reused))
