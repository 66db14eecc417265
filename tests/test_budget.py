"""Budgets: a run stops in good order, says how to go on, and several of them write what one would have written."""

import hashlib
import json
import shlex

import pytest

from ipt_datasets import Synthesizer, augment
from ipt_datasets.cli import TRY_AGAIN, main
from ipt_datasets.corpus.budget import Budget
from ipt_datasets.corpus.folder import JOURNAL, OutputFolder
from ipt_datasets.errors import BudgetSpent, RecipeError
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine
from ipt_datasets.synthesis.schedule import Job

ROWS = 120


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "notes.jsonl"
    texts = [f"Note {n}. The harbour has {n} boats and {n * 7} ropes. " * (n % 5 + 1) for n in range(ROWS)]
    texts[11], texts[60] = "", "Long. " * 3000  # the second is several windows, so chains begin and end within it
    file.write_text("".join(json.dumps({"text": text, "id": f"n{n}"}) + "\n" for n, text in enumerate(texts)))
    return str(file)


class Noting(ScriptedEngine):
    """Counts what it generates."""

    def __init__(self, max_requests: int = 4) -> None:
        super().__init__(max_requests=max_requests)
        self.wrote = 0

    def step(self):
        finished = super().step()
        self.wrote += sum(len(completion.token_ids) for _, completion in finished)
        return finished


def run(source, out, engine, **options):
    synthesizer = Synthesizer(engine=engine, shots=3)
    return augment(source, out, synthesizer, resume=True, rows_per_shard=25, progress=False, **options)


def snapshot(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def whole(corpus, tmp_path):
    engine = Noting()
    run(corpus, tmp_path / "whole", engine)
    return snapshot(tmp_path / "whole"), engine.wrote


@pytest.mark.parametrize("tokens", [1, 3000, 9000])
def test_several_runs_write_what_one_would_have_written(corpus, tmp_path, whole, tokens):
    expected, all_tokens = whole
    out, wrote = tmp_path / "out", []
    while True:
        engine = Noting()
        try:
            run(corpus, out, engine, budget_tokens=tokens)
        except BudgetSpent:
            wrote.append(engine.wrote)
            assert (out / JOURNAL).exists()
            assert not OutputFolder(out).is_finished
            assert engine.wrote > 0  # every run gets on
            continue
        break
    assert len(wrote) >= 2
    assert sum(wrote) + engine.wrote == all_tokens  # nothing was generated twice
    assert snapshot(out) == expected
    # A completion's size is not known before, so a run may end a chain or so beside its budget.
    assert all(abs(spent - tokens) < 2500 for spent in wrote[1:-1])


def test_full_shards_are_written_before_a_run_stops(corpus, tmp_path, whole):
    with pytest.raises(BudgetSpent, match="20,000 generated tokens"):
        run(corpus, tmp_path / "out", Noting(), budget_tokens=20_000)
    there, expected = snapshot(tmp_path / "out"), whole[0]
    shards = {name: digest for name, digest in there.items() if name.endswith(".parquet")}
    assert len(shards) >= 4
    assert shards.items() <= expected.items()


def test_hours_end_a_run_too(corpus, tmp_path, whole, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ipt_datasets.corpus.budget.time.monotonic", lambda: now[0])
    engine = Noting()
    step = engine.step

    def slowly():
        now[0] += 360.0
        return step()

    engine.step = slowly
    with pytest.raises(BudgetSpent, match=r"2\.5 hours"):
        run(corpus, tmp_path / "out", engine, budget_hours=2.5)
    assert 2.5 * 3600 <= now[0] <= 2.5 * 3600 + 3 * 360  # no chain of three shots began after it
    run(corpus, tmp_path / "out", Noting(), budget_hours=100)
    assert snapshot(tmp_path / "out") == whole[0]


def test_a_budget_that_is_enough_changes_nothing(corpus, tmp_path, whole):
    run(corpus, tmp_path / "out", Noting(), budget_tokens=whole[1] * 2, budget_hours=10)
    assert snapshot(tmp_path / "out") == whole[0]
    run(corpus, tmp_path / "out", Noting(), budget_tokens=1)  # finished: it is checked, nothing is generated


def test_what_an_earlier_run_finished_costs_nothing():
    budget = Budget(tokens=1)
    assert budget.admits(Job(iter(()), 10, 2))
    assert budget.admits(Job(iter(()), 10, 2, known=["first", "second"]))
    assert not budget.admits(Job(iter(()), 10, 2, known=["first"]))
    assert budget.spent


@pytest.mark.parametrize("given", [{"tokens": 0}, {"hours": 0.0}, {"hours": float("nan")}])
def test_a_budget_of_nothing_is_refused(given):
    with pytest.raises(RecipeError, match=next(iter(given))):
        Budget(**given)


def test_the_command_says_how_to_go_on_and_ends_with_75(corpus, tmp_path, capsys):
    command = ["augment", corpus, str(tmp_path / "out"), "--engine", "scripted", "--budget-tokens", "6000"]
    assert main(command) == TRY_AGAIN == 75
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "6,000 generated tokens" in last
    assert last.endswith("go on with: ipt " + shlex.join([*command, "--resume"]))
    runs = 1
    while (status := main([*command, "--resume"])) == TRY_AGAIN:
        runs += 1
        assert runs < 20
    assert (status, runs > 1) == (0, True)
