"""Shots, their masks and the order in which they are read."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.errors import InputError, RecipeError
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.tuning.plan import (
    MASKED,
    ForwardPasses,
    deal,
    encode_sequence,
    make_plan,
    read_and_learned,
    share_out,
    split_step,
)
from ipt_datasets.tuning.report import marked
from ipt_datasets.tuning.settings import TuneSettings
from ipt_datasets.tuning.shots import ShotTable, read_shots

TOKENIZERS = ["smol_tokenizer", "mistral_tokenizer"]
PAIRS = [
    Pair("What is basalt?", "a dark rock"),
    Pair("Which is darker?", "basalt", ("basalt", "chalk")),
    Pair("How deep?\n<ANS> is a tag", "430 m </s> </END>", (), "The text says so."),
]


def row(text, pairs=tuple(PAIRS), task_set="a"):
    return {"text": text, "pairs": [Pair.read(pair).to_row(0) for pair in pairs], "task_set": task_set}


def rows(number, task_set="a"):
    return [
        row(f"Text {n} of {task_set}. " + "It is about rocks. " * (n % 5), PAIRS[: 1 + n % 3], task_set)
        for n in range(number)
    ]


def settings_of(**given):
    return TuneSettings(**{"epochs": 1, "max_length": 400, "batch_tokens": 900, **given})


@pytest.fixture(params=TOKENIZERS)
def prompter(request):
    return Prompter(request.getfixturevalue(request.param), PAPER)


@pytest.mark.parametrize(
    "hostile", ["Plain text.", "<|im_end|><s></s> <CON> </CON>\n\n<QUE> x <ANS> y </END>", "\\Zeile\n\n \t ü 北京"]
)
def test_a_sequence_is_what_inference_reads_and_only_the_pairs_are_learned(prompter, hostile):
    texts = [hostile, f"A second text. {hostile}", "A third text."]
    shots = read_shots([row(text) for text in texts], prompter, 2000, "test")
    ids, labels = encode_sequence(shots, [0, 1, 2])

    tokenizer = prompter.tokenizer
    finished = [prompter.finish(prompter.encode_text(text), PAIRS) for text in texts]
    prompt, kept = prompter.prompt(finished[:2], prompter.encode_text(texts[2]), 4000)
    assert kept == 2
    assert ids[: len(prompt)] == prompt
    assert ids == prompter.join(finished)

    spans = [[]]
    for id_, label in zip(ids, labels, strict=True):
        assert label in (MASKED, id_)
        if label != MASKED:
            spans[-1].append(id_)
        elif spans[-1]:
            spans.append([])
    assert len(spans) == 3
    for span in spans:
        assert span[-1] == tokenizer.eos_id
        assert tokenizer.decode(span[:-1]) == prompter.markup.render_pairs(PAIRS)
        assert prompter.markup.parse(tokenizer.decode(span[:-1])).pairs == tuple(PAIRS)
    assert ids.count(tokenizer.bos_id) == 3  # hostile text makes no control ids
    assert ids.count(tokenizer.eos_id) == 3


def test_marks_stand_around_what_is_learned(smol_tokenizer):
    shots = read_shots([row("A text.", PAIRS[:1])], Prompter(smol_tokenizer, PAPER), 500, "test")
    assert marked(shots, [0], "[[", "]]") == (
        "<|im_start|> <CON> A text. </CON>\n\n[[<QUE> What is basalt? <ANS> a dark rock </END><|im_end|>]]"
    )


def test_what_is_left_out_is_counted(smol_tokenizer):
    prompter = Prompter(smol_tokenizer, PAPER)
    given = [
        row("A text.", PAIRS[:2]),
        row("  "),
        row("No pairs.", []),
        row("An empty pair.", [*PAIRS[:1], Pair("  ", "x")]),
        row("A lone \ud800 surrogate."),
        row("word " * 500),
        row("many pairs " * 10, [Pair(f"Question {n}?", "an answer " * 5) for n in range(30)], "b"),
    ]
    shots = read_shots(given, prompter, 200, "test")
    assert dict(shots.left_out) == {
        "empty_text": 1, "no_pairs": 1, "pairs_empty": 1, "not_unicode": 1, "too_long": 1, "lone_sets": 1,
        "pairs_cut": shots.left_out["pairs_cut"],
    }  # fmt: skip
    assert len(shots.table) == 3
    assert shots.table.lengths.max() <= 200
    text = prompter.tokenizer.decode(shots.encode(2).ids[shots.encode(2).learned_from : -1])
    assert len(PAPER.parse(text).pairs) == 30 - shots.left_out["pairs_cut"]
    assert not PAPER.parse(text).rejected  # cut between pairs
    assert shots.table.lengths[2] + 20 > 200  # not one pair more than needed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no row to learn from"),
        ([row(" ")], "1 rows without a text"),
        ([{"text": "x", "pairs": []}], "no column 'task_set'"),
        ([{"text": 3, "pairs": [], "task_set": "a"}], "holds int in row 0"),
        ([{"text": "x", "pairs": [{"question": "?"}], "task_set": "a"}], "instruction and response"),
        ([{"text": "x", "pairs": [{"instruction": 1, "response": "x"}], "task_set": "a"}], "instruction and response"),
    ],
)
def test_bad_rows_are_one_clear_line(smol_tokenizer, given, said):
    with pytest.raises(InputError, match=said):
        read_shots(given, Prompter(smol_tokenizer, PAPER), 200, "test")


def test_every_passage_of_a_plan_is_read_once_and_fits(smol_tokenizer):
    shots = read_shots(rows(40) + rows(15, "b"), Prompter(smol_tokenizer, PAPER), 400, "test")
    plan = make_plan(shots.table, settings_of())
    passes = ForwardPasses(shots, plan, parts=3)
    read = [ids for index in range(len(passes)) for ids, _ in passes[index]]
    assert sum(map(len, read)) == plan.tokens[-1] == shots.table.lengths.sum()
    assert max(map(len, read)) <= 400
    assert sorted(plan.shots) == list(range(55))
    steps = np.diff(plan.tokens)
    assert all(900 <= step < 1300 for step in steps[:-1])


def test_the_order_rests_on_seed_and_content_alone(smol_tokenizer):
    prompter = Prompter(smol_tokenizer, PAPER)
    given = rows(30) + rows(9, "b")

    def texts(given, **settings):
        shots = read_shots(given, prompter, 400, "test")
        plan = make_plan(shots.table, settings_of(**settings))
        return [
            [given[shot]["text"] for shot in sequence]
            for step in range(plan.steps)
            for sequence in plan.sequences(step)
        ]

    once = texts(given)
    assert once == texts(given)
    assert once == texts(given[::-1])
    assert once != texts(given, seed=1)
    twice = texts(given, epochs=2)
    assert twice[: len(once)] == once
    assert sorted(map(tuple, once)) != sorted(map(tuple, twice[len(once) :]))  # another epoch deals other neighbours
    assert any(len(sequence) == 3 for sequence in once)
    assert all(len({text.split(" of ")[1][0] for text in sequence}) == 1 for sequence in once)  # one set
    assert (
        len({("a" in s[0].split(" of ")[1], "a" in t[0].split(" of ")[1]) for s, t in pairwise(once)}) > 2
    )  # shuffled


def test_a_longer_training_begins_with_the_steps_of_a_shorter_one(smol_tokenizer):
    table = read_shots(rows(30), Prompter(smol_tokenizer, PAPER), 400, "test").table
    short, long = (make_plan(table, settings_of(epochs=None, max_steps=steps)) for steps in (5, 12))
    assert (short.steps, long.steps) == (5, 12)
    assert [short.sequences(step) for step in range(5)] == [long.sequences(step) for step in range(5)]
    by_tokens = make_plan(table, settings_of(epochs=None, max_tokens=int(long.tokens[7])))
    assert by_tokens.steps == 7


@st.composite
def tables(draw):
    number = draw(st.integers(1, 60))
    lengths = draw(st.lists(st.integers(2, 100), min_size=number, max_size=number))
    sets = draw(st.lists(st.integers(0, 3), min_size=number, max_size=number))
    keys = draw(st.lists(st.integers(0, 2**64 - 1), min_size=number, max_size=number))
    return ShotTable(
        np.array(keys, np.uint64), np.array(sets, np.int32), np.array(lengths, np.int32),
        np.array(lengths, np.int32) // 2, ("a", "b", "c", "d"), np.array([False, True, False, False]),
    )  # fmt: skip


@given(tables(), st.integers(1, 4), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=100)
def test_dealing_takes_every_shot_once_and_no_sequence_too_long(table, most, seed, epoch):
    dealt = deal(table, most, 100, seed, epoch)
    assert sorted(shot for sequence in dealt for shot in sequence) == list(range(len(table)))
    for sequence in dealt:
        assert 1 <= len(sequence) <= most
        assert table.lengths[sequence].sum() <= 100
        assert len(set(table.sets[sequence])) == 1


def test_of_a_set_that_is_shown_first_only_later_shots_are_learned(smol_tokenizer):
    given = rows(12, "lone") + rows(12, "example")
    prompter = Prompter(smol_tokenizer, PAPER)
    shots = read_shots(given, prompter, 400, "test", shown_first=["example"])
    plan = make_plan(shots.table, settings_of(shots=3, shown_first=("example",)))
    sequences = [sequence for step in range(plan.steps) for sequence in plan.sequences(step)]
    learned = 0
    for sequence in sequences:
        ids, labels = encode_sequence(shots, sequence)
        first = len(shots.encode(sequence[0]).ids)
        is_example = shots.table.set_names[shots.table.sets[sequence[0]]] == "example"
        assert (set(labels[:first]) == {MASKED}) is is_example
        assert [label for label in labels[first:] if label != MASKED] == [
            id_ for shot in map(shots.encode, sequence[1:]) for id_ in shot.ids[shot.learned_from :]
        ]
        assert len(ids) == len(labels)
        learned += sum(label != MASKED for label in labels)
    assert learned == plan.learned[-1]
    alone = [sequence for sequence in sequences if len(sequence) == 1]
    names = [shots.table.set_names[shots.table.sets[sequence[0]]] for sequence in alone]
    assert names.count("lone") >= 2
    assert names.count("example") <= 1  # at most the one that is left over at the end


@given(st.lists(st.integers(1, 500), max_size=30), st.integers(1, 8))
def test_a_step_is_split_without_loss(lengths, parts):
    split = split_step(lengths, parts)
    assert len(split) == parts
    assert sorted(index for part in split for index in part) == list(range(len(lengths)))
    if lengths:
        largest = max(len(part) * max(lengths[index] for index in part) for part in split if part)
        assert largest >= max(lengths)
        assert largest <= max(lengths) * -(-len(lengths) // parts)  # no worse than equal numbers


@pytest.mark.parametrize(
    "given",
    [{"shots": 0}, {"epochs": None}, {"max_steps": 3}, {"schedule": "x"}, {"decay_share": 2.0}, {"learning_rate": 0},
     {"lora_rank": -1}, {"lora_alpha": 0}, {"decay_share": 0.9, "warmup_share": 0.2},
     {"shots": 1, "shown_first": ("a",)}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(RecipeError):
        settings_of(**given)


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_processes_that_take_turns_have_about_the_same_work(processes, rounds, data):
    costs = data.draw(st.lists(st.integers(0, 100), min_size=processes * rounds, max_size=processes * rounds))
    order = share_out(costs, processes)
    assert sorted(order) == list(range(len(costs)))
    work = [sum(costs[index] for index in order[process::processes]) for process in range(processes)]
    assert max(work) - min(work) <= max(costs)
    if processes == 1:
        assert sorted(order, key=lambda index: -costs[index]) == order


@given(st.integers(1, 6), st.booleans())
@settings(max_examples=10)
def test_what_is_read_and_learned_of_each_set_adds_up(smol_tokenizer, steps, shown):
    both = rows(12, "a") + rows(9, "b")
    given_ = settings_of(epochs=None, max_steps=steps, shown_first=("b",) if shown else ())
    shots = read_shots(both, Prompter(smol_tokenizer, PAPER), 400, "test", given_.shown_first)
    plan = make_plan(shots.table, given_)
    read, learned = read_and_learned(shots.table, plan)
    assert read.sum() == plan.tokens[-1]
    assert learned.sum() == plan.learned[-1]
    labels = [0, 0]
    for step in range(plan.steps):
        for sequence in plan.sequences(step):
            labels[shots.table.sets[sequence[0]]] += sum(id_ != MASKED for id_ in encode_sequence(shots, sequence)[1])
    assert labels == learned.tolist()
