"""`publish`: what stands on a Hub afterwards: files, card, targets; and the command."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from publish_parts import REPO, header, holds, local_files, make_corpora, remote_shards, uploads, without_waiting

from ipt_datasets import MixSource, Synthesizer, Templatizer, augment, mix, pack
from ipt_datasets.cli import _parser, main
from ipt_datasets.corpus.publish import publish
from ipt_datasets.corpus.reproduce import reproducing_command
from ipt_datasets.corpus.templatize import templatize
from ipt_datasets.errors import OutputError


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return make_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    without_waiting(monkeypatch)


def test_what_stands_on_the_hub(hub, corpora):
    done = publish(corpora.old, "notes", license="cc-by-4.0", endpoint=hub.endpoint)
    head = hub.head(REPO)
    assert (done.repo_id, done.revision, done.commit, done.is_new) == (REPO, "main", head.oid, True)
    assert done.rows == {"text": 9, "pairs": 18}
    assert holds(head, corpora.old)
    assert head.files["recipe.json"].content == (corpora.old / "recipe.json").read_bytes()
    assert len(hub.repo(REPO).history()) == 2  # the empty repository, then everything at once
    data = header(head)
    assert [(config["config_name"], config.get("default")) for config in data["configs"]] == [
        ("text", True),
        ("pairs", None),
    ]
    counts = {info["config_name"]: info["splits"][0]["num_examples"] for info in data["dataset_info"]}
    assert counts == done.rows
    assert data["license"] == "cc-by-4.0"
    card = head.files["README.md"].content.decode()
    for said in (
        "| raw texts | 18 |",
        "## Licences",
        "## How varied",
        "## The first rows of `text`",
        'load_dataset("me/notes")',
    ):
        assert said in card
    samples = card.split("```json\n")[1].split("\n```")[0].splitlines()
    assert [json.loads(row)["n_pairs"] for row in samples] == pq.read_table(corpora.old / "text")[
        "n_pairs"
    ].to_pylist()[:5]
    assert "hf_writer" not in card


def test_reading_back_costs_little(hub, corpora, tmp_path):
    big = tmp_path / "big"
    shutil.copytree(corpora.old, big)
    rows = pq.read_table(big / "text" / "train-00000.parquet")
    texts = [f"{n} {os.urandom(300_000).hex()}" for n in range(len(rows))]
    pq.write_table(rows.set_column(0, "text", [texts]), big / "text" / "train-00000.parquet")
    card = big / "README.md"
    card.write_text(re.sub("description: content .*", "description: none", card.read_text()))
    publish(big, REPO, endpoint=hub.endpoint)
    assert (big / "text" / "train-00000.parquet").stat().st_size > 1_500_000
    assert sum(entry.sent for entry in hub.log if "/resolve/" in entry.line) < 500_000


def test_what_is_published_already_is_not_published_again(hub, corpora):
    first = publish(corpora.old, REPO, endpoint=hub.endpoint)
    hub.log.clear()
    second = publish(corpora.old, REPO, endpoint=hub.endpoint)
    assert second.commit == first.commit
    assert second.changed == second.deleted == ()
    assert not uploads(hub)
    assert not hub.requests("/commit/")


def test_a_newer_version_replaces_the_older_one_in_one_step(hub, corpora):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    done = publish(corpora.new, REPO, endpoint=hub.endpoint)
    assert set(done.deleted) == {"text/train-00002.parquet", "pairs/train-00002.parquet"}
    new, old, empty = hub.repo(REPO).history()
    assert holds(new, corpora.new)
    assert holds(old, corpora.old)
    assert not remote_shards(empty)


PROSE = "\n# My notes\n\nCollected by hand. *Do not lose this.*\n"


def test_a_persons_prose_and_other_configs_stay(hub, corpora):
    api = HfApi(endpoint=hub.endpoint, token="hf_writer")
    api.create_repo(REPO, repo_type="dataset")
    theirs = {"config_name": "raw", "data_files": [{"split": "train", "path": "raw/*.csv"}], "default": True}
    known = "pretty_name: My notes\nlanguage: de\nmine: [1, 2]\ntags: [harbour]"
    yaml = f"---\n{known}\nconfigs: {json.dumps([theirs])}\n---\n"
    files = {"README.md": (yaml + PROSE).encode(), "raw/a.csv": b"a\n1\n", "text/notes.txt": b"mine"}
    files |= {
        "text/my-notes.parquet": b"mine",
        "text/train-00000-of-00001.parquet": b"old",
        "text/x-00007.parquet": b"old",
    }
    api.create_commit(
        REPO, [CommitOperationAdd(*file) for file in files.items()], commit_message="mine", repo_type="dataset"
    )
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    publish(corpora.new, REPO, endpoint=hub.endpoint)
    head = hub.head(REPO)
    data, card = header(head), head.files["README.md"].content.decode()
    assert data["configs"][0] == theirs
    assert [config["config_name"] for config in data["configs"]] == ["raw", "text", "pairs"]
    assert sum("default" in config for config in data["configs"]) == 1
    assert (data["pretty_name"], data["language"], data["mine"]) == ("My notes", "de", [1, 2])
    assert data["tags"] == ["harbour", "instruction-pre-training", "synthetic", "ipt-datasets"]
    assert card.count(PROSE) == 1
    assert card.count("# Instruction-augmented texts") == 1
    assert "| raw texts | 10 |" in card
    assert head.files["raw/a.csv"].content == b"a\n1\n"
    assert head.files["text/notes.txt"].content == head.files["text/my-notes.parquet"].content == b"mine"
    assert not {"text/train-00000-of-00001.parquet", "text/x-00007.parquet"} & set(head.files)


def test_several_publications_share_a_repository(hub, corpora, tmp_path):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    again = templatize(str(corpora.old), tmp_path / "seed1", Templatizer(seed=1), progress=False).path
    done = publish(again, REPO, config_name="seed1", endpoint=hub.endpoint)
    head = hub.head(REPO)
    assert done.rows == {"seed1": 9}
    assert [config["config_name"] for config in header(head)["configs"]] == ["text", "pairs", "seed1"]
    assert [config.get("default") for config in header(head)["configs"]] == [True, None, None]
    assert head.files["seed1/recipe.json"].content == (again / "recipe.json").read_bytes()
    card = head.files["README.md"].content.decode()
    assert "`seed1/recipe.json`" in card
    assert len(remote_shards(head)) == 7


def test_targets(hub, corpora):
    publish(corpora.old, "lab/notes", private=True, endpoint=hub.endpoint)
    assert hub.repo("lab/notes").private
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    on_branch = publish(corpora.new, REPO, branch="try/1", endpoint=hub.endpoint)
    assert holds(hub.head(REPO, "try/1"), corpora.new)
    assert holds(hub.head(REPO), corpora.old)
    assert on_branch.url.endswith("/tree/try/1")
    with pytest.raises(OutputError, match="is public and a private one was asked for"):
        publish(corpora.new, REPO, private=True, endpoint=hub.endpoint)


def test_a_pull_request_is_opened_once(hub, corpora):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    first = publish(corpora.new, REPO, create_pr=True, endpoint=hub.endpoint)
    assert (first.revision, first.url) == ("refs/pr/1", f"{hub.endpoint}/datasets/{REPO}/discussions/1")
    assert holds(hub.head(REPO, "refs/pr/1"), corpora.new)
    assert holds(hub.head(REPO), corpora.old)
    assert publish(corpora.new, REPO, create_pr=True, endpoint=hub.endpoint).commit == first.commit
    assert len(hub.repo(REPO).pull_requests) == 1
    other = publish(corpora.many, REPO, create_pr=True, endpoint=hub.endpoint)
    assert other.revision == "refs/pr/2"


def test_a_dry_run_changes_nothing(hub, corpora):
    planned = publish(corpora.old, REPO, dry_run=True, endpoint=hub.endpoint)
    assert planned.is_new
    assert len(planned.changed) == 8
    assert not hub.api.repos
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    hub.log.clear()
    planned = publish(corpora.new, REPO, branch="main", dry_run=True, endpoint=hub.endpoint)
    assert set(planned.deleted) == {"text/train-00002.parquet", "pairs/train-00002.parquet"}
    assert not uploads(hub)
    assert len(hub.repo(REPO).commits) == 2


# -- the command


def ipt(capsys, *args):
    status = main(["publish", *map(str, args)])
    said = capsys.readouterr()
    return status, said.out, [line for line in said.err.splitlines() if line.startswith("ipt")]


def test_the_command(hub, corpora, capsys, monkeypatch):
    monkeypatch.setattr("ipt_datasets.corpus.publish.publish", functools.partial(publish, endpoint=hub.endpoint))
    status, said, _ = ipt(capsys, corpora.old, REPO, "--dry-run")
    assert (status, hub.api.repos) == (0, {})
    assert "would publish to me/notes, main (to be made): 8 new or changed files, 0 taken away" in said
    status, said, _ = ipt(capsys, corpora.old, REPO, "--branch", "b", "--message", "Hello", "--license", "mit")
    assert status == 0
    assert 'load_dataset("me/notes", "text", revision="b")' in said
    assert hub.head(REPO, "b").title == "Hello"
    assert "nothing changed" in ipt(capsys, corpora.old, REPO, "--branch", "b", "--license", "mit")[1]
    assert 'revision="refs/pr/1"' in ipt(capsys, corpora.old, REPO, "--pr")[1]
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    status, said, errors = ipt(capsys, corpora.old, REPO)
    assert (status, said) == (1, "")
    assert errors == ["ipt: the Hub does not take the token (401); log in anew with `hf auth login` or set HF_TOKEN"]


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(hub, corpora):
    command = [sys.executable, "-m", "ipt_datasets.cli", "publish", str(corpora.old), REPO]
    done = subprocess.run(command, env={**os.environ, **hub.environment()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "hf_writer" not in done.stdout + done.stderr
    command[-1] = "other/notes"
    done = subprocess.run(command, env={**os.environ, **hub.environment()}, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ipt: the token may not write to other/notes (403")


def test_ctrl_c_says_how_to_go_on(hub, corpora, capsys, monkeypatch):
    monkeypatch.setattr("ipt_datasets.corpus.publish.publish", functools.partial(publish, endpoint=hub.endpoint))
    monkeypatch.setattr(
        "ipt_datasets.corpus.hub_repo.HubRepo.tree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(SystemExit) as left:
        ipt(capsys, corpora.old, REPO)
    assert left.value.code == 130
    assert "publish again" in capsys.readouterr().err


def test_a_wrong_usage_exits_with_2():
    with pytest.raises(SystemExit) as left:
        _parser().parse_args(["publish", "folder", REPO, "--branch", "b", "--pr"])
    assert left.value.code == 2


@pytest.mark.parametrize("options", [{}, {"fraction": 0.5, "shuffle": True, "limit": 7, "seed": 3}])
def test_the_command_on_the_card_makes_the_same_corpus(corpora, tmp_path, options):
    source = str(corpora.old.parent / "notes.jsonl")
    seed = options.get("seed", 0)
    synthesizer = Synthesizer(engine="scripted", shots=3, max_pairs=2, long_texts="skip", seed=seed)
    made = augment(source, tmp_path / "a b", synthesizer, progress=False, **options)
    recipe = json.loads((made.path / "recipe.json").read_text())
    words = shlex.split(reproducing_command(recipe))
    assert words[:2] == ["ipt", "augment"]
    words[words.index("OUTPUT")] = str(tmp_path / "again")
    args = _parser().parse_args(words[1:])
    args.run(args)
    assert json.loads((tmp_path / "again" / "recipe.json").read_text()) == recipe
    assert local_files(tmp_path / "again") == local_files(made.path)


def test_the_command_of_a_templatized_corpus(corpora, tmp_path):
    made = templatize(str(corpora.old), tmp_path / "out", Templatizer(seed=4), progress=False)
    command = reproducing_command(json.loads((made.path / "recipe.json").read_text()))
    assert command == f"ipt templatize {corpora.old} OUTPUT --seed 4"


def test_mixed_and_packed_corpora(hub, corpora, tmp_path):
    texts, general = str(corpora.old), tmp_path / "general.jsonl"
    general.write_text(
        "".join(json.dumps({"question": f"How many {n}?", "response": str(n)}) + "\n" for n in range(50))
    )
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    sources = [MixSource("a", texts, 3), MixSource("b", str(general), 1, on_end="repeat", max_repeats=2)]
    mixed = mix(sources, tmp_path / "mixed", str(tokenizer), seed=3, progress=False).path
    packed = pack(str(mixed), tmp_path / "packed", str(tokenizer), length=32, progress=False).path
    for folder in (mixed, packed):
        recipe = json.loads((folder / "recipe.json").read_text())
        words = shlex.split(reproducing_command(recipe))
        assert folder == packed or "--rows-per-shard" not in words  # what was not given is not said
        words[words.index("OUTPUT")] = str(folder) + "-again"
        args = _parser().parse_args(words[1:])
        args.run(args)
        assert local_files(tmp_path / f"{folder.name}-again") == local_files(folder)
    assert publish(mixed, REPO, endpoint=hub.endpoint).rows == {"text": len(pq.read_table(mixed / "text"))}
    assert publish(packed, REPO, endpoint=hub.endpoint).rows == {"packed": len(pq.read_table(packed / "packed"))}
    head = hub.head(REPO)
    assert {
        "text/train-00000.parquet",
        "packed/train-00000.parquet",
        "recipe.json",
        "audit.json",
        "packed/recipe.json",
    } <= set(head.files)
    assert sum(config.get("default", False) for config in header(head)["configs"]) == 1
    card = head.files["README.md"].content.decode()
    assert card.count("## The command") == 2
    assert "ipt pack" in card
    assert "ipt mix" in card


def make_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["\n", *map(chr, range(32, 127))]
    vocabulary = {word: n for n, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


# -- loading back

LOADED = """
import sys
from datasets import load_dataset
for name in ("text", "pairs"):
    there = load_dataset("me/notes", name, split="train")
    here = load_dataset("parquet", data_files=f"{sys.argv[1]}/{name}/*.parquet", split="train")
    assert there.features == here.features
    assert there.to_list() == here.to_list()
    assert list(load_dataset("me/notes", name, split="train", streaming=True)) == here.to_list()
assert load_dataset("me/notes", split="train").column_names[:2] == ["text", "n_pairs"]
assert load_dataset("me/notes", revision="b")["train"].num_rows == 9
"""


def test_datasets_loads_what_was_published(hub, corpora):
    publish(corpora.old, REPO, endpoint=hub.endpoint)
    publish(corpora.old, REPO, branch="b", endpoint=hub.endpoint)
    code = [sys.executable, "-c", LOADED, str(corpora.old)]
    done = subprocess.run(code, env={**os.environ, **hub.environment()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
