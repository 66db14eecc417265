"""Real trainings of a tiny random model: the loss falls, a killed one goes on exactly, the adapter loads."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from ipt_datasets.errors import EngineError, InputError, OutputError, RecipeError
from ipt_datasets.models.adapter import merge_adapter
from ipt_datasets.models.embedded import prepare_smol
from ipt_datasets.models.identity import locate
from ipt_datasets.schema import TASK_FEATURES, Pair
from ipt_datasets.tuning import loading, train
from ipt_datasets.tuning.folder import TuningFolder, is_whole
from ipt_datasets.tuning.plan import MASKED
from ipt_datasets.tuning.prepare import prepare
from ipt_datasets.tuning.settings import TuneSettings
from ipt_datasets.tuning.train import Running, tune

COLOURS = ["red", "blue", "green", "white", "black"]
SETTINGS = {"max_length": 160, "batch_tokens": 400, "lora_rank": 4, "lora_alpha": 8, "learning_rate": 0.02}
RUNNING = Running(forward_tokens=200, save_every=3, threads=1)


def task_rows(number=40):
    rows = [
        {
            "text": f"House {n} is {COLOURS[n % 5]}.",
            "pairs": [Pair(f"Which colour has house {n}?", COLOURS[n % 5]).to_row(0)] * (1 + n % 2),
            "task_set": "houses" if n % 4 else "others",
            "prompt": "",
            "completion": "",
        }
        for n in range(number)
    ]
    return Dataset.from_list(rows, features=TASK_FEATURES)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, smol):
    """A random llama of two small layers with the tokenizer of the embedded model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    shutil.copytree(smol, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    vocabulary = json.loads((smol / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    task_rows().to_parquet(path)
    return path


def prepared(tiny, *, validation=None, rows=None, **settings):
    given = {**SETTINGS, **({} if {"epochs", "max_tokens"} & set(settings) else {"max_steps": 9}), **settings}
    return prepare(str(tiny), rows or task_rows(), TuneSettings(**given), validation=validation)


@pytest.fixture(scope="session")
def undisturbed(tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    return tune(prepared(tiny, validation=task_rows(6)), output, RUNNING)


def weights(folder, name="adapter_model.safetensors"):
    return (Path(folder) / name).read_bytes()


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


def test_the_loss_falls_and_the_folder_is_whole(undisturbed):
    losses = [entry["loss"] for entry in undisturbed.log if "loss" in entry]
    held_out = [entry["held_out_loss"] for entry in undisturbed.log if "held_out_loss" in entry]
    assert len(losses) == 9
    assert losses[-1] < losses[0] - 0.05
    assert held_out[-1] < held_out[0] - 0.05
    there = {path.name for path in undisturbed.path.iterdir()}
    assert there == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "loss.png", "training_log.jsonl",
        "recipe.json", "checkpoints", ".lock",
    }  # fmt: skip
    log = [json.loads(line) for line in (undisturbed.path / "training_log.jsonl").open()]
    assert log == undisturbed.log
    assert [entry["tokens"] for entry in log if "loss" in entry] == undisturbed.plan.tokens[1:].tolist()
    card = (undisturbed.path / "README.md").read_text()
    assert "| houses |  |  | 30 |" in card
    assert "`ipt tune " in card
    assert (undisturbed.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((undisturbed.path / "recipe.json").read_text())["settings"]["lora_rank"] == 4


def test_the_loss_is_the_mean_over_the_learned_tokens_of_a_step(tiny, undisturbed):
    """The first step's loss, computed by transformers itself from one unpadded sequence after the other."""
    import torch
    from transformers import AutoModelForCausalLM

    from ipt_datasets.tuning.plan import encode_sequence

    given = prepared(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    total = learned = 0
    for sequence in given.plan.sequences(0):
        ids, labels = (torch.tensor([part]) for part in encode_sequence(given.shots, sequence))
        number = int((labels != MASKED).sum())
        total += float(model(input_ids=ids, labels=labels).loss.detach()) * number
        learned += number
    assert learned == given.plan.learned[1]
    first = next(entry["loss"] for entry in undisturbed.log if "loss" in entry)
    assert first == pytest.approx(total / learned, rel=2e-3)


def test_the_adapter_loads_and_merges_like_peft(tiny, undisturbed, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged_folder = merge_adapter(tiny, undisturbed.path, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(merged_folder, dtype="auto")
    assert merged.dtype == torch.bfloat16
    AutoTokenizer.from_pretrained(merged_folder)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, undisturbed.path).merge_and_unload().to(torch.bfloat16)
    before = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).state_dict()
    changed = 0
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, merged.state_dict()[name]), name
        changed += not torch.equal(weight, before[name])
    assert changed == 2 * 7  # all linear layers of both blocks


def test_a_tuned_folder_is_a_model(tiny, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("IPT_DATASETS_CACHE", str(tmp_path))
    from ipt_datasets import Synthesizer

    with Synthesizer(model=str(undisturbed.path), engine="transformers", shots=1, max_new_tokens=5) as synthesizer:
        [row] = synthesizer.synthesize(["House 7 is green."])
        assert row.shots[0].completion_tokens == 5
        assert synthesizer.recipe.revision.startswith("sha256:")
    [folder] = tmp_path.glob("merged-*")
    merge_adapter(tiny, undisturbed.path, tmp_path / "by hand")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "by hand" / "model.safetensors").read_bytes()


def test_an_adapter_that_does_not_fit_is_refused_and_leaves_nothing(tiny, undisturbed, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = json.loads((undisturbed.path / "adapter_config.json").read_text())
    tensors = load_file(undisturbed.path / "adapter_model.safetensors")
    save_file(
        tensors | {"base_model.model.other.lora_A.weight": tensors.popitem()[1].clone()},
        adapter / "adapter_model.safetensors",
    )
    for changed, said in (({}, "have no place"), ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "no plain LoRA")):
        (adapter / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(EngineError, match=said):
            merge_adapter(tiny, adapter, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


KILLED = """
import os, signal, sys
from pathlib import Path
from test_tuning_train import *
seal, number = TuningFolder.seal, [0]
def dying(self, checkpoint, before_decay):
    number[0] += 1
    if number[0] == 2:  # the files of the second checkpoint are written, nothing says that they are whole
        os.kill(os.getpid(), signal.SIGKILL)
    seal(self, checkpoint, before_decay)
TuningFolder.seal = dying
tune(prepared(Path(sys.argv[1]), validation=task_rows(6)), sys.argv[2], RUNNING)
"""


def test_a_killed_training_goes_on_exactly(tiny, undisturbed, tmp_path):
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tiny, output], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    checkpoints = sorted((output / "checkpoints").glob("checkpoint-*"))
    assert [is_whole(path) for path in checkpoints] == [True, False]
    assert not (output / "adapter_model.safetensors").exists()

    with pytest.raises(OutputError, match=r"holds an unfinished training; go on with --resume"):
        tune(prepared(tiny, validation=task_rows(6)), output, RUNNING)
    with pytest.raises(OutputError, match=r"settings.seed \(was 0, is 1\)"):
        tune(prepared(tiny, validation=task_rows(6), seed=1), output, RUNNING, resume=True)
    with pytest.raises(OutputError, match=r"rows.fingerprint"):
        tune(prepared(tiny, validation=task_rows(6), rows=task_rows(39)), output, RUNNING, resume=True)

    resumed = tune(prepared(tiny, validation=task_rows(6)), output, RUNNING, resume=True)
    assert resumed.log == undisturbed.log
    assert weights(output) == weights(undisturbed.path)
    again = tune(prepared(tiny, validation=task_rows(6)), output, RUNNING, resume=True)
    assert not again.is_new
    with pytest.raises(OutputError, match="holds a finished training"):
        tune(prepared(tiny, validation=task_rows(6)), output, RUNNING)


def test_a_truncated_checkpoint_is_not_used(tiny, undisturbed, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed.path, output)
    (output / "README.md").unlink()
    newest = max((output / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    os.truncate(newest / "optimizer.pt", 1000)
    resumed = tune(prepared(tiny, validation=task_rows(6)), output, RUNNING, resume=True)
    assert resumed.log == undisturbed.log
    assert weights(output) == weights(undisturbed.path)


def test_a_finished_training_is_prolonged_from_before_the_decay(tiny, undisturbed, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed.path, output)
    longer = tune(prepared(tiny, validation=task_rows(6), max_steps=14), output, RUNNING, resume=True)
    whole = tune(prepared(tiny, validation=task_rows(6), max_steps=14), tmp_path / "whole", RUNNING)
    losses = [[entry["loss"] for entry in tuned.log if "loss" in entry] for tuned in (longer, whole)]
    assert len(losses[0]) == 14
    assert losses[0] == losses[1]
    assert weights(output) == weights(tmp_path / "whole")


def test_a_training_with_another_schedule_is_not_prolonged(tiny, tmp_path):
    given = {"schedule": "cosine", "max_steps": 3}
    tune(prepared(tiny, **given), tmp_path / "out", RUNNING)
    with pytest.raises(OutputError, match="no checkpoint that one of 5 steps could go on from"):
        tune(prepared(tiny, **given | {"max_steps": 5}), tmp_path / "out", RUNNING, resume=True)


@pytest.mark.parametrize(
    ("lora_rank", "on_cpu", "has_bf16", "autocast"),
    [(4, True, True, True), (4, True, False, False), (4, False, True, False), (0, True, True, False)],
)
def test_an_adapter_is_tuned_in_16_bits_where_the_machine_computes_in_them(
    tiny, tmp_path, monkeypatch, lora_rank, on_cpu, has_bf16, autocast
):
    import torch
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(loading, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": has_bf16})
    whole = {"lora_rank": 0, "learning_rate": 0.002}
    given = prepared(tiny, **({} if lora_rank else whole))
    try:
        with TuningFolder(tmp_path / "out") as folder:
            args = train._arguments(given, folder, RUNNING)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # what trains next is told anew
    assert (args.use_cpu, args.bf16) == (on_cpu, autocast)
    model = loading.load_model(given, None, False, False)
    casts = {one.cast_input_dtype_enabled for one in model.modules() if hasattr(one, "cast_input_dtype_enabled")}
    assert casts == ({not on_cpu} if lora_rank else set())
    assert (model.config._attn_implementation == "eager") is (on_cpu and has_bf16)
    assert model.get_input_embeddings().weight.dtype == (
        torch.bfloat16 if lora_rank and not (on_cpu and not has_bf16) else torch.float32
    )


def test_a_training_goes_on_from_an_adapter(tiny, undisturbed, tmp_path):
    before = [entry["loss"] for entry in undisturbed.log if "loss" in entry]

    def further(adapter, output, **settings):
        given = prepare(str(tiny), task_rows(), TuneSettings(**SETTINGS, max_steps=2, **settings), adapter=adapter)
        return tune(given, output, RUNNING, resume=True)

    tuned = further(undisturbed.path, tmp_path / "out")
    # The first rows of both trainings are the same, so the first loss tells whose weights they were read with.
    assert tuned.log[0]["loss"] < before[0] - 0.05
    assert weights(tuned.path) != weights(undisturbed.path)
    recipe = json.loads((tuned.path / "recipe.json").read_text())
    assert recipe["model"]["adapter"].startswith("sha256:")
    card = (tuned.path / "README.md").read_text()
    assert f"--adapter {undisturbed.path}" in card
    assert recipe["model"]["adapter"] in card
    with pytest.raises(OutputError, match=r"model.adapter"):
        further(shutil.copytree(tuned.path, tmp_path / "other"), tmp_path / "out")
    with pytest.raises(RecipeError, match="'lora_rank': 4"):
        prepare(str(tiny), task_rows(), TuneSettings(epochs=1), adapter=undisturbed.path)
    with pytest.raises(EngineError, match="expected smol, or a folder"):
        prepare(str(tiny), task_rows(), TuneSettings(epochs=1), adapter=tmp_path / "nowhere")


@pytest.mark.slow
def test_fused_layers_learn_the_same(tiny, undisturbed, tmp_path):
    fused = tune(prepared(tiny, max_steps=3), tmp_path / "out", replace(RUNNING, compile=True))
    plain = tune(prepared(tiny, max_steps=3), tmp_path / "plain", RUNNING)
    assert [entry["loss"] for entry in fused.log] == pytest.approx([entry["loss"] for entry in plain.log], rel=1e-2)
    assert set(weights_of(fused.path)) == set(weights_of(plain.path))  # the names say nothing of it


def test_an_adapter_of_another_model_is_one_clear_line(tiny, tmp_path):
    settings = TuneSettings(max_length=160, batch_tokens=400, max_steps=1)
    with pytest.raises(EngineError, match=r"does not fit model .*; give the model it was made for") as raised:
        tune(prepare(str(tiny), task_rows(), settings, adapter="smol"), tmp_path / "out", RUNNING)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_an_adapter_keeps_the_commit_of_its_base(tiny, tmp_path, monkeypatch):
    asked = []

    def snapshot(model, revision=None, **_):
        asked.append((model, revision))
        return str(tiny)

    given = replace(prepared(tiny, max_steps=1), location=str(tiny))  # a name, as of a Hub id
    tuned = tune(given, tmp_path / "out", RUNNING)
    path = tuned.path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["revision"] == json.loads((tuned.path / "recipe.json").read_text())["model"]["revision"]
    path.write_text(json.dumps(config | {"base_model_name_or_path": "me/tiny"}))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setenv("IPT_DATASETS_CACHE", str(tmp_path / "cache"))
    assert list(locate(str(tuned.path), "transformers").glob("*.safetensors"))
    assert asked == [("me/tiny", config["revision"])]


def test_all_weights_are_tuned_without_an_adapter(tiny, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tuned = tune(prepared(tiny, lora_rank=0, learning_rate=5e-3, max_steps=4), tmp_path / "out", RUNNING)
    losses = [entry["loss"] for entry in tuned.log]
    assert losses[-1] < losses[0] - 0.05
    model = AutoModelForCausalLM.from_pretrained(tuned.path, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.config.use_cache
    AutoTokenizer.from_pretrained(tuned.path)


def test_kept_logits_are_those_of_the_whole_model(tiny):
    import torch
    from transformers import AutoModelForCausalLM

    from ipt_datasets.tuning.loss import collate, compute_kept_logits_only, sum_of_losses

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    batch = collate([[([5, 6, 7, 8], [MASKED, MASKED, 7, 8]), ([9, 10], [MASKED, 10])]], 2)
    labels, keep = batch.pop("labels"), batch.pop("keep")
    every = model(**batch).logits
    compute_kept_logits_only(model)
    kept = model(**batch, keep=keep).logits
    assert kept.shape == (3, every.shape[-1])
    assert torch.allclose(kept, every[keep], atol=1e-5)
    assert float(sum_of_losses(kept, labels)) == pytest.approx(float(sum_of_losses(every, labels)))
    assert model(**batch).logits.shape == every.shape  # nothing is cut where nothing is asked for


@pytest.mark.parametrize("filled", ["adapter", "checkpoint"])
def test_a_full_disk_leaves_no_broken_result(tiny, tmp_path, monkeypatch, filled):
    """The write fails as on a full disk: `/dev/full` stands where the weights should go."""
    output = tmp_path / "out"
    new_result, begin = TuningFolder.new_result, TuningFolder.begin

    def full_result(self):
        folder = new_result(self)
        (folder / "training_log.jsonl").symlink_to("/dev/full")
        return folder

    def full_checkpoint(self, *given, **named):
        goes_on = begin(self, *given, **named)
        (self.checkpoints / "checkpoint-3").mkdir(exist_ok=True)
        (self.checkpoints / "checkpoint-3" / "optimizer.pt").symlink_to("/dev/full")
        return goes_on

    with monkeypatch.context() as patched:
        if filled == "adapter":
            patched.setattr(TuningFolder, "new_result", full_result)
        else:
            patched.setattr(TuningFolder, "begin", full_checkpoint)
        with pytest.raises(OutputError, match="go on with --resume"):
            tune(prepared(tiny, max_steps=3), output, RUNNING)
    assert not list(output.glob("adapter*"))
    assert not (output / "README.md").exists()
    assert tune(prepared(tiny, max_steps=3), output, RUNNING, resume=True).is_new
    assert (output / "README.md").exists()


def test_what_a_user_can_cause_is_one_line(tiny, tmp_path):
    with pytest.raises(RecipeError, match="reads 512 tokens at most"):
        tune(prepared(tiny, max_length=1000), tmp_path / "out", RUNNING)
    with pytest.raises(EngineError, match="no such folder"):
        prepare("./nowhere", task_rows(), TuneSettings(epochs=1))
    with pytest.raises(InputError, match="no row to learn from"):
        prepare(str(tiny), [], TuneSettings(epochs=1))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match="thesis"):
            tune(prepared(tiny), foreign, RUNNING, **how)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_nobody_else_s_model_is_removed_and_no_model_from_under_itself(tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (model / "README.md").write_text("# A model of somebody's")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match="no training wrote"):
            tune(prepared(tiny), model, RUNNING, **how)
    with pytest.raises(RecipeError, match="reads its weights from"):
        tune(prepared(model), model, RUNNING, overwrite=True)
    assert {name: (model / name).read_bytes() for name in before} == before


def test_a_training_that_diverges_leaves_nothing_under_the_final_name(tiny, tmp_path):
    with pytest.raises(EngineError, match="diverged"):
        tune(prepared(tiny, max_steps=3, learning_rate=float("inf")), tmp_path / "out", RUNNING)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def ipt(*given, launch=()):
    command = [sys.executable, *launch, "-m", "ipt_datasets.cli", "tune", *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_shows_without_writing(tiny, rows_file, tmp_path):
    done = ipt(tiny, tmp_path / "out", "--on", rows_file, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "[[<QUE> Which colour has house" in done.stdout
    assert "</END><|im_end|>]]" in done.stdout
    assert "others" in done.stdout
    assert list(tmp_path.iterdir()) == []
    done = ipt(tiny, tmp_path / "out", "--on", rows_file, "--max-steps", 3, "--epochs", 3)
    assert done.returncode == 2
    done = ipt(tiny, tmp_path / "out", "--on", rows_file, "--only", "houses")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = ipt(tiny, tmp_path / "out", "--on", tmp_path / "nowhere.parquet")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_of_described_sets_only_the_named_ones_are_read_and_what_is_left_out_is_on_the_card(tiny, tmp_path):
    sets = {name: [{"context": f"House {n} is red.", "qas": [{"question": f"{name} {n}?", "answer": "red"}]} for n in
            range(30)] for name in ("a", "b")}  # fmt: skip
    sets["a"].append({"context": "", "qas": [{"question": "Who?", "answer": "x"}]})
    for name, rows in sets.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    described = "\n".join(f"[{name}]\nfiles = ['{name}.json']\nconvert = 'squad'\nlicence = 'CC0'" for name in sets)
    (tmp_path / "sets.toml").write_text(described)
    given = ("--on", tmp_path / "sets.toml", "--data", tmp_path, "--only", "a")
    done = ipt(tiny, tmp_path / "out", *given, "--max-steps", 1, "--batch-tokens", 100, "--max-length", 160)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    [row] = [line for line in card.splitlines() if line.startswith("| a |")]
    assert row.startswith("| a |  | CC0 | ")
    assert row.endswith("| 1 no_text |")
    assert not [line for line in card.splitlines() if line.startswith("| b |")]
    assert f"--on {tmp_path / 'sets.toml'} --data FOLDER --only a --" in card
    done = ipt(tiny, tmp_path / "out2", *given[:-1], "c", "--dry-run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no set c; it has a, b" in done.stderr


@pytest.mark.slow
def test_two_processes_learn_the_same(tiny, rows_file, tmp_path):
    """Over gloo on a CPU: the same steps, each shared by two processes."""
    options = "--max-steps 4 --max-length 160 --batch-tokens 400 --forward-tokens 100 --lora-rank 4 --save-every 2"
    given = ["--on", rows_file, "--validation", rows_file, *options.split(), "--learning-rate", 0.02]
    alone = ipt(tiny, tmp_path / "alone", *given)
    assert alone.returncode == 0, alone.stderr
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
    command = [sys.executable, *launch, "-m", "ipt_datasets.cli", "tune", tiny, tmp_path / "two", *given]
    two = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert two.returncode == 0, two.stderr
    logs = [[json.loads(line) for line in (tmp_path / name / "training_log.jsonl").open()] for name in ("alone", "two")]
    assert len(logs[0]) == len(logs[1])
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=2e-2)  # sums in another order, in 16 bits
    assert two.stdout.count("It lies in") == 1


@pytest.mark.slow
def test_the_embedded_model_learns_and_runs_in_vllm(rows_file, tmp_path):
    pytest.importorskip("vllm")
    output = tmp_path / "out"
    options = "--max-steps 3 --batch-tokens 256 --max-length 160 --save-every 3 --threads 1"
    done = ipt("smol-base", output, "--on", rows_file, *options.split())
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line)["loss"] for line in (output / "training_log.jsonl").open()]
    assert losses[-1] < losses[0]
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    merged = merge_adapter(prepare_smol(tuned=False), output, tmp_path / "merged")

    from ipt_datasets import Synthesizer
    from ipt_datasets.synthesis.engines.vllm import VLLMEngine

    engine = VLLMEngine(merged, max_model_len=512, max_num_seqs=2)
    try:
        synthesizer = Synthesizer(model=str(merged), engine=engine, markup="paper", shots=1, max_new_tokens=20)
        (row,) = synthesizer.synthesize(["House 7 is green."])
        assert row.shots[0].completion
    finally:
        engine.close()
