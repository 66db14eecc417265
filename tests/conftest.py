"""Fixtures: a clean datasets cache, the embedded model, and real tokenizers."""

import os
import secrets
import tempfile

# Read when datasets and huggingface_hub are imported, so they are set before anything else.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="ipt-datasets-cache-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# With two threads each operation of torch waits for the slower one: beside other load that costs more than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when Ray is imported, which vLLM does wherever it is installed: a Ray that takes nobody's tasks but ours.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
# A machine that is busy with other work starts Ray's processes slowly.
os.environ["RAY_worker_register_timeout_seconds"] = "240"  # noqa: SIM112 - its name is so

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from ipt_datasets.synthesis.tokens import HFTokenizer

DATA = Path(__file__).parent / "data"

settings.register_profile("ipt", deadline=None)  # no test asserts a time
settings.load_profile("ipt")


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def golden() -> dict:
    """Prompts and parses of the reference code."""
    return json.loads((DATA / "reference.json").read_text())


@pytest.fixture(scope="session")
def smol() -> Path:
    """The folder of the embedded synthesizer, prepared once a machine."""
    from ipt_datasets.models.embedded import prepare_smol

    return prepare_smol()


@pytest.fixture(scope="session")
def smol_base(smol) -> Path:
    """The folder of the model that it was tuned from."""
    from ipt_datasets.models.embedded import prepare_smol

    return prepare_smol(tuned=False)


@pytest.fixture(scope="session")
def smol_tokenizer(smol) -> HFTokenizer:
    return HFTokenizer.from_pretrained(smol)


def _mistral(folder: Path) -> HFTokenizer:
    import mistral_common

    model = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(model, folder / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return HFTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def mistral_tokenizer(tmp_path_factory) -> HFTokenizer:
    """The tokenizer of Mistral-7B-v0.1, as transformers converts its sentencepiece model today."""
    return _mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="session")
def legacy_mistral_tokenizer(tmp_path_factory) -> HFTokenizer:
    """The same with the normalizer of the tokenizer.json on the Hub, which writes one more leading space."""
    from tokenizers.normalizers import Prepend, Replace, Sequence

    tokenizer = _mistral(tmp_path_factory.mktemp("legacy")).tokenizer
    tokenizer.backend_tokenizer.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    tokenizer.backend_tokenizer.pre_tokenizer = None
    return HFTokenizer(tokenizer)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback. Client processes get `hub.environment()`; in this one pass `endpoint=hub.endpoint`."""
    import huggingface_hub.constants as constants
    from loopback_hub.server import LoopbackHub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))  # for client processes: nothing cached, no login
    with LoopbackHub() as running:
        yield running
