"""The transformers engine with the embedded model and with tiny ones of other architectures, all on the CPU."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GenerationConfig

from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import Request
from ipt_datasets.synthesis.engines.kv_slots import ATTENTION, KVSlots, Prefixes, common_prefix
from ipt_datasets.synthesis.engines.sampling import draw, is_plain
from ipt_datasets.synthesis.engines.transformers import TransformersEngine

TEXTS = [
    "Saffron is a spice made from a crocus.",
    "The Dead Sea is a salt lake between Jordan and Israel. Its surface lies about 430 metres below sea level.",
    "Basalt is a dark rock.",
    "Count: 1, 2, 3, 4,",
    "A lighthouse warns ships of rocks and shallow water, mostly with a lamp that turns. The keeper lived inside.",
]


FEW_LAYERS = {"dtype": "float32", "num_hidden_layers": 4}
"""For what does not depend on what the model says: a seventh of its layers, in a precision without near ties."""


@pytest.fixture(scope="module")
def whole(smol_base):
    engine = TransformersEngine(smol_base, dtype="float32", batch_size=3)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(smol_base):
    engine = TransformersEngine(smol_base, batch_size=3, max_model_len=512, **FEW_LAYERS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(smol_base):
    return AutoModelForCausalLM.from_pretrained(smol_base, **FEW_LAYERS)


def prompt_of(engine, text):
    return [engine.tokenizer.bos_id, *engine.tokenizer.encode(text)]


def run(engine, requests):
    for number, request in requests.items():
        engine.submit(number, request)
    done = {}
    while len(done) < len(requests):
        finished = engine.step()
        assert finished
        done |= dict(finished)
    assert engine.step() == []
    return done


def generated(model, request, ends):
    """What transformers' own `generate` writes, one prompt at a time."""
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=request.max_tokens,
        repetition_penalty=request.repetition_penalty,
        eos_token_id=ends,
        pad_token_id=0,
    )
    ids = model.generate(torch.tensor([request.prompt]), generation_config=config)
    return ids[0, len(request.prompt) :].tolist()


def test_a_batch_writes_what_generate_writes_for_each_alone(whole, smol_base):
    reference = AutoModelForCausalLM.from_pretrained(smol_base, dtype="float32")
    requests = {n: Request(prompt_of(whole, text), 3 + 2 * n) for n, text in enumerate(TEXTS)}
    requests[5] = Request(prompt_of(whole, TEXTS[3]), 9, repetition_penalty=1.3)
    done = run(whole, requests)
    for number, request in requests.items():
        assert done[number].token_ids == generated(reference, request, [1, 2])
    assert done[3].token_ids != done[5].token_ids


def tiny(name, folder, tokenizer):
    """A model of a few thousand random weights."""
    from transformers import AutoConfig

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
    }
    more = {
        "mistral": {"sliding_window": 16},
        "gemma3_text": {
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_hidden_layers": 4,
        },
        "gpt_neox": {"num_key_value_heads": 4},
        "mamba": {"state_size": 4, "conv_kernel": 2},
    }
    torch.manual_seed(7)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(name, **{**sizes, **more.get(name, {}), **ends})
    model = AutoModelForCausalLM.from_config(config)
    for weights in model.parameters():
        weights.data.mul_(8 if weights.dim() > 1 else 1)  # random models are nearly indifferent otherwise
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "gpt_neox", "qwen3"])
def test_other_architectures_agree_with_generate_too(name, tmp_path, smol_tokenizer):
    with torch.random.fork_rng():
        model = tiny(name, tmp_path, smol_tokenizer.tokenizer).eval()
    engine = TransformersEngine(tmp_path, batch_size=3)
    picks = random.Random(0)
    requests = {n: Request([picks.randrange(3, 40000) for _ in range(5 + 9 * n)], 4 + 9 * n) for n in range(5)}
    done = run(engine, requests)
    for number, request in requests.items():
        assert done[number].token_ids == generated(model, request, [1, 2])


def test_a_model_without_keys_and_values_is_refused(tmp_path, smol_tokenizer):
    with torch.random.fork_rng():
        tiny("mamba", tmp_path, smol_tokenizer.tokenizer)
    with pytest.raises(EngineError, match="use engine='vllm'") as raised:
        TransformersEngine(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_next_shot_takes_over_what_the_last_one_computed(engine, reference):
    first = Request(prompt_of(engine, "Granite is a coarse rock that forms deep below the ground."), 5)
    seen = first.prompt + run(engine, {1: first})[1].token_ids
    second = Request([*seen, 2, 1, *engine.tokenizer.encode(TEXTS[0])], 5)
    other = Request([*seen[:9], *engine.tokenizer.encode(TEXTS[2])], 5)
    done = run(engine, {1: second, 2: other})
    assert done[1].cached_tokens == len(seen) - 1  # the id generated last was never read
    assert done[2].cached_tokens == 9  # of a row that runs
    for number, request in ((1, second), (2, other)):
        assert done[number].token_ids == generated(reference, request, [1, 2])


def test_without_a_cache_only_rows_that_run_are_shared(smol_base):
    engine = TransformersEngine(smol_base, batch_size=2, cache_tokens=0, **FEW_LAYERS)
    prompt = prompt_of(engine, TEXTS[0])
    done = run(engine, {1: Request(prompt, 3), 2: Request(prompt, 3)}) | run(engine, {3: Request(prompt, 3)})
    assert [done[number].cached_tokens for number in (1, 2, 3)] == [0, len(prompt) - 1, 0]


def test_requests_are_added_while_others_run(engine):
    engine.submit(1, Request(prompt_of(engine, TEXTS[3]), 12))
    engine.submit(2, Request(prompt_of(engine, TEXTS[3]), 2))
    assert [number for number, _ in engine.step()] == [2]
    engine.submit(3, Request(prompt_of(engine, TEXTS[3]), 2))
    assert [number for number, _ in engine.step()] == [3]
    assert [number for number, _ in engine.step()] == [1]


def test_the_control_token_that_ends_a_completion_is_part_of_it(whole):
    asked = [1, *whole.tokenizer.encode("user\nSay yes."), 2, *whole.tokenizer.encode("\n")]
    prompt = [*asked, 1, *whole.tokenizer.encode("assistant\n")]
    done = run(whole, {1: Request(prompt, 60), 2: Request(prompt, 3)})
    assert (done[1].finish_reason, done[1].token_ids[-1]) == ("stop", 2)
    assert not {1, 2} & set(done[1].token_ids[:-1])
    assert (done[2].finish_reason, done[2].token_ids) == ("length", done[1].token_ids[:3])


@pytest.mark.parametrize(("over", "tokens"), [(-1, 4), (0, 4), (1, 3)])
def test_max_tokens_is_capped_by_the_length_left(engine, over, tokens):
    prompt = prompt_of(engine, "1, 2, 3, " * 200)[: 512 - 4 + over]
    [completion] = run(engine, {1: Request(prompt, 4)}).values()
    assert (len(completion.token_ids), completion.finish_reason) == (tokens, "length")


def test_what_cannot_run_is_an_error_of_its_own(engine):
    good = Request(prompt_of(engine, TEXTS[0]), 2)
    bad = [Request([], 4), Request([5] * 512, 4), Request([5], 0), Request([5, 49152], 4), Request([-1], 4)]
    done = run(engine, {0: good, **dict(enumerate(bad, 1))})
    assert done[0].finish_reason == "length"
    for number in range(1, 6):
        assert (done[number].finish_reason, done[number].token_ids) == ("error", [])
        assert "expected" in done[number].error or "vocabulary" in done[number].error


def test_a_seed_means_the_same_whatever_else_is_in_the_batch(engine):
    def sampled(text, seed):
        return Request(prompt_of(engine, text), 5, temperature=1.0, top_p=0.9, seed=seed)

    states = random.getstate(), torch.get_rng_state()
    alone = run(engine, {1: sampled(TEXTS[0], 5)})[1]
    crowd = run(
        engine, {1: sampled(TEXTS[2], 1), 2: sampled(TEXTS[0], 5), 3: sampled(TEXTS[0], 6), 4: sampled(TEXTS[1], 5)}
    )
    assert crowd[2].token_ids == alone.token_ids
    assert crowd[3].token_ids != alone.token_ids
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_a_stop_string_ends_its_own_row_only(whole):
    prompt = prompt_of(whole, TEXTS[3])
    done = run(whole, {1: Request(prompt, 20, stop=("6, 7",)), 2: Request(prompt, 12)})
    text = whole.tokenizer.decode(done[1].token_ids)
    assert text.endswith("6, 7")
    assert (done[1].finish_reason, done[2].finish_reason) == ("stop", "length")


def test_abort_forgets_requests_wherever_they_are(engine):
    requests = {n: Request(prompt_of(engine, text), 2 + 2 * n) for n, text in enumerate(TEXTS)}
    for number, request in requests.items():
        engine.submit(number, request)
    engine.submit(9, Request([], 1))
    assert [number for number, _ in engine.step()] == [9]
    assert [number for number, _ in engine.step()] == [0]
    engine.abort([1, 4, 77])
    left = dict(engine.step()) | dict(engine.step())
    assert set(left) == {2, 3}
    assert engine.step() == []
    again = run(engine, {number: requests[number] for number in (1, 2)})
    assert again[2].token_ids == left[2].token_ids


class Failing:
    """Stands before a model and fails where `fails(rows, columns)` says so."""

    def __init__(self, model, fails, error):
        self.model, self.fails, self.error, self.failed = model, fails, error, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, ids, **options):
        if self.fails(*ids.shape):
            self.failed += 1
            raise self.error
        return self.model(ids, **options)


def test_a_batch_that_does_not_fit_into_memory_is_made_smaller(engine, monkeypatch, caplog):
    requests = {n: Request(prompt_of(engine, text), 4 + n) for n, text in enumerate(TEXTS)}
    expected = run(engine, requests)
    failing = Failing(engine._model, lambda rows, _: rows > 1, torch.OutOfMemoryError("no room"))
    monkeypatch.setattr(engine, "_model", failing)
    monkeypatch.setattr(engine._slots, "rows", 3)
    done = run(engine, requests)
    assert failing.failed
    assert "1 are decoded together" in caplog.text
    assert {n: each.token_ids for n, each in done.items()} == {n: each.token_ids for n, each in expected.items()}


def test_a_request_that_does_not_fit_into_memory_fails_alone(engine, monkeypatch):
    failing = Failing(engine._model, lambda _, columns: columns > 15, torch.OutOfMemoryError("no room"))
    monkeypatch.setattr(engine, "_model", failing)
    monkeypatch.setattr(engine._slots, "rows", 3)
    engine._prefixes.clear()
    done = run(engine, {n: Request(prompt_of(engine, text), 4) for n, text in enumerate(TEXTS[:3])})
    assert [done[n].finish_reason for n in range(3)] == ["length", "error", "length"]
    assert done[1].error == "out of memory: no room"


def test_a_device_that_fails_ends_the_engine(smol_base):
    engine = TransformersEngine(smol_base, batch_size=2, **FEW_LAYERS)
    engine._model = Failing(engine._model, lambda rows, _: rows > 1, RuntimeError("device-side\nassert"))
    for number in range(3):
        engine.submit(number, Request(prompt_of(engine, TEXTS[number]), 4))
    for _ in range(2):
        with pytest.raises(EngineError, match=r"died \(RuntimeError: device-side assert\)"):
            engine.step()
    engine.abort([0, 1, 2])
    engine.close()


def test_nothing_runs_after_close(smol_base):
    engine = TransformersEngine(smol_base, **FEW_LAYERS)
    engine.submit(1, Request([5], 4))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.step()


def test_options_reach_from_pretrained(smol_base):
    engine = TransformersEngine(smol_base, attn_implementation="eager", batch_size=5, **FEW_LAYERS)
    assert engine._model.dtype == torch.float32
    assert engine._model.config._attn_implementation == "eager"
    assert (engine.max_requests, engine.max_model_len, engine.kv_tokens) == (5, 4096, None)
    assert TransformersEngine(smol_base)._model.config._attn_implementation == ATTENTION


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "./nowhere"}, "cannot load './nowhere'"),
        ({"colour": "red"}, "colour"),
        ({"device_map": "nonsense"}, "device_map='nonsense'"),
        ({"max_model_len": 8193}, "up to 8192 tokens"),
        ({"max_model_len": 0}, "max_model_len=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(smol_base, options, said):
    with pytest.raises(EngineError) as raised:
        TransformersEngine(**{"model": smol_base, **options})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


# What an engine is made of.

LOGITS = st.lists(st.integers(-32, 32).map(lambda quarters: quarters / 4), min_size=2, max_size=12)


@given(LOGITS, st.floats(0.05, 1.0), st.floats(0.3, 3.0))
@settings(max_examples=60)
def test_only_ids_of_the_nucleus_are_drawn(logits, top_p, temperature):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(temperature)(None, torch.tensor([logits]).double())
    kept = TopPLogitsWarper(top_p)(None, scores)[0]
    stream, request = random.Random(0), Request([1], 1, temperature=temperature, top_p=top_p)
    for _ in range(20):
        drawn = draw(torch.tensor(logits), request, stream, None, [])
        # Of equally likely ids at the edge of the nucleus either may be in it.
        assert kept[drawn] > -float("inf") or scores[0, drawn] in scores[0][kept > -float("inf")]


def test_ids_are_drawn_as_often_as_they_are_likely():
    chances = [0.5, 0.3, 0.15, 0.05]
    stream, request = random.Random(1), Request([1], 1, temperature=1.0)
    counts = Counter(draw(torch.tensor(chances).log(), request, stream, None, []) for _ in range(4000))
    for index, chance in enumerate(chances):
        assert abs(counts[index] / 4000 - chance) < 0.03


@given(LOGITS, st.floats(0.5, 2.0), st.data())
@settings(max_examples=60)
def test_the_repetition_penalty_is_the_one_of_transformers(logits, penalty, data):
    from transformers import RepetitionPenaltyLogitsProcessor

    ids = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1))
    seen = torch.zeros(len(logits), dtype=torch.bool)
    seen[ids] = True
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), torch.tensor([logits]))[0]
    drawn = draw(torch.tensor(logits), Request([1], 1, repetition_penalty=penalty), random.Random(0), seen, [])
    assert expected[drawn] == expected.max()


@given(LOGITS, st.floats(-2, 2), st.floats(-2, 2), st.data())
@settings(max_examples=60)
def test_penalties_count_what_was_generated(logits, frequency, presence, data):
    generated = data.draw(st.lists(st.integers(0, len(logits) - 1)))
    expected = [
        logit - frequency * generated.count(index) - presence * (index in generated)
        for index, logit in enumerate(logits)
    ]
    request = Request([1], 1, frequency_penalty=frequency, presence_penalty=presence)
    drawn = draw(torch.tensor(logits), request, random.Random(0), None, generated)
    assert expected[drawn] == pytest.approx(max(expected), abs=1e-5)


def test_each_penalty_keeps_a_greedy_row_from_the_shortcut():
    assert is_plain(Request([1], 1))
    for penalty in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
        assert not is_plain(Request([1], 1, **{penalty: 0.5}))


@given(
    st.lists(st.one_of(st.integers(1, 400), st.sampled_from(["step", "leave", "fail", "shrink"])), max_size=30),
    st.randoms(),
)
@settings(max_examples=60)
def test_slots_hold_what_was_put_into_them(actions, rng):
    """Any order of joins, leaves, steps, failed steps and shrinking, against plain lists."""
    slots, held, count = KVSlots(4), [], 0

    def fresh(tokens):
        nonlocal count
        count += 1
        return [[torch.arange(tokens * 2.0).reshape(1, 2, tokens, 1) + 1000 * count + part for part in (0, 0.5)]] * 2

    for action in actions:
        if isinstance(action, int):
            if len(held) < slots.rows:
                row = fresh(action)
                slots.join(row)
                held.append(row)
        elif action == "leave" and held:
            index = rng.randrange(len(held))
            slots.leave(index)
            held[index] = held[-1]
            held.pop()
        elif action == "shrink" and held:
            slots.rows = len(held)
        elif action in ("step", "fail") and held:
            cache, mask, positions = slots.begin_step()
            assert positions == [[row[0][0].shape[2]] for row in held]
            new = [fresh(1) for _ in held]
            for layer in range(2):
                states = [torch.cat([row[layer][part] for row in new]) for part in (0, 1)]
                for got, part in zip(cache.update(*states, layer), (0, 1), strict=True):
                    assert list(got.shape[::2]) == [len(held), len(mask[0])]
                    for index, row in enumerate(held):
                        seen = got[index][:, torch.tensor(mask[index]).bool()]
                        assert torch.equal(seen, torch.cat([row[layer][part], new[index][layer][part]], 2)[0])
                if action == "fail":
                    break  # the second layer never saw the step
            if action == "step":
                slots.end_step()
                held = [
                    [[torch.cat([a, b], 2) for a, b in zip(x, y, strict=True)] for x, y in zip(row, add, strict=True)]
                    for row, add in zip(held, new, strict=True)
                ]
        assert slots.lengths == [row[0][0].shape[2] for row in held]
    for index, row in enumerate(held):
        for got, expected in zip(slots.read(index, slots.lengths[index]), row, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=8), st.lists(st.integers(0, 2), min_size=1)
)
@settings(max_examples=80)
def test_the_longest_kept_prefix_is_found_and_no_more_is_kept_than_asked(rows, ids):
    prefixes = Prefixes(20)
    for row in rows:
        if prefixes.takes(len(row)):
            prefixes.keep(row, [[row]])
    kept = list(prefixes._kept)
    assert sum(map(len, kept)) <= 20
    shared, found = prefixes.find(ids, least=0)
    assert shared == max((common_prefix(ids, row) for row in kept), default=0)
    if shared:
        assert found[0][0][:shared] == ids[:shared]
        assert (tuple(found[0][0]) in prefixes._kept) == (shared < len(found[0][0]))
