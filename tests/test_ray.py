"""A real Ray on this machine, two actors: the same corpus as one run writes, also where an actor is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value

from ipt_datasets import Synthesizer, Templatizer, augment
from ipt_datasets.corpus import on_ray
from ipt_datasets.corpus.join import join
from ipt_datasets.corpus.on_ray import BlockWriter, augment_on_ray
from ipt_datasets.errors import EngineError, InputError, OutputError, RecipeError

ROOT = Path(__file__).parent.parent
ROWS = 47
SETTINGS = {"engine": "scripted", "shots": 3}


def rows():
    return [{"text": f"Note {n}. The harbour has {n} boats and {n * 7} ropes."} for n in range(ROWS)]


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return str(file)


@pytest.fixture(scope="module")
def ray():
    """A Ray of this machine alone, on loopback; conftest.py says who may use it."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets lie there: their names must be short
    ray = pytest.importorskip("ray")
    start(ray, folder)
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def start(ray, folder):
    for attempt in range(3):  # its own limit for starting, 20 s, cannot be set
        try:
            ray.init(
                num_cpus=4,  # where actors take all of them, what reads their input waits for ever
                include_dashboard=False,
                object_store_memory=100_000_000,
                _temp_dir=f"{folder}/{attempt}",
                _node_ip_address="127.0.0.1",
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == 2 or "timed out during startup" not in str(error):
                raise


def content(folder):
    names = ("text/*.parquet", "pairs/*.parquet", "recipe.json")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.glob(name)}


def slow_script(log, seconds=0.1, fails_on=None):
    """Give a script that answers as the scripted engine does, one text at a time, and writes down who did."""

    def script(text):
        import os
        import time

        from ipt_datasets.errors import EngineError
        from ipt_datasets.synthesis.engines.scripted import write_pairs
        from ipt_datasets.synthesis.markup import PAPER

        if fails_on and fails_on in text:
            raise EngineError("the engine burnt down")
        time.sleep(seconds)
        with open(f"{log}/{os.getpid()}", "a") as file:
            file.write(text.partition(".")[0] + "\n")
        return PAPER.render_pairs(write_pairs(text))

    log.mkdir(exist_ok=True)
    return {"script": script, "max_requests": 2}


def asked(log):
    return {int(file.name): file.read_text().splitlines() for file in log.iterdir()}


def test_without_ray_one_line_says_what_to_install(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r'Ray is not installed: run `pip install "ipt-datasets\[ray\]"`'):
        augment_on_ray(corpus, tmp_path / "out", Synthesizer(**SETTINGS))
    assert not (tmp_path / "out").exists()


def test_no_actors_are_refused(corpus, tmp_path):
    with pytest.raises(RecipeError, match="actors=0: expected"):
        augment_on_ray(corpus, tmp_path / "out", Synthesizer(**SETTINGS), actors=0)


def test_an_input_without_rows_is_one_line(tmp_path):
    empty = tmp_path / "empty.parquet"
    Dataset.from_dict({"text": []}, features=Features({"text": Value("string")})).to_parquet(empty)
    with pytest.raises(InputError, match="holds no rows"):
        augment_on_ray(str(empty), tmp_path / "out", Synthesizer(**SETTINGS))


def test_a_cluster_that_does_not_answer_is_one_line(corpus, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")

    def init():
        raise ConnectionError("Could not find any running\nRay instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(EngineError, match=r"reached \(Could not find any running Ray instance\.\).* RAY_ADDRESS"):
        augment_on_ray(corpus, tmp_path / "out", Synthesizer(**SETTINGS), progress=False)


def test_more_actors_than_blocks_are_said(monkeypatch, caplog):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    assert on_ray._pool_size(None, 0, 1, 3) == on_ray._pool_size(3, 0, 1, 3) == 3
    assert not caplog.text  # as many as there is room for were asked for
    assert on_ray._pool_size(5, 0, 1, 3) == 3
    [record] = caplog.records
    assert record.getMessage().startswith("actors=5: ")
    assert "3 blocks" in record.getMessage()


class BrokenBlocks:
    """Stands for Ray's data set of blocks, whose cluster breaks."""

    def __init__(self, error):
        self.error = error

    def map_batches(self, *_, **__):
        return self

    def iter_rows(self):
        raise self.error


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("NodeDiedError", r"^Ray failed \(NodeDiedError: the node is gone\); what was finished is kept"),
        ("ObjectStoreFullError", r"^Ray failed \(ObjectStoreFullError: .*\); what was finished is kept"),
        ("ActorDiedError", r"^actors died 4 times on one block: .*; what was finished is kept"),
    ],
)
def test_a_cluster_that_breaks_is_one_line(monkeypatch, kind, says):
    data, exceptions = (pytest.importorskip(f"ray.{name}") for name in ("data", "exceptions"))
    error = getattr(exceptions, kind)(*(["the node is gone"] if kind == "NodeDiedError" else []))
    monkeypatch.setattr(data, "from_items", lambda *_, **__: BrokenBlocks(error))
    with pytest.raises(EngineError, match=says) as raised:
        list(on_ray._write_all([on_ray.Share(0, 1, 8)], {}, 1))
    assert "\n" not in str(raised.value)


def test_blocks_in_any_order_make_the_same_corpus(corpus, tmp_path):
    """What an actor does, without Ray: it goes back in its input where a block of another's comes to it."""
    whole = augment(corpus, tmp_path / "whole", Synthesizer(**SETTINGS), rows_per_shard=8, progress=False)
    recipe = json.loads((whole.path / "recipe.json").read_text())
    job = {"output": str(tmp_path / "out"), "cwd": os.getcwd(), "given": recipe["input"], "engine_options": {}}
    actor = BlockWriter({**job, "synthesizer": Synthesizer(**SETTINGS), "templatizer": Templatizer()})
    for index in (0, 1, 4, 2, 2, 5, 3):
        assert actor({"index": [index], "count": [6]}) == {
            "index": [index],
            "count": [6],
            "error": [""],
            "message": [""],
        }
    assert join(tmp_path / "out").counts == whole.counts
    assert content(tmp_path / "out") == content(whole.path)
    (tmp_path / "out2").write_text("a file")
    actor = BlockWriter(
        {**job, "output": str(tmp_path / "out2"), "synthesizer": Synthesizer(**SETTINGS), "templatizer": Templatizer()}
    )
    [error], [message] = (actor({"index": [0], "count": [6]})[name] for name in ("error", "message"))
    assert error == "OutputError"
    assert "cannot be written" in message


@pytest.mark.slow
def test_chains_stay_whole_in_map_batches(ray):
    """Ray cuts batches inside its own blocks; blocks of as many rows as a batch keep them whole."""
    expected = Dataset.from_list(rows()).map(Synthesizer(**SETTINGS), batched=True, batch_size=12).to_list()
    source = ray.data.from_items(rows(), override_num_blocks=5)
    ray.data.DataContext.get_current().execution_options.preserve_order = True  # else blocks are joined as they come

    def synthesized(dataset):
        written = dataset.map_batches(
            Synthesizer,
            fn_constructor_kwargs=SETTINGS,
            batch_size=12,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        return sorted(written.take_all(), key=lambda row: int(row["text"].split()[1][:-1]))

    cut = synthesized(source)
    assert [row["status"] for row in cut] == ["ok"] * ROWS
    assert [row["shots"] for row in cut] != [row["shots"] for row in expected]
    assert synthesized(source.repartition(target_num_rows_per_block=12, strict=True)) == expected


@pytest.mark.slow
def test_an_actor_is_killed_and_the_corpus_is_whole(ray, corpus, tmp_path):
    whole = augment(corpus, tmp_path / "whole", Synthesizer(**SETTINGS), rows_per_shard=8, progress=False)
    log, out, killed = tmp_path / "log", tmp_path / "out", []

    def kill():
        while not killed:
            time.sleep(0.05)
            busy = [pid for pid, texts in asked(log).items() if len(texts) in range(3, 7)]
            if len(asked(log)) == 2 and busy:
                os.kill(busy[0], signal.SIGKILL)
                killed.append(busy[0])

    synthesizer = Synthesizer(**SETTINGS, engine_options=slow_script(log))
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    made = augment_on_ray(corpus, out, synthesizer, actors=2, rows_per_shard=8, progress=False)
    thread.join()
    assert killed
    assert content(out) == content(whole.path)
    assert made.counts == whole.counts
    assert "| joined from | 6 shards |" in (out / "README.md").read_text()
    texts = Counter(text for of_one in asked(log).values() for text in of_one)
    assert len(texts) == ROWS
    assert texts.total() <= ROWS + 2  # what the dead one had finished was in its journal
    with pytest.raises(OutputError, match="already holds a finished run; go on with --resume"):
        augment_on_ray(corpus, out, Synthesizer(**SETTINGS), rows_per_shard=8, progress=False)
    again = augment_on_ray(corpus, out, Synthesizer(**SETTINGS), rows_per_shard=8, resume=True, progress=False)
    assert again.counts == whole.counts


@pytest.mark.slow
def test_what_goes_wrong_in_an_actor_is_one_line_and_finished_blocks_are_kept(ray, corpus, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    burns = Synthesizer(**SETTINGS, engine_options=slow_script(log, seconds=0, fails_on="Note 45."))
    options = {"rows_per_shard": 8, "actors": 1, "progress": False}
    with pytest.raises(RecipeError, match="actors=5 of 0 GPUs and 1 CPUs each do not fit into the Ray cluster"):
        augment_on_ray(corpus, out, burns, **{**options, "actors": 5})
    with pytest.raises(EngineError, match=r"^the engine burnt down; what was finished is kept: go on with --resume$"):
        augment_on_ray(corpus, out, burns, **options)
    finished = [path.parent.name for path in out.glob("shards/*/README.md")]
    assert len(finished) == 5
    with pytest.raises(OutputError, match="already holds an unfinished run; go on with --resume"):
        augment_on_ray(corpus, out, burns, **options)
    with pytest.raises(OutputError, match=r"these differ: synthesis\.shots \(was 3, is 2\)"):
        augment_on_ray(corpus, out, Synthesizer(engine="scripted", shots=2), resume=True, **options)
    before = sum(map(len, asked(log).values()))
    mended = Synthesizer(**SETTINGS, engine_options=slow_script(log, seconds=0))
    augment_on_ray(corpus, out, mended, resume=True, **options)
    assert sum(map(len, asked(log).values())) - before <= 7  # of the last block alone
    whole = augment(corpus, tmp_path / "whole", Synthesizer(**SETTINGS), rows_per_shard=8, progress=False)
    assert content(out) == content(whole.path)


@pytest.mark.slow
def test_the_script(ray, corpus, tmp_path, hub):
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, str(ROOT / "hub_scripts" / "augment-with-ray.py"), corpus, "me/notes"]
    command += ["--engine", "scripted", "--shots", "3", "--rows-per-shard", "16", "--actors", "2"]
    environment = {**os.environ, **hub.environment("hf_writer"), "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} raw texts" in done.stdout
    assert "published to me/notes" in done.stdout
    whole = augment(corpus, tmp_path / "whole", Synthesizer(**SETTINGS), rows_per_shard=16, progress=False)
    published = {path: file.content for path, file in hub.head("me/notes").files.items() if path.endswith(".parquet")}
    assert published == {path: data for path, data in content(whole.path).items() if path.endswith(".parquet")}
