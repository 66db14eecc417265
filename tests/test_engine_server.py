"""The server engine against real HTTP servers on loopback that fail in every way they can."""

import json
import logging
import pickle
import threading
import time
from email.utils import formatdate

import pytest
from completion_server import CompletionServer
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets import Synthesizer
from ipt_datasets.cli import main
from ipt_datasets.errors import EngineError, RecipeError
from ipt_datasets.synthesis.engines import Request, endpoint
from ipt_datasets.synthesis.engines.scripted import EOS, ScriptedEngine, ScriptedTokenizer
from ipt_datasets.synthesis.engines.server import ServerEngine
from ipt_datasets.synthesis.engines.wire import prompt_text, read_answer

TEXTS = [f"Note {n}. The harbour has {n} boats, and nobody counts them twice. It rains." for n in range(24)]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.05)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def open_engine(*servers, **options):
    urls = [server.url if isinstance(server, CompletionServer) else server for server in servers]
    options = {"tokenizer": ScriptedTokenizer(), "max_model_len": 4096, **options}
    return ServerEngine("any/model", urls, **options)


def rows_of(engine, texts=TEXTS, **settings):
    try:
        return list(Synthesizer(engine=engine, shots=3, **settings).synthesize(texts))
    finally:
        engine.close()


@pytest.fixture(scope="module")
def expected():
    return list(Synthesizer(engine=ScriptedEngine(), shots=3).synthesize(TEXTS))


def prompt_of(text):
    tokenizer = ScriptedTokenizer()
    return [tokenizer.bos_id, *tokenizer.encode(f"<CON> {text} </CON>\n\n")]


def drain(engine, number):
    done = {}
    while len(done) < number:
        done |= dict(engine.step())
    return done


def test_rows_are_those_of_the_engine_behind_the_servers(expected):
    with CompletionServer() as one, CompletionServer() as other:
        engine = open_engine(one, other)
        assert (engine.kind, engine.max_requests, engine.max_model_len) == ("server", 128, 4096)
        assert rows_of(engine) == expected
    assert all(row.status == "ok" for row in expected)
    assert all(isinstance(body["prompt"], list) for body in one.bodies + other.bodies)
    assert len(one.bodies) + len(other.bodies) == len(TEXTS)


def test_a_chain_stays_where_its_prefix_is_cached(expected):
    with CompletionServer(seconds=0.005) as one, CompletionServer(seconds=0.002) as other:
        engine = open_engine(one, other, max_concurrency=2)
        assert rows_of(engine) == expected
    chains = 0
    for server in (one, other):
        assert server.prompts
        assert server.most_at_once <= 2
        for prompt in server.prompts:
            shots = prompt.count(1)
            chains += shots == 1
            if shots > 1:  # what it goes on from was asked here, too
                assert any(len(p) < len(prompt) and prompt[: len(p)] == p for p in server.prompts)
    assert chains == len(TEXTS) / 3


def test_chains_that_have_ended_are_forgotten():
    with CompletionServer() as server:
        engine = open_engine(server)
        for number in range(30):
            engine.submit(number, Request(prompt_of(f"Text {number}."), 50))
            drain(engine, 1)
        engine.submit(30, Request(prompt_of("The last."), 50))
        drain(engine, 1)
        assert set(engine._homes) <= {29, 30}
        engine.close()


@pytest.mark.parametrize("fault", ["500", "503", "408", "reset", "half", "garbage", "hang 1.5"])
def test_what_fails_in_passing_changes_nothing(expected, fault):
    """The first request about every third text fails."""

    def fails(before, asked):
        return fault if before == 0 and int(asked.split("Note ")[1].split(".")[0]) % 3 == 0 else ""

    with CompletionServer(fault=fails) as server:
        assert rows_of(open_engine(server, request_timeout=0.7)) == expected
    assert server.faults[fault] == len(TEXTS) / 3


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_server_is_waited_for_as_long_as_it_says(as_date):
    """It refuses until the time it named; who asks earlier is counted."""
    free = []

    def busy(before, asked):
        if before == 0:
            free.append(int(time.time()) + 2 if as_date else time.time() + 1)
            return f"429 {formatdate(free[0], usegmt=True) if as_date else 1}"
        return "" if time.time() >= free[0] else "418"

    with CompletionServer(fault=busy) as server:
        [row] = rows_of(open_engine(server), TEXTS[:1])
    assert row.status == "ok"
    assert [kind.split()[0] for kind in server.faults] == ["429"]


def test_who_says_busy_often_is_not_taken_for_dead():
    with CompletionServer(fault=lambda before, _: "429" if before < 6 else "") as server:
        [row] = rows_of(open_engine(server, max_retries=2), TEXTS[:1])
    assert row.status == "ok"
    assert server.faults["429"] == 6


def test_of_two_servers_one_is_killed(expected, caplog):
    killed = threading.Event()

    def kill(before, asked):
        if len(doomed.bodies) == 5 and not killed.is_set():
            killed.set()
            threading.Thread(target=doomed.kill).start()
        return "hang 0.5" if killed.is_set() else ""

    with CompletionServer() as other:
        doomed = CompletionServer(fault=kill).__enter__()
        assert rows_of(open_engine(doomed, other, max_retries=3)) == expected
    assert killed.is_set()
    assert [record.message for record in caplog.records if f"{doomed.url} is taken out" in record.message]


def test_when_the_last_server_dies_the_error_says_so():
    with CompletionServer() as server:
        engine = open_engine(server, max_retries=2)
        engine.submit(1, Request(prompt_of("A text."), 50))
        assert [number for number, _ in engine.step()] == [1]
        server.kill()
        for number in range(20):
            engine.submit(number, Request(prompt_of("A text."), 50))
        for _ in range(2):
            with pytest.raises(EngineError, match="no server answers any more, the last was http://127") as raised:
                engine.step()
        assert "\n" not in str(raised.value)
        with pytest.raises(EngineError):
            engine.submit(30, Request(prompt_of("A text."), 50))
        engine.abort([3])
        engine.close()
        engine.close()
        with pytest.raises(EngineError):
            engine.step()


@pytest.mark.parametrize("fault", ["400", "500", "reset"])
def test_a_request_that_no_server_can_bear_costs_only_its_own_text(expected, fault):
    def poisoned(_, asked):
        return fault if "Note 7." in asked else ""

    with CompletionServer(fault=poisoned) as one, CompletionServer(fault=poisoned) as other:
        rows = rows_of(open_engine(one, other, max_retries=2))
        assert one.faults[fault] + other.faults[fault] == (1 if fault == "400" else 2)
    assert [row.status for row in rows] == ["ok"] * 7 + ["engine_error"] + ["ok"] * 16
    [rejected] = rows[7].columns()["rejected"]
    assert rejected["reason"] == "engine_error"
    assert "refused the request" in rejected["text"]
    if fault != "reset":
        assert f"as told: {fault}" in rejected["text"]
    assert rows[:7] == expected[:7]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("takes_extras", [True, False])
@pytest.mark.parametrize("returns_ids", [True, False])
def test_a_server_that_takes_only_strings_reads_exactly_one_bos(expected, adds_bos, takes_extras, returns_ids):
    asked = {"takes": ("text",), "adds_bos": adds_bos, "takes_extras": takes_extras, "returns_ids": returns_ids}
    with CompletionServer() as with_ids, CompletionServer(**asked) as server:
        assert rows_of(open_engine(server)) == expected
        assert rows_of(open_engine(with_ids)) == expected
    assert all(isinstance(body["prompt"], str) for body in server.bodies)
    assert sorted(server.prompts) == sorted(with_ids.prompts)  # with these pieces the very same ids
    assert all(prompt[0] == 1 and prompt[1] != 1 for prompt in server.prompts)


@pytest.mark.parametrize("asked", [{"takes": ("ids",)}, {"takes_extras": False}, {"returns_ids": False}])
def test_servers_differ_in_what_they_take(expected, asked):
    with CompletionServer(**asked) as odd, CompletionServer() as other:
        assert rows_of(open_engine(odd, other)) == expected
    assert all(isinstance(body["prompt"], list) for body in odd.bodies + other.bodies)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<▁"), min_size=1, max_size=40)


@settings(max_examples=60)
@given(texts=st.lists(TEXT, min_size=1, max_size=3), adds_bos=st.booleans())
def test_as_a_string_a_prompt_keeps_its_ids_and_one_bos(mistral_tokenizer, texts, adds_bos):
    tokenizer = mistral_tokenizer
    bos = tokenizer.bos_id
    ids = []
    for text in texts:
        ids += [bos, *tokenizer.encode(f"<CON> {text} </CON>\n\n"), tokenizer.eos_id]
    written = tokenizer.tokenizer.encode(prompt_text(tokenizer, ids, adds_bos), add_special_tokens=False)
    assert ([bos] if adds_bos else []) + written == ids


def test_as_a_string_a_prompt_of_smol_keeps_its_ids(smol_tokenizer):
    ids = [smol_tokenizer.bos_id, *smol_tokenizer.encode(f"<CON> {TEXTS[1]} </CON>\n\n"), smol_tokenizer.eos_id]
    assert smol_tokenizer.tokenizer.encode(prompt_text(smol_tokenizer, ids + ids, False)) == ids + ids


@pytest.mark.parametrize(
    ("text", "reason", "stop_reason", "stop", "end"),
    [
        ("a b", "stop", None, (), [EOS]),
        ("a b", "stop", 1, (), [1]),
        ("a b", "stop", "x", ("x",), []),
        ("a b", "length", None, (), []),
        ("a b<s>more</s>", "stop", None, (), [1]),
    ],
)
def test_what_ended_a_text_is_read_as_an_id(text, reason, stop_reason, stop, end):
    tokenizer = ScriptedTokenizer()
    answer = {"choices": [{"text": text, "finish_reason": reason, "stop_reason": stop_reason}]}
    completion = read_answer(answer, Request([1], 5, stop=stop), tokenizer)
    assert completion.token_ids == tokenizer.encode("a b") + end
    assert completion.finish_reason == reason


def test_a_completion_that_ended_otherwise_is_an_error_and_the_cache_is_counted():
    usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 7}}
    answer = {"choices": [{"text": "", "token_ids": [5], "finish_reason": "abort"}], "usage": usage}
    completion = read_answer(answer, Request([1], 5), ScriptedTokenizer())
    assert (completion.finish_reason, completion.cached_tokens) == ("error", 7)
    assert "'abort'" in completion.error


def test_sampling_is_written_out():
    request = Request(prompt_of("A text."), 9, 0.7, 0.9, 1.1, 0.3, 0.4, seed=2**63 + 5, stop=("\nText:",))
    with CompletionServer() as server:
        engine = open_engine(server)
        engine.submit(1, request)
        drain(engine, 1)
        engine.close()
    [body] = server.bodies
    assert body.pop("prompt") == request.prompt
    assert body == {
        "model": "any/model",
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.4,
        "repetition_penalty": 1.1,
        "seed": 5,
        "stop": ["\nText:"],
        "top_k": -1,
        "min_p": 0.0,
        "stop_token_ids": [1, 2],
        "skip_special_tokens": False,
        "return_token_ids": True,
    }


def test_requests_are_added_while_others_run_and_submit_never_waits():
    slow = threading.Event()

    def hold(_, asked):
        if "Slow" in asked:
            slow.wait(20)
        return ""

    with CompletionServer(fault=hold) as server:
        engine = open_engine(server, max_concurrency=2)
        for number in range(6):
            engine.submit(number, Request(prompt_of("Slow one." if number == 0 else "Quick one."), 50))
        assert sorted(drain(engine, 5)) == [1, 2, 3, 4, 5]
        engine.submit(6, Request(prompt_of("Quick one."), 50))
        assert [number for number, _ in engine.step()] == [6]
        slow.set()
        assert [number for number, _ in engine.step()] == [0]
        assert engine.step() == []
        assert server.most_at_once == 2
        engine.close()


def test_abort_hangs_up_and_the_id_may_be_used_again():
    slow = threading.Event()

    def hold(_, asked):
        if "Slow" in asked:
            slow.wait(20)
        return ""

    with CompletionServer(fault=hold) as server:
        engine = open_engine(server, max_concurrency=1)
        engine.submit(1, Request(prompt_of("Slow one."), 50))
        while not server.bodies:
            time.sleep(0.01)
        engine.abort([1, 77])
        assert engine.step() == []
        engine.submit(1, Request(prompt_of("Quick one."), 50))  # the one place is free again
        [(number, completion)] = engine.step()
        assert number == 1
        assert "Quick" in engine.tokenizer.decode(completion.token_ids)
        slow.set()
        engine.close()


def test_a_prompt_without_room_is_an_error_of_its_own():
    with CompletionServer() as server:
        engine = open_engine(server, max_model_len=30)
        engine.submit(1, Request([5] * 30, 4))
        engine.submit(2, Request([], 4))
        engine.submit(3, Request(prompt_of("A short one."), 99))
        done = drain(engine, 3)
        engine.close()
    assert [done[number].finish_reason for number in (1, 2)] == ["error", "error"]
    assert "max_model_len=30" in done[1].error
    assert server.bodies[0]["max_tokens"] == 30 - len(server.prompts[0])


DEAD = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("server", "options", "said"),
    [
        ({}, {"served_model": "other"}, "has no model 'other'; it serves 'any/model'"),
        ({"model": "other/thing"}, {}, "serves 'other/thing', and the recipe's model is 'any/model'"),
        ({"model": "alias", "root": "/models/thing"}, {}, "serves 'alias' (/models/thing)"),
        ({"max_model_len": 2048}, {}, "reads up to 2048 tokens and the recipe wants 4096"),
        ({"max_model_len": None, "context": 2048}, {}, "does not tell its length, and the recipe wants 4096"),
        ({"max_model_len": None, "context": -2048, "takes": ("text",)}, {}, "was cut: it read 2047"),
        ({"takes": ()}, {}, "takes no completion request"),
        ({"key": "sesame"}, {}, "wants another key"),
        ({"key": "sesame"}, {"api_key": "sk-secret"}, "wants another key"),
        ({"takes": ("text",), "adds_bos": False, "reads_bos": False}, {}, "does not read ours"),
        ({"takes": ("text",), "counts": False}, {}, "usage.prompt_tokens"),
        ({}, {"colour": "red"}, "no option colour"),
        ({}, {"max_concurrency": 0}, "max_concurrency=0"),
        ({}, {"max_retries": "3"}, "max_retries='3'"),
        ({}, {"request_timeout": 0}, "request_timeout=0"),
    ],
)
def test_what_cannot_go_well_is_one_line_before_anything_begins(server, options, said):
    with CompletionServer(**server) as running:
        with pytest.raises(EngineError) as raised:
            open_engine(running, **options)
        assert not [thread for thread in threading.enumerate() if thread.name == "ipt-servers"]
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "sk-secret" not in str(raised.value)
    assert not running.bodies


@pytest.mark.parametrize("takes", [("ids", "text"), ("text",)])
def test_a_server_with_another_tokenizer_is_noticed(smol_tokenizer, takes):
    with CompletionServer(takes=takes) as server, pytest.raises(EngineError, match=r"reads \d+ tokens in a text"):
        open_engine(server, tokenizer=smol_tokenizer)


def test_a_server_whose_tokenizer_only_counts_alike_is_noticed():
    class Other(ScriptedTokenizer):
        def encode(self, text):
            return [id_ ^ 1 for id_ in super().encode(text)]

        def decode(self, ids):
            return super().decode([id_ ^ 1 for id_ in ids])

    with CompletionServer() as server, pytest.raises(EngineError, match="other token ids"):
        open_engine(server, tokenizer=Other())


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ([], "needs a server"),
        ([DEAD], "no server answers at http://127.0.0.1:9/v1"),
        (["localhost:8000/v1"], "'localhost:8000/v1': expected the base URL"),
        (["http://me:hidden@127.0.0.1:9/v1"], "no server answers at http://127.0.0.1:9/v1"),
        ([DEAD, DEAD], "given twice"),
    ],
)
def test_what_is_no_server_is_one_line(urls, said):
    with pytest.raises((EngineError, RecipeError)) as raised:
        open_engine(*urls)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_url_without_its_end_is_explained():
    with CompletionServer() as server, pytest.raises(EngineError, match=r"HTTP 404: Not Found.*mostly ends in /v1"):
        open_engine(server.url.removesuffix("/v1"))


def test_one_dead_server_of_two_is_said_at_the_opening():
    with CompletionServer() as server, pytest.raises(EngineError, match="leave it out"):
        open_engine(server, DEAD)


def test_several_servers_have_one_model():
    with CompletionServer("m", "/a/one") as one, CompletionServer("m", "/b/two") as other:
        with pytest.raises(EngineError, match="'m' is not the same model on all servers: /a/one at"):
            open_engine(one, other, served_model="m")
        with pytest.raises(EngineError, match="serves 'm'"):
            open_engine(one, other)


@pytest.mark.parametrize(
    ("model", "root"),
    [("any/model", None), ("x", "any/model"), ("x", "/models/of/mine/model"), ("here", "/snapshots/0123abc")],
)
def test_names_that_are_the_recipes_model(model, root):
    with CompletionServer(model, root) as server:
        engine = open_engine(server, revision="0123abc")
        engine.close()


def test_the_length_is_the_models_own_or_the_servers(smol, smol_tokenizer):
    with CompletionServer(max_model_len=1024) as server:
        engine = open_engine(server, max_model_len=None)  # nobody here knows any/model's
        assert engine.max_model_len == 1024
        engine.close()
        with pytest.raises(EngineError, match="the recipe wants 4096"):
            ServerEngine(smol, [server.url], served_model="any/model", tokenizer=ScriptedTokenizer())


@pytest.mark.parametrize("takes", [("ids", "text"), ("text",)])
def test_a_server_that_does_not_tell_its_length_is_tried_with_a_long_prompt(takes):
    with CompletionServer(max_model_len=None, context=4096, takes=takes) as server:
        engine = open_engine(server)
        assert engine.max_model_len == 4096
        engine.close()
        assert not server.bodies


def test_the_key_is_sent_and_said_nowhere(caplog, expected, monkeypatch):
    caplog.set_level(logging.DEBUG)
    with CompletionServer(key="sk-sesame") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-sesame")
        synthesizer = Synthesizer(engine="server", model="any/model", servers=[server.url])
        synthesizer.engine = engine = open_engine(server)
        assert next(iter(synthesizer.synthesize(TEXTS[:3]))).status == "ok"
        server.key = "another"
        with pytest.raises(EngineError) as raised:
            list(synthesizer.synthesize(TEXTS[:3]))
        engine.close()
    assert "Incorrect API key provided: Bearer ***" in str(raised.value)
    assert "sk-sesame" not in f"{caplog.text} {raised.value} {synthesizer!r} {synthesizer._recipe}"
    assert set(server.headers) == {"Bearer sk-sesame"}


def test_servers_are_no_part_of_the_recipe(smol, monkeypatch):
    with CompletionServer() as server:
        synthesizer = Synthesizer(engine="server", servers=[server.url])
        assert pickle.dumps(synthesizer) == pickle.dumps(Synthesizer(engine="server"))
        assert synthesizer.recipe.engine == "server"
        travelled = pickle.loads(pickle.dumps(synthesizer))
        with pytest.raises(EngineError, match="OPENAI_BASE_URL"):
            travelled.open()
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url} , {DEAD}")
        with pytest.raises(EngineError, match="the recipe's model is 'smol'"):
            travelled.open()
    with pytest.raises(RecipeError, match="engine='vllm'"):
        Synthesizer(engine="vllm", servers=[DEAD])


def test_a_run_whose_servers_die_goes_on_with_others(smol, smol_tokenizer, tmp_path, capsys):
    """The command with a real tokenizer: killed in the midst, resumed with two other servers, equal to a run in one."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    served = {"model": smol.name, "root": f"/elsewhere/{smol.name}", "tokenizer": smol_tokenizer, "adds_bos": False}

    def command(output, *servers):
        options = [word for server in servers for word in ("--server", server.url)]
        options += ["--engine-option", "max_retries=2", "--engine-option", "max_concurrency=3"]
        return main(["augment", str(corpus), str(tmp_path / output), "--engine", "server", *options, "--resume"])

    def dying(before, asked):
        if len(doomed.bodies) == 12:
            threading.Thread(target=doomed.kill).start()
        return "hang 0.5" if len(doomed.bodies) >= 12 else ""

    doomed = CompletionServer(fault=dying, **served).__enter__()
    assert command("interrupted", doomed) == 1
    assert "no server answers any more" in capsys.readouterr().err
    with CompletionServer(**served) as one, CompletionServer(**served) as other:
        assert command("interrupted", one, other) == 0
        resumed = len(one.bodies) + len(other.bodies)
        assert command("whole", one, other) == 0
        assert len(one.bodies) + len(other.bodies) - resumed == len(TEXTS)
    assert 0 < resumed < len(TEXTS)
    import pyarrow.parquet as pq

    for kind in ("pairs", "text"):
        tables = [pq.read_table(tmp_path / output / kind) for output in ("interrupted", "whole")]
        assert tables[0].num_rows
        assert tables[0] == tables[1]
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert one.url.encode() not in path.read_bytes()
