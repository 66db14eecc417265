"""`ipt bench`: tries in processes of their own, the table, and the command line that it recommends."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from ipt_datasets.cli import _parser, main
from ipt_datasets.corpus import bench as measured
from ipt_datasets.corpus.bench import TRIES, Bench, Tried, bench
from ipt_datasets.errors import EngineError, RecipeError
from ipt_datasets.recipe import ENGINES


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "notes.jsonl"
    texts = [f"Note {n}. The harbour has {n} boats and {n * 7} ropes." for n in range(50)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def test_the_command_tries_and_recommends(corpus, tmp_path, capsys):
    tries = tmp_path / "tries.json"
    tries.write_text(json.dumps([{"max_requests": 3}, {"colour": "red"}]))
    file = tmp_path / "bench.json"
    options = ["--engine", "scripted", "--texts", "12", "--shots", "3", "--temperature", "0.5", "--repeats", "1"]
    assert main(["bench", "smol", corpus, *options, "--tries", str(tries), "--json", str(file)]) == 0
    said = capsys.readouterr().out
    found = json.loads(file.read_text())
    fast, dead = found["tries"]
    [run] = fast["runs"]
    assert (run["texts"], run["errors"]) == (12, 0)
    assert run["raw_tokens"] < run["prompt_tokens"]
    assert fast["raw_tokens_per_second"] == pytest.approx(run["raw_tokens"] / run["seconds"])
    assert "colour" in dead["error"]  # what it died of is a row, the others go on
    assert dead["error"] in said
    assert "best here: max_requests=3" in said
    assert found["best"] in said
    words = shlex.split(found["best"])
    assert words[:4] == ["ipt", "augment", corpus, "OUTPUT"]
    parsed = _parser().parse_args(words[1:])  # a command line that `ipt` takes
    assert (parsed.model, parsed.engine, parsed.shots, parsed.temperature) == ("smol", "scripted", 3, 0.5)
    assert parsed.engine_option == ["max_requests=3"]


def test_the_users_own_options_hold_for_every_try(corpus):
    settings = {"engine": "scripted", "engine_options": {"max_requests": 5, "colour": "red"}}
    made = bench(corpus, settings, texts=4, tries=[{}], repeats=2, progress=False)
    assert made.best is None
    assert "colour" in made.tries[0].error
    assert not made.tries[0].runs  # and after its death it is not run again


def test_a_try_that_is_killed_says_by_what(corpus, tmp_path, monkeypatch):
    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\necho out of luck >&2\nkill -KILL $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    made = bench(corpus, {"engine": "scripted"}, texts=4, tries=[{}], repeats=1, progress=False)
    assert "killed by SIGKILL, maybe because the memory ran out: out of luck" in made.tries[0].error


def test_a_run_that_does_not_end_is_ended(corpus):
    made = bench(corpus, {"engine": "scripted"}, texts=4, tries=[{}], repeats=2, run_minutes=0.001, progress=False)
    assert [tried.error for tried in made.tries] == ["not finished after 0.001 minutes"]
    assert made.best is None


def test_where_all_tries_die_the_command_fails_in_one_line(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["bench", "smol", corpus, "--engine", "scripted", "--repeats", "1"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("ipt: none of the 3 tries ran; the first said: ended with exit status 1")


@pytest.mark.parametrize("name", ["nowhere/bench.json", "."])
def test_a_file_that_cannot_be_written_is_said_before_a_model_is_loaded(corpus, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(sys, "executable", "/bin/false")  # no try can begin
    file = tmp_path / name
    assert main(["bench", "smol", corpus, "--engine", "scripted", "--json", str(file)]) == 1
    captured = capsys.readouterr()
    [line] = captured.err.strip().splitlines()
    assert f"{file} cannot be written; expected a file in a folder that is there" in line
    assert not captured.out


def test_the_median_decides():
    slow = Tried({"a": 1}, tuple({"raw_tokens": 10, "seconds": seconds} for seconds in (1, 1, 0.01)))
    fast = Tried({"a": 2}, tuple({"raw_tokens": 10, "seconds": seconds} for seconds in (0.5, 0.6, 90)))
    dead = Tried({"a": 3}, ({"raw_tokens": 10, "seconds": 0.001},), error="died")
    assert Bench("scripted", 1, (slow, dead, fast)).best is fast
    assert slow.spread == (10, 1000)


def test_a_try_whose_requests_fail_is_not_the_best(corpus, monkeypatch):
    def run(settings, texts, minutes):
        failed = settings["engine_options"]["max_requests"] == 1
        return {"raw_tokens": 10, "output_tokens": 10, "seconds": 0.1 if failed else 9, "errors": 3 if failed else 0}

    monkeypatch.setattr(measured, "_run", run)
    tries = [{"max_requests": 1}, {"max_requests": 2}]
    made = bench(corpus, {"engine": "scripted"}, texts=4, tries=tries, repeats=1, progress=False)
    assert made.best is made.tries[1]
    assert made.tries[0].error == "3 requests failed"


def test_what_no_try_could_run_with_is_refused_before_any_is(corpus, monkeypatch):
    monkeypatch.setattr(measured, "_run", lambda *_: pytest.fail("a try was run"))
    with pytest.raises(RecipeError, match="workers=0"):
        bench(corpus, {"engine": "scripted", "workers": 0}, progress=False)


def test_a_server_that_does_not_answer_is_said_before_any_try(corpus, monkeypatch):
    asked = []
    monkeypatch.setattr(measured, "_run", lambda *given: asked.append(given) or {"error": "nobody listens"})
    with pytest.raises(EngineError, match="the server cannot be measured: nobody listens"):
        bench(corpus, {"engine": "server", "servers": ["http://127.0.0.1:1/v1"]}, texts=4, progress=False)
    assert len(asked) == 1


def test_every_engine_has_tries_and_the_first_is_the_default():
    assert {name.split()[0] for name in TRIES} == set(ENGINES) - {"auto"}
    assert all(tries[0] == {} and len({json.dumps(one) for one in tries}) == len(tries) for tries in TRIES.values())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"repeats": 0}, "repeats=0"),
        ({"tries": []}, "tries=[]"),
        ({"tries": ["fast"]}, "tries="),
        ({"texts": 1}, "chains"),
    ],
)
def test_what_cannot_be_tried_is_refused(corpus, given, says):
    with pytest.raises(RecipeError) as raised:
        bench(corpus, {"engine": "scripted"}, **{"progress": False, **given})
    assert says in str(raised.value)


@pytest.mark.slow
def test_a_real_model_is_tried(smol, tmp_path):
    file = Path(__file__).parents[1] / "ipt_datasets" / "data" / "demo.jsonl"
    settings = {"model": "smol", "engine": "transformers", "max_new_tokens": 40, "max_model_len": 1024}
    tries = [{"batch_size": 1}, {"batch_size": 4}, {"batch_size": 0}]
    made = bench(str(file), settings, texts=4, tries=tries, repeats=1, progress=False)
    one, four, none = made.tries
    assert "batch_size=0: expected" in none.error
    assert one.runs[0]["output_tokens"] == pytest.approx(four.runs[0]["output_tokens"], rel=0.2)
    assert one.runs[0]["cached_tokens"] > 0  # the second text of a chain finds the first one's
    assert made.best in (one, four)
