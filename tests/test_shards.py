"""`--shard I/N` and `ipt join`: many jobs write the corpus that one run writes, and nothing else is ever joined."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from forking import in_child
from hypothesis import given
from hypothesis import strategies as st
from test_durable import Counting, Disturbance, cheap_runs, die, texts, write_rows  # noqa: F401 (a fixture)

from ipt_datasets import Synthesizer, augment, publish
from ipt_datasets.cli import main
from ipt_datasets.corpus.folder import OutputFolder
from ipt_datasets.corpus.inspect import inspect_folder
from ipt_datasets.corpus.join import join
from ipt_datasets.corpus.share import Share
from ipt_datasets.errors import OutputError, RecipeError

ROWS = 46
CALLS = (*Disturbance.CALLS, "link", "mkdir")


@pytest.fixture
def corpus(tmp_path):
    return write_rows(tmp_path / "notes.jsonl", texts(ROWS))


def run(source, out, shard=None, **options):
    settings = {"shots": 3, "max_new_tokens": 300}
    options = {"rows_per_shard": 12, "progress": False, "resume": True, **options}
    return augment(source, out, Synthesizer(engine=Counting(), **settings), shard=shard, **options)


def content(folder):
    """Give the shards and the recipe of a corpus, and its card but for the line about joining."""
    names = ("text/*.parquet", "pairs/*.parquet", "recipe.json")
    files = {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.glob(name)}
    card = (folder / "README.md").read_text()
    return {**files, "README.md": re.sub(r"\| joined from \| \d+ shards \|\n", "", card)}


def names(folder):
    return {entry.name for entry in folder.iterdir()} - {".lock"}


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 13))
def test_shares_cover_an_input_once(total, count, block_rows):
    rows = [{"number": number} for number in range(total)]
    shares = [Share(index, count, block_rows) for index in range(count)]
    taken = [[row["number"] for row in share.take(rows)] for share in shares]
    assert sorted(number for numbers in taken for number in numbers) == list(range(total))
    for share, numbers in zip(shares, taken, strict=True):
        assert numbers == [share.input_row(row) for row in range(share.rows_of(total))]
        # A block is whole: in the share's numbering, too, rows of different blocks are parted by a multiple.
        for (row, one), (_, next_one) in pairwise(enumerate(numbers)):
            assert (one // block_rows != next_one // block_rows) == ((row + 1) % block_rows == 0)


WAYS = {
    "plain": (3, {}),
    "one": (1, {}),
    "fraction": (2, {"fraction": 0.4, "seed": 3}),
    "shuffle": (2, {"shuffle": True, "seed": 5}),
    "limit": (4, {"limit": 31, "rows_per_shard": 7}),
    "more jobs than blocks": (6, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_joined_shards_are_what_one_run_writes(corpus, tmp_path, way):
    count, options = WAYS[way]
    whole = run(corpus, tmp_path / "whole", **options)
    out = tmp_path / "out"
    order = list(range(count))
    random.Random(way).shuffle(order)
    for index in order:
        made = run(corpus, out, (index, count), **options)
        assert made.path == out / "shards" / f"{index}-of-{count}"
    assert names(out) == {"shards"}
    joined = join(out)
    assert content(out) == content(whole.path)
    assert joined.counts == whole.counts
    assert names(out) == {"README.md", "recipe.json", "text", "pairs"}
    assert join(out).counts == whole.counts  # done: checked


def test_the_joined_folder_is_a_corpus_like_any_other(corpus, tmp_path, hub):
    out = tmp_path / "out"
    for index in range(3):
        run(corpus, out, (index, 3), limit=40)
    # What one job wrote is a corpus as well.
    part = load_dataset(str(out / "shards" / "1-of-3"), "pairs", split="train")
    assert part["number"][:] == list(range(12, 24))
    joined = join(out)
    pairs = load_dataset(str(out), "pairs", split="train")
    assert pairs["number"][:] == list(range(40))
    shown = load_dataset(str(out), split="train")["rows"][:]
    assert sorted(int(row) for rows in shown for row in rows if rows) == [n for n in range(40) if texts(ROWS)[n]]
    assert inspect_folder(out).counts == joined.counts
    assert "| joined from | 3 shards |" in (out / "README.md").read_text()
    done = publish(out, "me/notes", endpoint=hub.endpoint)
    assert dict(done.rows) == {"text": joined.counts.texts, "pairs": 40}
    grown = run(corpus, out)  # without a limit now
    assert grown.counts.rows == ROWS


def test_jobs_at_the_same_time_one_killed(tmp_path):
    rows = [f"Text number {n}. " + "It goes on. " * 60 for n in range(600)]
    source, out = write_rows(tmp_path / "notes.jsonl", rows), tmp_path / "out"
    command = [sys.executable, "-m", "ipt_datasets.cli", "augment", source, str(out), "--engine", "scripted"]
    command += ["--rows-per-shard", "50", "--resume"]
    first, second = (
        subprocess.Popen([*command, "--shard", f"{index}/2"], stderr=subprocess.PIPE, text=True) for index in (0, 1)
    )
    while not list(out.glob("shards/1-of-2/pairs/train-*.parquet")) and second.poll() is None:
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    first.communicate()
    second.communicate()
    assert (first.returncode, second.returncode) == (0, -signal.SIGKILL)
    with pytest.raises(OutputError, match=r"of 2 shards 1/2 are missing or not finished; run for each: ipt augment"):
        join(out)
    assert names(out) == {"shards"}
    done = subprocess.run([*command, "--shard", "1/2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"ipt join {out}" in done.stdout
    assert main(["join", str(out)]) == 0
    whole = augment(source, tmp_path / "whole", Synthesizer(engine="scripted"), rows_per_shard=50, progress=False)
    assert content(out) == content(whole.path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three finished shards of one input, and what they should become."""
    base = tmp_path_factory.mktemp("written")
    source = write_rows(base / "notes.jsonl", texts(ROWS))
    for index in range(3):
        run(source, base / "out", (index, 3))
    whole = run(source, base / "whole")
    return source, base / "out", content(whole.path)


@pytest.fixture
def out(written, tmp_path):
    return shutil.copytree(written[1], tmp_path / "out")


def test_a_join_that_is_killed_anywhere_can_be_done_again(written, tmp_path):
    _, shards, whole = written

    def killed(out, at, phase):
        def work():
            Disturbance(at, phase, die, CALLS).install(pytest.MonkeyPatch())
            join(out)

        return in_child(work) != 0

    counted = shutil.copytree(shards, tmp_path / "counted")
    with pytest.MonkeyPatch.context() as patch:
        calls = Disturbance(0, "", die, CALLS).install(patch)
        join(counted)
    assert calls.n > 40
    draw = random.Random("join")
    points = [(at, phase) for at in range(1, calls.n + 1) for phase in ("before", "middle", "after")]
    kills = 0
    for at, phase in draw.sample(points, 30):
        out = shutil.copytree(shards, tmp_path / f"{at}-{phase}")
        kills += killed(out, at, phase)  # but not "after" a mkdir of a folder that is there
        if not (out / "README.md").exists():
            with pytest.raises(OutputError):  # half a corpus is never taken for one
                OutputFolder(out).check({}, resume=True)
        join(out)
        assert content(out) == whole, f"killed {phase} call {at}"
        assert names(out) == {"README.md", "recipe.json", "text", "pairs"}
        shutil.rmtree(out)
    assert kills > 20


def test_without_hard_links_shards_are_copied(written, out, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    join(out)
    assert content(out) == written[2]


def test_what_is_missing_is_named_with_its_command(written, out, capsys):
    shutil.rmtree(out / "shards" / "0-of-3")
    (out / "shards" / "2-of-3" / "README.md").unlink()
    before = {str(path) for path in out.rglob("*")}
    assert main(["join", str(out)]) == 1
    said = capsys.readouterr().err
    assert "of 3 shards 0/3, 2/3 are missing or not finished; run for each: ipt augment " in said
    assert re.search(r" out --rows-per-shard 12 .*--shots 3 .*--shard 0/3 --resume\n$", said.replace(str(out), "out"))
    assert {str(path) for path in out.rglob("*")} - before <= {str(out / ".lock")}


def edit_recipe(folder, change):
    recipe = json.loads((folder / "recipe.json").read_text())
    change(recipe)
    (folder / "recipe.json").write_text(json.dumps(recipe))


def drop_row(folder):
    """Take the last row out of a shard, and let the card say so."""
    shard = sorted(folder.glob("pairs/*.parquet"))[-1]
    before = OutputFolder(folder)
    digest = before.digest("pairs")
    table = pq.read_table(shard)
    pq.write_table(table.slice(0, table.num_rows - 1), shard)
    card = folder / "README.md"
    card.write_text(card.read_text().replace(digest, before.digest("pairs")))
    before.close()


FAULTS = {
    "another recipe": (
        lambda shards: edit_recipe(shards / "1-of-3", lambda recipe: recipe["synthesis"].update(shots=2)),
        r"shards 0/3 and 1/3 have different recipes: synthesis\.shots \(was 3, is 2\)",
    ),
    "another input": (
        lambda shards: edit_recipe(shards / "2-of-3", lambda recipe: recipe["shard"].update(input="0" * 16)),
        r"shards 0/3 and 2/3 read different states of the input",
    ),
    "another shard": (
        lambda shards: edit_recipe(shards / "2-of-3", lambda recipe: recipe["shard"].update(index=1)),
        r"2-of-3 was not written as shard 2-of-3",
    ),
    "a gap": (
        lambda shards: drop_row(shards / "1-of-3"),
        r"do not cover one input: 0/3 has 22 of 45 rows, expected 21",
    ),
    "a shard is lost": (
        lambda shards: sorted(shards.glob("0-of-3/pairs/*"))[0].unlink(),
        r"the shards of config 'pairs' in .*0-of-3 are not those its README.md was written for",
    ),
    "two numbers": (lambda shards: (shards / "0-of-4").mkdir(), r"holds shards of 3 and of 4 jobs"),
    "a stranger": (lambda shards: (shards / "thesis").mkdir(), r"holds thesis, which is no shard"),
    "more": (lambda shards: (shards.parent / "thesis").mkdir(), r"holds more than shards \(thesis\)"),
    "no shards": (lambda shards: shutil.rmtree(shards), r"holds no shards/; write them with"),
    "empty": (lambda shards: [shutil.rmtree(one) for one in shards.iterdir()], r"shards is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_not_joined(out, fault):
    change, said = FAULTS[fault]
    change(out / "shards")
    with pytest.raises(OutputError, match=said):
        join(out)
    assert not {"README.md", "text", "pairs", "recipe.json"} & names(out)


def test_a_job_that_still_writes_is_waited_for(out):
    with OutputFolder(out / "shards" / "1-of-3"), pytest.raises(OutputError, match="1-of-3 is in use"):
        join(out)
    with pytest.raises(OutputError, match="is no folder"):
        join(out / "nowhere")


def test_shards_and_whole_corpora_do_not_mix(written, out):
    source = written[0]
    with pytest.raises(OutputError, match="holds the shards of a run in parts: make one corpus of them with `ipt join"):
        run(source, out)
    with pytest.raises(
        OutputError, match=r"0-of-3 is there, so this corpus was begun in another number of parts than 2"
    ):
        run(source, out, (0, 2))
    with pytest.raises(OutputError, match=r"these differ: input\.seed \(was 0, is 1\)"):
        run(source, out, (0, 3), seed=1)
    join(out)
    with pytest.raises(OutputError, match="already holds a finished corpus, so there is no shard 0/3 to write"):
        run(source, out, (0, 3))


def test_an_input_that_grew_between_jobs_is_noticed_and_mended(tmp_path):
    source = write_rows(tmp_path / "notes.jsonl", texts(ROWS)[:30])
    out = tmp_path / "out"
    run(source, out, (0, 2))
    write_rows(Path(source), texts(ROWS)[:30] + [f"New note {n}. It came late." for n in range(10)])
    run(source, out, (1, 2))
    with pytest.raises(OutputError, match="0/2 and 1/2 read different states of the input"):
        join(out)
    for index in (0, 1):
        run(source, out, (index, 2))
    assert join(out).counts.rows == 40
    assert load_dataset(str(out), "pairs", split="train")["number"][:] == list(range(40))


def test_a_job_without_rows_says_so_and_counts(written, tmp_path, caplog):
    dataset = load_dataset("json", data_files=written[0], split="train")
    dataset.to_parquet(tmp_path / "notes.parquet")  # its number of rows is known beforehand
    made = run(str(tmp_path / "notes.parquet"), tmp_path / "out", (5, 6))
    assert made.counts.rows == 0
    assert "is empty: its 46 rows make 4 blocks of 12" in caplog.text


@pytest.mark.parametrize("limit", [None, 10**6])  # a limit is taken for the number of rows that is not known
def test_a_job_that_turns_out_to_have_no_rows_says_so(written, tmp_path, caplog, limit):
    made = run(written[0], tmp_path / "out", (5, 6), limit=limit)
    assert made.counts.rows == 0
    assert caplog.text.count("shard 5/6 of") == 1
    assert "is empty: no row came to it; fewer jobs or a lower --rows-per-shard (12)" in caplog.text
    caplog.clear()
    run(written[0], tmp_path / "out", (0, 6), limit=limit)
    assert "is empty" not in caplog.text


@pytest.mark.parametrize("shard", ["3/3", "-1/3", "1", "a/b", "0/0", "1/", "/2"])
def test_a_shard_that_is_none_is_a_usage_error(corpus, tmp_path, shard, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["augment", corpus, str(tmp_path / "out"), f"--shard={shard}"])
    assert stopped.value.code == 2
    assert "expected I/N with I from 0 to N - 1" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="shard 3/3: expected"):
        run(corpus, tmp_path / "out", (3, 3))
    assert not (tmp_path / "out").exists()
