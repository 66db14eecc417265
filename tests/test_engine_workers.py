"""Workers: real processes, real kills. What comes out is what one engine gives."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipt_datasets import Synthesizer, augment
from ipt_datasets.cli import main
from ipt_datasets.cli.launch import is_led_elsewhere
from ipt_datasets.corpus.folder import JOURNAL
from ipt_datasets.errors import EngineError, RecipeError
from ipt_datasets.synthesis.engines import Request
from ipt_datasets.synthesis.engines import worker_process as processes
from ipt_datasets.synthesis.engines import workers as module
from ipt_datasets.synthesis.engines.scripted import BOS, ScriptedEngine
from ipt_datasets.synthesis.engines.workers import WorkersEngine

SETTINGS = {"engine": "scripted", "shots": 3, "max_new_tokens": 300, "max_model_len": 900}
FEW = {"max_requests": 4}
"""So that a run takes many steps."""


def texts(n: int) -> list[str | None]:
    made: list[str | None] = [f"Note {i}. The harbour has {i} boats and {i * 7} ropes." for i in range(n)]
    made[n // 2] = None
    made[7] = "\n\n".join(f"Part {part}. " + "The sea is wide and old. " * 9 for part in range(12))
    return made


def write_rows(file: Path, rows: list[str | None]) -> str:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return str(file)


@pytest.fixture(autouse=True)
def cheap_runs(monkeypatch):
    monkeypatch.setattr("datasets.arrow_dataset.generate_fingerprint", lambda *_: "0")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("in") / "notes.jsonl", texts(300))


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """What one engine in this process writes."""
    out = tmp_path_factory.mktemp("whole")
    run(corpus, out, workers=1)
    return snapshot(out)


def run(source, out, workers=2, **options):
    options = {"rows_per_shard": 100, "progress": False, "resume": True, **options}
    with Synthesizer(**SETTINGS, workers=workers, engine_options=FEW) as synthesizer:
        return augment(source, out, synthesizer, **options)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop(".lock", None)
    return files


def engine_of(workers=2, max_requests=4):
    recipe = Synthesizer(**SETTINGS).recipe
    return WorkersEngine(recipe, "scripted", None, {"max_requests": max_requests}, workers)


@pytest.fixture(scope="module")
def engine():
    made = engine_of()
    yield made
    made.close()


def before_it_starts(monkeypatch, code):
    """Let the processes do something before they come to their engine."""
    monkeypatch.setattr(processes, "START", code.replace("{", "{{").replace("}", "}}") + "\n" + processes.START)


def at_steps(monkeypatch, act):
    """Call `act(engine, n)` before the n-th step of an engine made of workers."""
    step, steps = WorkersEngine.step, []

    def disturbed(self):
        steps.append(1)
        act(self, len(steps))
        return step(self)

    monkeypatch.setattr(WorkersEngine, "step", disturbed)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(is_so):
    until = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def question(text):
    return Request([BOS, *ScriptedEngine().tokenizer.encode(f"<CON> {text} </CON>\n\n")], 300)


def answers(engine, requests):
    for number, request in requests.items():
        engine.submit(number, request)
    done = {}
    while len(done) < len(requests):
        finished = engine.step()
        assert finished
        done |= dict(finished)
    assert engine.step() == []
    return done


# Equal


def test_workers_write_what_one_engine_writes(corpus, whole, tmp_path, monkeypatch, caplog):
    took = []
    take = WorkersEngine._take
    monkeypatch.setattr(
        WorkersEngine, "_take", lambda self, who, told: took.append(who.number) or take(self, who, told)
    )
    at_steps(
        monkeypatch, lambda engine, n: seen.update({pid: Path(f"/proc/{pid}/maps").read_text() for pid in engine.pids})
    )
    seen: dict[int, str] = {}
    run(corpus, tmp_path / "out")
    assert snapshot(tmp_path / "out") == whole
    assert min(took.count(1), took.count(2)) > 20
    assert not caplog.records
    assert len(seen) == 2
    assert not any("libtorch" in maps for maps in seen.values())
    assert any("python" in maps for maps in seen.values())
    assert not any(map(is_alive, seen))


def test_workers_are_no_part_of_the_recipe():
    one, two = Synthesizer(**SETTINGS), Synthesizer(**SETTINGS, workers=2)
    assert pickle.dumps(one) == pickle.dumps(two)
    assert pickle.loads(pickle.dumps(two)).workers == 1


def test_sizes_are_those_of_all(engine):
    assert engine.kind == "scripted"
    assert engine.max_model_len == 900
    assert engine.max_requests == 2 * (4 + module.SPARE)
    assert engine.kv_tokens is None


def test_a_chain_stays_where_its_prefix_is_and_new_ones_go_where_there_is_less_to_do(engine):
    def where():
        return {asked.request_id: asked.worker.number for asked in engine._asked.values()}

    engine.submit(1, question("A long text about boats. " * 9))
    engine.submit(2, question("Short."))
    engine.submit(3, question("Short too."))
    before = where()
    assert before[1] != before[2] == before[3]
    went_on = set()
    while len(went_on) < 3:
        for number, _ in engine.step():
            engine.submit(number, question("The next one. " * 30))
            assert where()[number] == before[number]
            engine.abort([number])
            went_on.add(number)


def test_an_aborted_request_is_forgotten_and_its_id_free(engine):
    expected = answers(ScriptedEngine(), {0: question("The second text, of one sentence.")})
    for _ in range(20):
        engine.submit(0, question("The first text is another one."))
        engine.abort([0, 7])
        assert answers(engine, {0: question("The second text, of one sentence.")}) == expected


def test_what_is_logged_and_what_fails_there_is_said_here(monkeypatch, caplog):
    code = """
import logging
from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine
step = ScriptedEngine.step
def failing(self):
    logging.getLogger("far").warning("it grows hot")
    raise EngineError("the device failed {here}")
ScriptedEngine.step = failing
"""
    before_it_starts(monkeypatch, code)
    monkeypatch.setattr(module, "MAX_RESTARTS", 0)
    engine = engine_of(1)
    with pytest.raises(EngineError, match=r"all 1 workers died, worker 1 as the last: the device failed \{here\}"):
        answers(engine, {0: question("One.")})
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "worker 1: it grows hot"
    assert "ended with exit status 1; it said last: the device failed {here}" in said[1]
    assert engine.pids == []


# Killed


def test_a_killed_worker_costs_nothing_but_time(corpus, whole, tmp_path, monkeypatch, caplog):
    gone = []

    def kill(engine, n):
        if n == 9:
            gone.append(engine.pids[1])
            os.kill(gone[0], signal.SIGKILL)

    at_steps(monkeypatch, kill)
    run(corpus, tmp_path / "out")
    assert snapshot(tmp_path / "out") == whole
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith(
        "worker 2 of 2 was killed by SIGKILL, as the system does when memory runs out; it said not"
    )
    assert "is started again (1 of at most 2 times)" in warning
    assert not is_alive(gone[0])


def test_a_worker_is_started_again_twice_and_then_the_others_do_it(monkeypatch, caplog):
    engine = engine_of()
    expected = answers(ScriptedEngine(), {n: question(f"Text {n}.") for n in range(4)})
    for times in (1, 2, 3):
        pid = engine._workers[0].process.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not is_alive(pid))
        assert answers(engine, {n: question(f"Text {n}.") for n in range(4)}) == expected
        assert len(engine.pids) == (2 if times < 3 else 1)
        while times < 3 and not engine._workers[0].is_ready:
            engine.submit(0, question("Text 0."))
            engine.step()
    assert ["again" in record.getMessage() for record in caplog.records] == [True] * 3
    assert "and is not started again" in caplog.records[-1].getMessage()
    engine.close()


def test_all_killed_is_one_line_and_the_run_goes_on(corpus, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["augment", corpus, str(out), "--engine", "scripted", "--shots", "3", "--max-new-tokens", "300"]
    arguments += [
        "--max-model-len",
        "900",
        "--rows-per-shard",
        "100",
        "--workers",
        "2",
        "--engine-option",
        "max_requests=4",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_RESTARTS", 1)
        at_steps(patch, lambda engine, n: [os.kill(pid, signal.SIGKILL) for pid in engine.pids if n % 8 == 0])
        assert main(arguments) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ipt: ")]
    assert "all 2 workers died" in line
    assert "it was killed by SIGKILL" in line
    assert "go on with --resume" in line
    assert (out / JOURNAL).stat().st_size > 1000
    assert main([*arguments, "--resume", "--workers", "1"]) == 0
    assert snapshot(out) == whole


def test_what_an_engine_forked_neither_hides_its_death_nor_outlives_it(monkeypatch, tmp_path, caplog):
    code = f"""
import os, subprocess, time
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine
begin = ScriptedEngine.__init__
def forking(self, *args, **options):
    begin(self, *args, **options)
    child = os.fork()
    if not child:
        time.sleep(1000)
    with open({str(tmp_path / "forked")!r}, "a") as file:
        print(child, subprocess.Popen(["sleep", "1000"]).pid, file=file)
ScriptedEngine.__init__ = forking
"""
    before_it_starts(monkeypatch, code)
    monkeypatch.setattr(module, "MAX_RESTARTS", 0)
    engine = engine_of()
    forked = [int(pid) for pid in (tmp_path / "forked").read_text().split()]
    assert len(forked) == 4
    assert all(map(is_alive, forked))
    os.kill(engine.pids[0], signal.SIGKILL)
    wait_until(lambda: len(engine.pids) == 1 or (engine.submit(0, question("One.")), engine.step()) is None)
    wait_until(lambda: sum(map(is_alive, forked)) == 2)
    engine.close()
    wait_until(lambda: not any(map(is_alive, forked)))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_no_worker_outlives_the_run(tmp_path, number, status):
    source = write_rows(tmp_path / "in.jsonl", texts(300) * 4)
    out = tmp_path / "out"
    options = ["--engine", "scripted", "--workers", "2", "--engine-option", "max_requests=1"]
    command = [sys.executable, "-m", "ipt_datasets.cli", "augment", source, str(out), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (out / JOURNAL).exists() and (out / JOURNAL).stat().st_size > 3000)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    workers = [pid for pid in children if b"worker_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    process.send_signal(number)
    said = process.communicate()[0]
    assert process.returncode == status, said
    assert "Traceback" not in said
    wait_until(lambda: not any(map(is_alive, workers)))
    if number == signal.SIGKILL:
        assert main([*command[3:], "--resume", "--workers", "1"]) == 0
        assert main(["augment", source, str(tmp_path / "one"), "--engine", "scripted"]) == 0
        assert snapshot(out) == snapshot(tmp_path / "one")


def test_a_worker_that_does_not_listen_is_killed_at_the_end(monkeypatch):
    monkeypatch.setattr(module, "CLOSING_SECONDS", 0.3)
    engine = engine_of(1)
    pids = engine.pids
    os.kill(pids[0], signal.SIGSTOP)
    engine.close()
    assert not any(map(is_alive, pids))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.step()


def test_an_engine_that_nobody_closed_ends_its_processes():
    engine = engine_of(1)
    pids = engine.pids
    del engine
    gc.collect()
    wait_until(lambda: not any(map(is_alive, pids)))


# What cannot start


def test_what_a_worker_cannot_load_is_said_before_anything_is_written(corpus, tmp_path, capsys, monkeypatch):
    before_it_starts(monkeypatch, "from ipt_datasets.synthesis.engines import scripted; scripted.ScriptedEngine = None")
    arguments = ["augment", corpus, str(tmp_path / "out"), "--engine", "scripted", "--workers", "2"]
    assert main(arguments) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ipt: ")]
    assert "of 2 cannot start: TypeError: " in line
    assert "'NoneType'" in line
    assert not (tmp_path / "out" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "it was killed by SIGKILL, as the system does when memory runs out$",
        ),
        (
            "import sys; print('fine'); sys.exit('no luck today')",
            "it ended with exit status 1 and said last: no luck today",
        ),
    ],
)
def test_a_worker_that_dies_as_it_starts_is_an_error(monkeypatch, code, says):
    before_it_starts(monkeypatch, code)
    with pytest.raises(EngineError, match=rf"worker [12] of 2 cannot start: {says}"):
        engine_of()


@pytest.mark.parametrize("workers", [0, -2, 1.5, None])
def test_no_number_of_workers(workers):
    with pytest.raises(RecipeError, match="expected a whole number of at least 1"):
        Synthesizer(engine="scripted", workers=workers)


def test_zero_workers_on_the_command_line(corpus, tmp_path, capsys):
    assert main(["augment", corpus, str(tmp_path / "out"), "--engine", "scripted", "--workers", "0"]) == 1
    assert capsys.readouterr().err.startswith("ipt: workers=0: expected")
    assert not (tmp_path / "out").exists()


def test_engines_that_cannot_be_started_several_times():
    with pytest.raises(RecipeError, match="not an engine object"):
        Synthesizer(engine=ScriptedEngine(), workers=2)
    with pytest.raises(RecipeError, match="give it more servers"):
        Synthesizer(engine="server", servers=["http://127.0.0.1:1/v1"], workers=2)
    with pytest.raises(RecipeError, match="plain values"):
        Synthesizer(engine="scripted", workers=2, engine_options={"script": lambda text: text}).open()


# Devices


def devices(workers, options=None, engine="vllm"):
    return [own.get("CUDA_VISIBLE_DEVICES") for own in processes.environments(workers, engine, options or {})]


@pytest.mark.parametrize(
    ("named", "count", "shown"),
    [(None, 4, ["0", "1", "2", "3"]), ("6, GPU-8a,2", 3, ["6", "GPU-8a", "2"]), ("1,-1,0", 1, ["1"]), (None, 0, [])],
)
def test_the_gpus_that_this_process_may_see(monkeypatch, named, count, shown):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert processes._visible_gpus() == shown


def test_each_worker_has_gpus_of_its_own(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "_visible_gpus", lambda: ["4", "5", "GPU-a", "GPU-b"])
    assert devices(4) == ["4", "5", "GPU-a", "GPU-b"]
    assert devices(2, engine="transformers") == ["4", "5"]
    assert devices(2, {"tensor_parallel_size": 2}) == ["4,5", "GPU-a,GPU-b"]
    assert devices(9, engine="scripted") == [None] * 9
    with pytest.raises(RecipeError, match=r"workers=5: a worker takes one GPU and there are 4 here; .* workers=4"):
        devices(5)
    with pytest.raises(RecipeError, match=r"takes 2 GPUs .* give at most workers=2"):
        devices(3, {"tensor_parallel_size": 2})
    with pytest.raises(RecipeError, match=r"takes 8 GPUs .* give smaller ones"):
        devices(2, {"tensor_parallel_size": 4, "pipeline_parallel_size": 2})
    monkeypatch.setattr(processes, "_visible_gpus", lambda: [])
    assert devices(3) == [None] * 3


@pytest.mark.parametrize(("asked", "threads"), [(None, "4"), ("2", "2"), ("16", "4"), ("x", "4")])
def test_the_cores_are_shared_out(monkeypatch, asked, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    made = processes.environments(2, "scripted", {})
    assert [own["OMP_NUM_THREADS"] for own in made] == [threads] * 2
    assert not any("LOCAL_RANK" in own for own in made)
    assert all(own["PATH"] == os.environ["PATH"] for own in made)
    assert processes.environments(20, "scripted", {})[19]["OMP_NUM_THREADS"] == "1"


# Launchers


class Arguments:
    def __init__(self, workers=1, shard=None, engine="auto"):
        self.workers, self.shard, self.engine = workers, shard, engine


def launched(monkeypatch, rank, here, everywhere):
    for name, value in {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": here, "WORLD_SIZE": everywhere}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("given", "workers"), [(Arguments(), 3), (Arguments(2), 2), (Arguments(engine="server"), 1)])
def test_a_launchers_processes_become_the_workers_of_the_first(monkeypatch, capsys, given, workers):
    launched(monkeypatch, 0, 3, 3)
    assert not is_led_elsewhere(given)
    assert given.workers == workers
    launched(monkeypatch, 1, 3, 3)
    assert is_led_elsewhere(given)
    assert "--workers 3" in capsys.readouterr().err


def test_a_launcher_over_several_machines_needs_shards(monkeypatch):
    launched(monkeypatch, 0, 2, 4)
    with pytest.raises(RecipeError, match="--shard I/N"):
        is_led_elsewhere(Arguments())
    given = Arguments(shard=(1, 2))
    assert not is_led_elsewhere(given)
    assert given.workers == 2


def test_a_command_of_its_own_leads(monkeypatch):
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    given = Arguments()
    assert not is_led_elsewhere(given)
    assert given.workers == 1


# Real models


NOTES = [
    "The Dead Sea is a salt lake between Jordan and Israel. Its surface lies about 430 metres below sea level.",
    "Basalt is a dark volcanic rock that forms when lava rich in iron and magnesium cools quickly.",
    "Saffron is a spice made from the dried stigmas of a crocus. Each flower bears only three of them.",
    "A lighthouse warns ships of rocks and shallow water, mostly with a lamp that turns.",
    "The tide rises and falls twice a day, because the moon pulls at the sea.",
    "Granite is a coarse rock that forms deep below the ground.",
]


@pytest.mark.slow
def test_models_in_workers_write_what_one_model_writes(smol, monkeypatch, caplog):
    """In float32, where what else is in a batch decides no tie, and with a fifth of its layers."""
    options = {"dtype": "float32", "num_hidden_layers": 6, "batch_size": 2}
    how = {"model": "smol", "engine": "transformers", "shots": 2, "max_new_tokens": 24, "max_model_len": 1024}
    with Synthesizer(**how, engine_options=options) as one:
        expected = list(one.synthesize(NOTES))
    sizes = one.recipe
    killed = []

    def kill(engine, n):
        if n == 2:
            assert all("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in engine.pids)
            killed.append(engine.pids[0])
            os.kill(killed[0], signal.SIGKILL)

    at_steps(monkeypatch, kill)
    with Synthesizer(**how, engine_options=options, workers=2) as two:
        assert two.recipe == sizes
        rows = list(two.synthesize(NOTES))
        assert killed[0] not in two.engine.pids
        assert two.engine.max_model_len == 1024
    assert rows == expected
    assert len({row.shots[0].completion for row in rows}) > 1
    assert any("was killed by SIGKILL" in record.getMessage() for record in caplog.records)


LAUNCHERS = {
    # As for two GPUs: told --cpu, it starts one process whatever the number.
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"],
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_real_launcher_gives_one_run_with_its_processes_as_workers(smol, tmp_path, launcher):
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": note}) + "\n" for note in NOTES))
    options = [f"--engine-option={name}" for name in ("dtype=float32", "num_hidden_layers=4", "batch_size=2")]
    given = ["--engine", "transformers", "--max-new-tokens", "24", *options]

    def run(output, launch):
        command = [sys.executable, *launch, "-m", "ipt_datasets.cli", "augment"]
        command += [str(tmp_path / "notes.jsonl"), str(tmp_path / output), *given]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return done

    alone = run("alone", [])
    launched_ = run("launched", ["-m", *LAUNCHERS[launcher]])
    assert "one process leads, this one ends" in launched_.stderr
    assert "raw texts ->" in launched_.stdout
    assert launched_.stdout.count("raw texts ->") == alone.stdout.count("raw texts ->") == 1
    for name in ("pairs", "text"):
        files = [next((tmp_path / output / name).glob("*.parquet")) for output in ("alone", "launched")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_killed_worker_takes_what_vllm_started_with_it(smol, monkeypatch):
    pytest.importorskip("vllm")
    monkeypatch.setattr(module, "MAX_RESTARTS", 0)
    recipe = Synthesizer(model="smol", engine="vllm", max_model_len=1024).recipe
    engine = WorkersEngine(recipe, smol, None, {"max_num_seqs": 4, "kv_cache_memory_bytes": 2**28}, 1)
    try:
        assert engine.kv_tokens > 1024
        ids = [engine.tokenizer.bos_id, *engine.tokenizer.encode(NOTES[0])]
        assert len(answers(engine, {0: Request(ids, 8)})[0].token_ids) == 8
        group = {pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if group_of(pid) == engine.pids[0]}
        assert len(group) > 1
        os.kill(engine.pids[0], signal.SIGKILL)
        engine.submit(0, Request(ids, 900))
        with pytest.raises(EngineError, match="was killed by SIGKILL"):
            engine.step()
        wait_until(lambda: not any(map(is_alive, group)))
    finally:
        engine.close()


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
