"""The suite itself: that it runs, compares what took turns and writes it down. Nothing about how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figure, alternate, compare, in_child, table
from tests.benchmarks.host_stages import HostPath
from tests.benchmarks.steps import prepare

ROOT = Path(__file__).parent.parent


def test_ways_take_turns_and_each_begins_once():
    order = []
    found = alternate({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_figure_is_the_median_of_ratios_not_the_ratio_of_medians():
    # A round in which the machine was busy is slow on both sides.
    one = compare("part", "what", "seconds", [1.0, 30.0, 4.0], [1.0, 10.0, 2.0], "floor", at_most=2.0)
    assert (one.ours, one.beside, one.ratio, one.rounds) == (4.0, 2.0, 2.0, 3)
    assert one.goal == "<= 2: reached"
    assert compare("p", "w", "s", [3.0], [1.0], "f", at_most=2.0).goal == "<= 2: missed"
    assert compare("p", "w", "s", [3.0], [1.0], "f", at_least=4.0).goal == ">= 4: missed"
    assert compare("p", "w", "s", [3.0], [1.0], "f").goal == ""


def test_the_table_has_one_row_a_figure():
    rows = table([Figure("host", "whole", "seconds", 1234.5, 0.5, "floor", 2469.0, at_least=1)]).splitlines()
    assert rows[2] == "| host: whole, seconds | 1,234 | 0.5 (floor) | 2469.00 | >= 1: reached |"


def test_the_host_path_is_that_of_augment(smol_tokenizer, tmp_path):
    path = HostPath(12, smol_tokenizer, tmp_path)
    for stage in path.stages().values():
        stage()
    path.floor()
    tokenizer = path.watched_tokenizer()
    seconds = path.augment_with(tokenizer)
    assert 0 < tokenizer.seconds < seconds
    assert path.whole() > 0
    assert path.apart() > 0
    assert path.tokens > 12 * 100
    statuses = {row.status for row in path.written}
    assert statuses == {"ok"}
    # Both ways in which a shot becomes history: as generated, and written anew without its broken piece.
    assert {bool(shot.rejected) for row in path.written for shot in row.shots} == {True, False}


def test_a_step_says_what_it_took(tmp_path):
    prepare(tmp_path, 6)
    took = in_child("tests.benchmarks.steps", "augment", str(tmp_path), cache=tmp_path / "cache")
    assert took["counted"] == 6
    assert took["peak_mib"] > 10
    assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError, match=r"tests.benchmarks.steps pack .* ended with 1"):
        in_child("tests.benchmarks.steps", "pack", str(tmp_path), cache=tmp_path / "cache")


def test_the_suite_prints_a_table_and_writes_json(tmp_path):
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "templating", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    written = json.loads(file.read_text("utf-8"))
    part = written["parts"]["templating"]
    assert written["quick"] is True
    assert len(part["figures"]) == 2
    assert part["machine"]["packages"]["ipt-datasets"]
    assert done.stdout.count("| templating: ") == 2


@pytest.mark.slow
def test_the_gpu_script_needs_nothing_but_torch_and_transformers(smol_tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, MistralConfig

    model, file = tmp_path / "model", tmp_path / "gpu.json"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=len(smol_tokenizer.tokenizer), num_key_value_heads=1, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    smol_tokenizer.tokenizer.save_pretrained(model)
    script = str(ROOT / "tests" / "benchmarks" / "gpu.py")
    given = ["--model", str(model), "--tiny", "--minutes", "0.02", "--batch-sizes", "2", "--json", str(file)]
    given += ["--completion-tokens", "3", "--max-new-tokens", "3"]
    blocked = dict.fromkeys(("datasets", "pyarrow", "vllm", "accelerate"))
    run = f"import runpy, sys; sys.modules.update({blocked!r}); sys.argv = {[script, *given]!r}; "
    subprocess.run([sys.executable, "-c", f"{run}runpy.run_path({script!r}, run_name='__main__')"], check=True)
    results = json.loads(file.read_text("utf-8"))["results"]
    assert [result["model"] for result in results] == ["model", "tiny"]
    assert all(result["raw_tokens_an_hour"] > 0 for result in results)
    assert all(result["completion_tokens"] <= 3 * result["texts"] for result in results)
