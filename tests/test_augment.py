"""`ipt augment` and `ipt templatize`: what they write, what they refuse, and that nothing is lost."""

import gc
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset

from ipt_datasets import Synthesizer, Templatizer, augment
from ipt_datasets.cli import main
from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.corpus.templatize import templatize
from ipt_datasets.errors import InputError, OutputError, RecipeError
from ipt_datasets.schema import SYNTHESIS_FEATURES, TEXT_FEATURES
from ipt_datasets.synthesis.engines.scripted import ScriptedEngine

TEXTS = [f"Note {n}. The harbour has {n} boats and {n * 7} ropes. Nobody counts them twice." for n in range(101)]


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "notes.jsonl"
    rows = [{"text": text, "id": f"n{n}", "tags": ["a", "b"][: n % 3]} for n, text in enumerate(TEXTS)]
    rows[7]["text"] = None
    rows[50]["text"] = "  "
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def ipt(*args, **options):
    return subprocess.run([sys.executable, "-m", "ipt_datasets.cli", *args], capture_output=True, text=True, **options)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.parquet"))
    }


def scripted(**settings):
    return Synthesizer(engine="scripted", **{"shots": 3, **settings})


def test_the_output_folder(corpus, tmp_path):
    made = augment(corpus, tmp_path / "out", scripted(), rows_per_shard=20, progress=False)
    assert {entry.name for entry in made.path.iterdir()} == {"README.md", "recipe.json", "pairs", "text", ".lock"}
    pairs = load_dataset(str(made.path), "pairs", split="train")
    source = load_dataset("json", data_files=corpus, split="train")
    assert pairs.features == scripted().features(source.features)
    assert pairs.select_columns(source.column_names).to_list() == source.to_list()  # input order, nothing lost
    assert Counter(pairs["status"]) == made.counts.statuses == {"ok": 99, "empty": 2}
    texts = load_dataset(str(made.path), split="train")  # "text" is the default config
    assert texts.features == TEXT_FEATURES
    assert len(texts) == made.counts.texts == 36  # the last chain of each shard is shorter
    assert all(texts["text"])
    shown = Counter(row for rows in texts["rows"] for row in rows)
    assert shown == Counter(id_ for id_, status in zip(pairs["id"], pairs["status"], strict=True) if status == "ok")
    for row in pairs:
        if row["status"] == "ok":
            assert sum(row["text"] in text for text in texts["text"]) == 1  # byte-exact, in one place
    assert sum(texts["n_pairs"]) == sum(map(len, pairs["pairs"])) == made.counts.n_pairs
    streamed = load_dataset(str(made.path), "pairs", split="train", streaming=True)
    assert sum(1 for _ in streamed) == 101


def test_the_card_adds_up(corpus, tmp_path):
    made = augment(corpus, tmp_path / "out", scripted(), progress=False)
    card = (made.path / "README.md").read_text()
    table = dict(re.findall(r"^\| ([^|]+?) \| ([\d,]+) \|$", card, re.MULTILINE))
    assert table["raw texts"] == "101"
    counted = {key.split(":")[0]: int(value.replace(",", "")) for key, value in table.items()}
    assert counted["ok"] + counted["empty"] == 101
    assert counted["pairs"] == counted["free-form"] + counted["multiple choice"] + counted["chain of thought"]
    recipe = json.loads((made.path / "recipe.json").read_text())
    assert recipe["synthesis"]["shots"] == 3
    assert recipe["input"]["source"] == corpus


def test_chains_end_where_shards_do(corpus, tmp_path):
    one = augment(corpus, tmp_path / "one", scripted(), progress=False)
    many = augment(corpus, tmp_path / "many", scripted(), rows_per_shard=7, progress=False)
    shards = OutputFolder(many.path).shards("pairs")
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [7] * 14 + [3]
    chains = [{shot["chain"] for row in pq.read_table(shard).to_pylist() for shot in row["shots"]} for shard in shards]
    assert sum(map(len, chains)) == len(set.union(*chains)) == 41
    before, after = (load_dataset(str(made.path), "pairs", split="train") for made in (one, many))
    assert (
        before.select_columns(["id", "text", "status"]).to_list()
        == after.select_columns(["id", "text", "status"]).to_list()
    )
    assert one.counts.texts == 33


def test_the_same_run_writes_the_same_bytes(corpus, tmp_path):
    for name in ("one", "two"):
        augment(corpus, tmp_path / name, scripted(), rows_per_shard=30, seed=5, progress=False)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    augment(corpus, tmp_path / "three", scripted(), Templatizer(seed=6), rows_per_shard=30, progress=False)
    assert digests(tmp_path / "three") != digests(tmp_path / "one")


def test_a_fraction_is_augmented_and_the_rest_passes_as_plain_text(tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"Text number {n}. It has two sentences."}) + "\n" for n in range(1000))
    )
    made = augment(str(file), tmp_path / "out", scripted(shots=2), fraction=0.2, progress=False, rows_per_shard=100)
    assert 150 < made.counts.statuses["ok"] < 250
    assert made.counts.statuses["not_selected"] == 1000 - made.counts.statuses["ok"]
    texts = load_dataset(str(made.path), split="train")
    plain = [row for row in texts if not row["n_pairs"]]
    assert len(plain) == made.counts.statuses["not_selected"]
    assert all(row["text"].startswith("Text number") for row in plain)
    shown = sorted(int(row) for rows in texts["rows"] for row in rows)
    assert shown == list(range(1000))  # without an id column, rows are named by their number in the corpus
    other = augment(str(file), tmp_path / "other", scripted(shots=2), fraction=0.2, seed=1, progress=False)
    before = load_dataset(str(made.path), "pairs", split="train")["status"][:]
    assert load_dataset(str(other.path), "pairs", split="train")["status"][:] != before


def test_shuffle_and_limit(corpus, tmp_path):
    made = augment(corpus, tmp_path / "out", scripted(), shuffle=True, seed=3, limit=40, progress=False)
    ids = load_dataset(str(made.path), "pairs", split="train")["id"][:]
    expected = load_dataset("json", data_files=corpus, split="train").shuffle(seed=3)["id"][:40]
    assert ids == expected != sorted(ids)


def test_duplicates_are_kept_as_often_as_they_came(tmp_path):
    file = tmp_path / "twice.jsonl"
    file.write_text(json.dumps({"text": TEXTS[1]}) + "\n" + (json.dumps({"text": TEXTS[2]}) + "\n") * 5)
    for shots in (1, 2, 3):
        made = augment(str(file), tmp_path / f"out{shots}", scripted(shots=shots), progress=False)
        texts = load_dataset(str(made.path), split="train")["text"][:]
        assert sum(text.count(TEXTS[2]) for text in texts) >= 5
        assert made.counts.rows == 6


def test_a_long_text_keeps_its_bytes(tmp_path):
    text = "  Leading space.\r\n\r\n" + "\n\n".join(f"Part {n}. " + "The sea is wide. " * 40 for n in range(9)) + "\n\t"
    Dataset.from_dict({"text": [text]}).to_parquet(tmp_path / "long.parquet")
    settings = {"max_model_len": 600, "max_new_tokens": 350}
    for policy in ("split", "truncate", "skip"):
        synthesizer = scripted(shots=20, long_texts=policy, **settings)
        made = augment(str(tmp_path / "long.parquet"), tmp_path / policy, synthesizer, progress=False)
        [row] = load_dataset(str(made.path), "pairs", split="train")
        assert row["text"] == text
        texts = load_dataset(str(made.path), split="train")["text"][:]
        assert len(texts) == 1
        at = 0
        ends = [shot["start"] for shot in row["shots"][1:]] + [len(text)]
        for shot, end in zip(row["shots"], ends, strict=False):
            at = texts[0].index(text[shot["start"] : end], at)
        if policy == "skip":
            assert texts[0] == text


def test_a_resumed_run_equals_an_undisturbed_one(corpus, tmp_path):
    whole = augment(corpus, tmp_path / "whole", scripted(), rows_per_shard=20, progress=False)

    class Tired(Exception):
        pass

    class TiresAfterTwoShards(Templatizer):
        calls = 0

        def __call__(self, batch):
            type(self).calls += 1
            if type(self).calls > 2:
                raise Tired
            return super().__call__(batch)

    broken = tmp_path / "broken"
    with pytest.raises(Tired):
        augment(corpus, broken, scripted(), TiresAfterTwoShards(), rows_per_shard=20, progress=False)
    assert len(OutputFolder(broken).shards("pairs")) == 2
    with pytest.raises(OutputError, match="already holds an unfinished run; go on with --resume"):
        augment(corpus, broken, scripted(), rows_per_shard=20, progress=False)
    with pytest.raises(OutputError, match=r"these differ: synthesis\.shots \(was 3, is 2\)"):
        augment(corpus, broken, scripted(shots=2), rows_per_shard=20, resume=True, progress=False)
    augment(corpus, broken, scripted(), rows_per_shard=20, resume=True, progress=False)
    assert digests(broken) == digests(whole.path)
    assert (broken / "README.md").read_text() == (whole.path / "README.md").read_text()


def test_resume_starts_in_an_empty_folder_and_checks_a_finished_one(corpus, tmp_path):
    out = tmp_path / "out"
    first = augment(corpus, out, scripted(), resume=True, progress=False)
    again = augment(corpus, out, scripted(), resume=True, progress=False)
    assert again.counts == first.counts
    (out / "text" / "train-00000.parquet").unlink()
    with pytest.raises(OutputError, match="its card says otherwise"):
        augment(corpus, out, scripted(), resume=True, progress=False)


def test_overwrite_replaces_only_what_a_run_wrote(corpus, tmp_path):
    out = tmp_path / "out"
    augment(corpus, out, scripted(), rows_per_shard=10, progress=False)
    with pytest.raises(OutputError, match="already holds a finished run"):
        augment(corpus, out, scripted(), progress=False)
    augment(corpus, out, scripted(), overwrite=True, progress=False)
    assert len(OutputFolder(out).shards("pairs")) == 1
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"no run wrote \(thesis\.tex\)"):
        augment(corpus, out, scripted(), overwrite=True, progress=False)
    assert (out / "thesis.tex").exists()


def test_a_folder_of_the_same_name_is_not_taken_for_another(tmp_path):
    # datasets caches a local folder by its name and its card.
    for number, text in enumerate(["The first corpus says this.", "The second corpus says that."]):
        (tmp_path / "in.jsonl").write_text(json.dumps({"text": text}) + "\n")
        out = tmp_path / str(number // 2) / "out"
        augment(str(tmp_path / "in.jsonl"), out, scripted(), overwrite=True, progress=False)
        assert text in load_dataset(str(out), split="train")["text"][0]
        assert load_dataset(str(out), "pairs", split="train")["text"][:] == [text]


def test_two_runs_never_share_a_folder(corpus, tmp_path):
    with OutputFolder(tmp_path / "out"), pytest.raises(OutputError, match="in use"):
        augment(corpus, tmp_path / "out", scripted(), progress=False)
    augment(corpus, tmp_path / "out", scripted(), progress=False)


def test_an_engine_that_cannot_be_built_leaves_the_folder_as_it_was(corpus, tmp_path):
    done = ipt("augment", corpus, str(tmp_path / "out"), "--model", "./nowhere")
    assert done.returncode == 1
    assert "no such folder" in done.stderr
    assert not [entry for entry in (tmp_path / "out").glob("*") if entry.name != ".lock"]
    assert ipt("augment", corpus, str(tmp_path / "out"), "--engine", "scripted").returncode == 0


def test_killed_in_the_middle_finished_shards_stay_whole(tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"Text number {n}. " + "It goes on. " * 60}) + "\n" for n in range(20_000))
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ipt_datasets.cli", "augment", str(file), str(out), "--engine", "scripted"]
    command += ["--rows-per-shard", "100"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(list(out.glob("pairs/train-*.parquet"))) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (out / "README.md").exists()
    for shard in out.glob("*/train-*.parquet"):
        assert pq.read_table(shard).num_rows > 0
    assert ipt(*command[3:], "--limit", "20000").returncode == 1  # neither flag: refused
    refused = ipt(*command[3:], "--resume", "--shots", "5")
    assert refused.returncode == 1
    assert "synthesis.shots (was 2, is 5)" in refused.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"Text number {n}. " + "It goes on. " * 60}) + "\n" for n in range(20_000))
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ipt_datasets.cli", "augment", str(file), str(out), "--engine", "scripted"]

    def heed_ctrl_c():  # a shell starts what runs in the background with the signal ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        [*command, "--rows-per-shard", "100"], stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    ) as process:
        while not list(out.glob("pairs/train-*.parquet")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "go on with: ipt augment" in said
    assert "--resume" in said
    assert "Traceback" not in said


def test_templatize_renders_anew_without_a_model(corpus, tmp_path):
    made = augment(corpus, tmp_path / "out", scripted(), rows_per_shard=20, progress=False)
    again = templatize(str(made.path), tmp_path / "same", Templatizer(seed=0), rows_per_shard=20, progress=False)
    other = templatize(str(made.path), tmp_path / "other", Templatizer(seed=1), rows_per_shard=33, progress=False)
    before, same, new = (load_dataset(str(path), split="train") for path in (made.path, again.path, other.path))
    assert same.to_list() == before.to_list()
    assert new["rows"][:] == before["rows"][:]
    assert new["text"][:] != before["text"][:]
    assert (again.texts, again.pairs) == (len(before), sum(before["n_pairs"]))
    shard = str(made.path / "pairs" / "*.parquet")
    assert ipt("templatize", shard, str(tmp_path / "shard")).returncode == 0
    with pytest.raises(InputError, match="no column 'pairs'"):
        templatize(corpus, tmp_path / "x", progress=False)


def test_source_columns_that_would_be_lost_are_refused(tmp_path):
    (tmp_path / "clash.jsonl").write_text('{"text": "a b", "status": "draft"}\n')
    with pytest.raises(InputError, match="already has columns named status"):
        augment(str(tmp_path / "clash.jsonl"), tmp_path / "out", scripted(), progress=False)


def test_a_corpus_without_any_text(tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"text": null}\n{"text": ""}\n')
    made = augment(str(tmp_path / "empty.jsonl"), tmp_path / "out", scripted(), progress=False)
    assert made.counts.statuses == {"empty": 2}
    # datasets refuses a map-style split without rows; as a stream it is what it is: empty.
    assert list(load_dataset(str(made.path), split="train", streaming=True)) == []
    assert load_dataset(str(made.path), "pairs", split="train").features["pairs"] == SYNTHESIS_FEATURES["pairs"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text-column", "body"], "no column 'body'"),
        (["--engine", "scripted", "--shots", "0"], "shots=0: expected a whole number of at least 1"),
        (["--engine", "scripted", "--fraction", "0"], "fraction=0.0: expected a number above 0"),
        (["--engine", "scripted", "--limit", "0"], "limit=0"),
        (["--engine", "scripted", "--max-model-len", "40", "--max-new-tokens", "39"], "leaves no room for text"),
        (["--engine", "scripted", "--split", "test"], "no split 'test'"),
        (["--engine", "scripted", "--engine-option", "x"], "expected KEY=VALUE"),
        (["--engine", "scripted", "--primer", "/nowhere.json"], "cannot be read as JSON"),
        (["--engine", "scripted", "--templates", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_bad_arguments_are_one_line_and_not_0(corpus, tmp_path, capsys, arguments, said):
    assert main(["augment", corpus, str(tmp_path / "out"), *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ipt: ")
    assert said in error


def test_usage_errors_exit_with_2(corpus, tmp_path):
    for arguments in (["augment", corpus], ["augment", corpus, "x", "--engine", "gguf"], ["fly"], []):
        assert ipt(*arguments).returncode == 2
    both = ipt("augment", corpus, str(tmp_path / "out"), "--resume", "--overwrite")
    assert both.returncode == 2


def test_input_that_is_not_there(tmp_path, capsys):
    assert main(["augment", str(tmp_path / "no.jsonl"), str(tmp_path / "out"), "--engine", "scripted"]) == 1
    assert "no such file" in capsys.readouterr().err


def test_an_input_that_breaks_in_the_middle_keeps_what_was_finished(tmp_path, capsys):
    file = tmp_path / "cut.jsonl"
    good = "".join(json.dumps({"text": text + " More of it." * 2000}) + "\n" for text in TEXTS)
    file.write_bytes(good.encode() * 8 + b'{"text": "caf\xe9"}\n')
    arguments = ["augment", str(file), str(tmp_path / "out"), "--engine", "scripted", "--rows-per-shard", "10"]
    assert main([*arguments, "--max-windows", "1"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cut.jsonl" in error
    assert "809" in error
    assert OutputFolder(tmp_path / "out").rows_done() > 0
    assert not (tmp_path / "out" / "README.md").exists()


def test_settings_are_checked_in_the_library_too(corpus, tmp_path):
    for settings in ({"fraction": 1.5}, {"limit": 0}, {"rows_per_shard": 0}):
        with pytest.raises(RecipeError):
            augment(corpus, tmp_path / "out", scripted(), progress=False, **settings)


def test_inspect_shows_texts_and_counts(corpus, tmp_path, capsys):
    main(["augment", corpus, str(tmp_path / "out"), "--engine", "scripted", "--limit", "12"])
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out"), "--samples", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n--- ") + out.startswith("--- ") == 2
    assert TEXTS[0] in out
    assert "12 raw texts" in out
    assert main(["inspect", str(tmp_path / "nothing")]) == 1


def test_what_was_there_before_is_out_of_collections_only_while_a_run_writes(corpus, tmp_path):
    frozen = []

    class Noting(ScriptedEngine):
        def step(self):
            frozen.append(gc.get_freeze_count())
            return super().step()

    augment(corpus, tmp_path / "a", Synthesizer(engine=Noting()), progress=False)
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() == 0
    gc.freeze()  # as somebody may have done for reasons of their own
    try:
        augment(corpus, tmp_path / "b", Synthesizer(engine=Noting()), progress=False)
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
