"""What a model's name means: where it lies, and which weights exactly it names."""

import hashlib
import json
from pathlib import Path

from ipt_datasets.errors import EngineError, one_line
from ipt_datasets.models.adapter import CONFIG as ADAPTER_CONFIG
from ipt_datasets.models.adapter import WEIGHTS as ADAPTER_WEIGHTS
from ipt_datasets.models.adapter import write_merged
from ipt_datasets.models.embedded import (
    BASE_ID,
    EMBEDDED,
    build_folder_once,
    default_cache,
    prepare_smol,
    smol_revision,
)

SAMPLES = 256
SAMPLE_BYTES = 4096
_MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]


def locate(model: str, engine: str) -> str | Path:
    """Give the folder or Hub id of a model; the embedded ones are prepared on first use.

    A folder that holds a LoRA adapter alone, as `ipt tune` writes it, is merged into its base once, in the cache.

    Raises:
        EngineError: the embedded model's weights are not installed, a folder was meant and is not there, or an
            adapter's base is not here.
    """
    if engine == "scripted":
        return model
    if model in EMBEDDED:
        return prepare_smol(tuned=model == "smol")
    if (Path(model) / ADAPTER_WEIGHTS).exists():
        return _merged(Path(model))
    if Path(model).is_dir():
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise EngineError(
            f"model {model!r}: there is no such folder; expected 'smol', 'smol-base', a Hub id or a folder"
        )
    return model


def embedded_name(model: str) -> str:
    """Give "smol" for it and for the folder of a LoRA adapter on the same base, "smol-base" for that, "" for others.

    What suits the embedded synthesizer suits others that were tuned from its base.
    """
    if model in EMBEDDED:
        return model
    try:
        base = json.loads((Path(model) / ADAPTER_CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return "smol" if base == BASE_ID else ""


def resolve_revision(model: str, revision: str, engine: str) -> str:
    """Give what identifies the weights: a Hub commit, or a hash of the embedded model or of a folder's files.

    Args:
        model: "smol", a Hub id or a folder.
        revision: what the user asked for, "" for the newest.
        engine: the scripted one has no weights.

    Raises:
        EngineError: the model's revision cannot be found out.
    """
    if engine == "scripted":
        return ""
    if model in EMBEDDED:
        return smol_revision(tuned=model == "smol")
    path = Path(model) if Path(model).is_dir() else locate(model, engine)
    return hash_folder(path) if isinstance(path, Path) else _hub_commit(path, revision)


def _merged(adapter: Path) -> Path:
    """Give the folder of an adapter's base model with the adapter merged in."""
    try:
        config = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
        base_name = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{adapter} holds adapter weights without a readable {ADAPTER_CONFIG}: {error}") from error
    base = prepare_smol(tuned=False) if base_name == BASE_ID else locate(base_name, "")
    if isinstance(base, str):
        base = Path(_snapshot(base, config.get("revision")))
    identity = hashlib.sha256(f"{hash_folder(adapter)} {hash_folder(base)}".encode()).hexdigest()[:16]
    merged = default_cache() / f"merged-{identity}"
    return build_folder_once(merged, lambda folder: write_merged(base, adapter, folder), f"{adapter} with its base")


def _snapshot(model: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, revision=revision, allow_patterns=_MODEL_FILES)
    except Exception as error:  # each transport has errors of its own
        at = f" at revision {revision!r}" if revision else ""
        raise EngineError(f"the base model {model!r}{at} of an adapter cannot be had: {one_line(error)}") from error


def hash_folder(folder: Path) -> str:
    """Hash a model folder: names and sizes of its files, small ones whole, of large ones evenly spread samples.

    A tuned model differs from its base nearly everywhere, so samples tell them apart without reading all weights.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if not path.is_file() or relative.startswith((".", "README", "runs/", "checkpoint")):
            continue
        size = path.stat().st_size
        digest.update(f"{relative}:{size}\n".encode())
        with path.open("rb") as file:
            if size <= SAMPLES * SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for number in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()[:32]}"


def _hub_commit(model: str, revision: str) -> str:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        commit = HfApi().model_info(model, revision=revision or None).sha
        return str(commit)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise EngineError(
            f"model {model!r}{f' at revision {revision!r}' if revision else ''}: the Hub answered {status}; expected "
            "'smol', a folder, or the id of a model that exists and that your token may read"
        ) from error
    except Exception as error:  # offline: each transport has errors of its own
        try:
            snapshot = snapshot_download(model, revision=revision or None, local_files_only=True)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError):
            raise EngineError(
                f"model {model!r} is neither a folder nor in the local cache, and the Hub cannot be reached "
                f"({type(error).__name__}); download it first, or give a folder"
            ) from error
        return Path(snapshot).name
