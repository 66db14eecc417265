"""Chains and their schedule: depth first, bounded by the KV cache, right whatever the order of completions."""

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.dealing import ENCODED_AT_ONCE, Dealer
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.engines.scripted import EOS, ScriptedEngine
from ipt_datasets.synthesis.markup import PAPER
from ipt_datasets.synthesis.prompts import Prompter
from ipt_datasets.synthesis.schedule import Job, Schedule
from ipt_datasets.synthesis.synthesizer import Synthesizer


class OneAtATime(ScriptedEngine):
    """Finishes requests one at a time, in a random order, and notes what happened."""

    def __init__(self, seed=0, kv_tokens=None, **options):
        super().__init__(**options)
        self.kv_tokens = kv_tokens
        self.submitted = []
        self.events = []
        self.most_under_way = 0
        self._random = random.Random(seed)

    def submit(self, request_id, request):
        super().submit(request_id, request)
        self.submitted.append((request_id, self.tokenizer.decode(request.prompt).count("<CON>"), request))
        self.events.append(("ask", request_id))
        self.most_under_way = max(self.most_under_way, len(self._pending))

    def step(self):
        request_id = self._random.choice(list(self._pending))
        self.events.append(("answer", request_id))
        return [(request_id, self._answer(self._pending.pop(request_id)))]


def texts_of(number):
    return [f"Note {n}. The harbour has {n} boats. Nobody counts them twice." for n in range(number)]


@settings(max_examples=60)
@given(
    texts=st.lists(
        st.sampled_from(["", None, "One. Two words here, six in all.", "A long one. " * 60, " "]), max_size=14
    ),
    shots=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_any_number_of_texts_makes_chains_of_any_length(texts, shots, seed):
    def answers(**engine_options):
        engine = OneAtATime(seed, max_model_len=400, **engine_options)
        return list(Synthesizer(engine=engine, shots=shots, max_new_tokens=150).synthesize(texts))

    rows = answers()
    assert len(rows) == len(texts)
    for text, row in zip(texts, rows, strict=True):
        assert row.status == ("ok" if text and text.strip() else "empty")
        assert [shot.start for shot in row.shots] == [0, *(shot.end for shot in row.shots[:-1])][: len(row.shots)]
        assert not row.shots or row.shots[-1].end == len(text)
    dealt = [shot for row in rows for shot in row.shots]
    for number, shot in enumerate(dealt):
        assert shot.position == number % shots
        assert shot.chain == dealt[number - shot.position].chain
        assert not shot.follows or shot.position > 0
        assert shot.prompt_tokens + 150 <= 400
    assert answers(max_requests=1) == rows  # nothing rests on what runs at the same time


def test_the_next_shot_of_a_chain_is_submitted_before_a_new_chain():
    engine = OneAtATime(max_requests=3)
    list(Synthesizer(engine=engine, shots=3).synthesize(texts_of(30)))
    asked: dict[int, int] = {}
    for event, then in zip(engine.events, [*engine.events[1:], None], strict=True):
        what, number = event
        if what == "ask":
            asked[number] = asked.get(number, 0) + 1
        elif asked[number] < 3:
            assert then == ("ask", number)
    assert engine.most_under_way == 3
    assert asked == dict.fromkeys(range(10), 3)


def test_no_barrier_between_rounds():
    engine = OneAtATime(max_requests=2)
    list(Synthesizer(engine=engine, shots=2).synthesize(texts_of(20)))
    rounds = [shots for _, shots, _ in engine.submitted]
    assert rounds.index(2) < 3  # a second shot runs while most chains have not begun


def test_as_many_chains_as_the_kv_cache_holds():
    texts = texts_of(40)
    free = OneAtATime(max_requests=40)
    rows = list(Synthesizer(engine=free, shots=2, max_new_tokens=300).synthesize(texts))
    chain_tokens = max(shot.prompt_tokens + shot.completion_tokens for row in rows for shot in row.shots)
    tight = OneAtATime(max_requests=40, kv_tokens=4 * chain_tokens)
    assert list(Synthesizer(engine=tight, shots=2, max_new_tokens=300).synthesize(texts)) == rows
    assert 2 <= tight.most_under_way <= 5
    tiny = OneAtATime(max_requests=40, kv_tokens=10)  # smaller than a chain: one at a time, never none
    assert list(Synthesizer(engine=tiny, shots=2, max_new_tokens=300).synthesize(texts)) == rows
    assert tiny.most_under_way == 1


@pytest.mark.parametrize(("shots", "more"), [(1, 0.95), (3, 1.2), (5, 1.3)])
def test_chains_get_room_as_they_grow_and_the_cache_stays_full(shots, more):
    """Reserving each chain its whole room from the start would leave half of the cache empty."""
    text, answer, room = 200, 60, 16_000
    held: dict[int, int] = {}
    under_way, used = [], []

    class Cache(OneAtATime):
        def submit(self, request_id, request):
            held[request_id] = len(request.prompt) + answer
            self._pending[request_id] = request

        def step(self):
            under_way.append(len(self._pending))
            used.append(sum(held[request_id] for request_id in self._pending))
            # All answers take about equally long: the one that was asked first comes first, or one of the next few.
            request_id = self._random.choice(list(self._pending)[:3])
            del self._pending[request_id]
            return [(request_id, Completion([EOS] * answer, "stop"))]

    def chain():
        for number in range(1, shots + 1):
            yield Request([1] * (text + (number - 1) * (text + answer)), 100)

    engine = Cache(max_requests=1000, kv_tokens=room)
    jobs = (Job(chain(), shots * text, shots) for _ in range(300))
    finished = dict(Schedule(engine, shared_tokens=0, first_guess=answer).run(jobs))
    assert sorted(finished) == list(range(300))
    whole_chains = room / (shots * (text + answer))
    steady = under_way[len(under_way) // 3 : -len(under_way) // 3]
    assert sum(steady) / len(steady) >= more * whole_chains
    assert max(used) <= 1.25 * room
    assert sum(max(0, tokens - room) for tokens in used) <= 0.02 * sum(used)


def test_a_chain_of_long_texts_takes_no_more_room_than_a_prompt_may_have():
    """The oldest shots leave its prompts, so that M long texts are not M times as large."""
    engine = OneAtATime(max_requests=100, kv_tokens=4000, max_model_len=500)
    text = "Boats come. " * 75
    rows = list(Synthesizer(engine=engine, shots=5, max_new_tokens=200).synthesize([text] * 150))
    assert {row.status for row in rows} == {"ok"}
    assert max(shot.prompt_tokens for row in rows for shot in row.shots) > 200
    assert engine.most_under_way >= 5


@pytest.mark.parametrize("known", [0, 2])
def test_what_an_earlier_run_had_counts_as_room_not_as_a_turn(known):
    def chain():
        for number in range(1, 4):
            yield Request([1] * (260 * number - 60), 100)

    engine = OneAtATime(max_requests=100, kv_tokens=8 * 780)
    earlier = [Completion([EOS] * 60, "stop")] * known
    jobs = (Job(chain(), 600, 3, known=earlier) for _ in range(40))
    engine.step = lambda: [(number, Completion([EOS] * 60, "stop")) for number in [next(iter(engine._pending))]
                           if engine._pending.pop(number)]  # fmt: skip
    assert len(dict(Schedule(engine, 0, first_guess=60).run(jobs))) == 40
    # A third begins at a time; those that are at their last shot already may all come at once.
    assert engine.most_under_way == (8 if known else 12)


def test_texts_are_read_as_they_are_needed():
    read = 0

    def stream():
        nonlocal read
        for text in texts_of(10_000):
            read += 1
            yield text

    rows = Synthesizer(engine=ScriptedEngine(max_requests=4), shots=2).synthesize(stream())
    next(rows)
    assert read < 100
    rows.close()


def test_a_slow_chain_does_not_let_the_rest_pile_up():
    class Slow(ScriptedEngine):
        def step(self):  # request 0 is answered only when nothing else is there
            ready = [number for number in self._pending if number] or list(self._pending)
            return [(number, self._answer(self._pending.pop(number))) for number in ready]

    read = 0

    def stream():
        nonlocal read
        for text in texts_of(5000):
            read += 1
            yield text

    rows = Synthesizer(engine=Slow(max_requests=4), shots=1).synthesize(stream())
    next(rows)
    assert read < 100
    assert len(list(rows)) == 4999


def test_closing_the_iterator_aborts_what_is_under_way():
    engine = ScriptedEngine(max_requests=4)
    rows = Synthesizer(engine=engine, shots=3).synthesize(texts_of(100))
    next(rows)
    rows.close()
    assert not engine._pending
    assert len(list(Synthesizer(engine=engine, shots=3).synthesize(texts_of(5)))) == 5


@pytest.mark.parametrize(
    ("answers", "message"),
    [([], "nothing back"), ([(99, Completion([EOS], "stop"))], "request 99")],
)
def test_an_engine_that_answers_wrongly_is_an_error_not_a_shifted_row(answers, message):
    class Wrong(ScriptedEngine):
        def step(self):
            return answers

    with pytest.raises(EngineError, match=message):
        list(Synthesizer(engine=Wrong()).synthesize(texts_of(3)))


def test_a_request_that_fails_costs_only_its_own_text():
    class Failing(ScriptedEngine):
        def _answer(self, request):
            last = self.tokenizer.decode(request.prompt).rsplit("<CON>")[-1]
            return Completion([], "error", error="bad luck") if "Note 3." in last else super()._answer(request)

    rows = list(Synthesizer(engine=Failing(), shots=3).synthesize(texts_of(7)))
    assert [row.status for row in rows] == ["ok"] * 3 + ["engine_error"] + ["ok"] * 3
    assert rows[3].columns()["rejected"] == [{"reason": "engine_error", "text": "bad luck", "shot": 0}]
    assert rows[4].shots[0].position == 1
    assert not rows[4].shots[0].follows  # the failed shot is not in the history


def test_a_shot_without_pairs_is_left_out_and_the_good_ones_before_it_stay():
    def script(text):
        return "no idea" if "Note 1." in text else f"<QUE> What is {text[:7]} <ANS> a note </END>"

    engine = OneAtATime(script=script)
    rows = list(Synthesizer(engine=engine, shots=3).synthesize(texts_of(3)))
    assert [row.status for row in rows] == ["ok", "no_pairs", "ok"]
    assert rows[2].shots[0].follows
    prompt = engine.tokenizer.decode(engine.submitted[2][2].prompt)
    assert "Note 0." in prompt
    assert "Note 1." not in prompt
    assert rows[1].columns()["rejected"] == [{"reason": "unfinished", "text": "no idea", "shot": 0}]


def test_the_schedule_needs_no_chain_at_all():
    assert list(Schedule(ScriptedEngine(), shared_tokens=0, first_guess=100).run(iter(()))) == []


def test_texts_are_read_ahead_and_those_before_a_broken_one_still_have_their_turn():
    read = []

    def texts():
        for text in texts_of(2 * ENCODED_AT_ONCE + 5):
            read.append(text)
            yield text
        raise OSError("the disk is gone")

    engine = ScriptedEngine()
    dealer = Dealer(texts(), Synthesizer(engine=engine).recipe, Prompter(engine.tokenizer, PAPER), 4096)
    jobs = dealer.jobs()
    next(jobs)
    assert len(read) == ENCODED_AT_ONCE
    assert len(list(islice(jobs, (len(read) * 2 + 5) // 2 - 1))) == ENCODED_AT_ONCE + 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(jobs)
