"""A LoRA adapter merged into its base model, without peft: what comes out is an ordinary model folder."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipt_datasets.durable import replacing_folder
from ipt_datasets.errors import EngineError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_NOT_PLAIN = ("use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Settings of peft that change what an adapter means, beyond what is merged here."""


def merge_adapter(model_folder: Path, adapter_folder: Path, output: Path) -> Path:
    """Write a base model with a LoRA adapter merged in, in bfloat16, as transformers and vLLM load it.

    Sums are formed in 32 bits and rounded once. Only plain LoRA on linear layers is understood.

    Args:
        model_folder: the base model, with safetensors.
        adapter_folder: `adapter_model.safetensors` and `adapter_config.json`, as peft writes them.
        output: absent or empty; appears when it is whole.

    Raises:
        EngineError: the adapter is of another kind or does not fit the model, or the output is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise EngineError(f"{output} is not empty; name an absent or an empty folder for the merged model")
    with replacing_folder(output) as temporary:
        write_merged(model_folder, adapter_folder, temporary)
    return output


def write_merged(model_folder: Path, adapter_folder: Path, folder: Path) -> None:
    """Write what `merge_adapter` does into an empty folder that somebody else makes durable."""
    from safetensors.torch import load_file, save_file

    files = sorted(model_folder.glob("*.safetensors"))
    if not files:
        raise EngineError(f"{model_folder} holds no *.safetensors; expected the folder of the base model")
    deltas = _Deltas(adapter_folder)
    for path in model_folder.iterdir():
        if path.is_file() and path not in files:
            shutil.copy(path, folder)
    for file in files:
        merged = {name: deltas.add(name, weight) for name, weight in load_file(file).items()}
        save_file(merged, folder / file.name, metadata={"format": "pt"})
        (folder / file.name).chmod(file.stat().st_mode)
    deltas.check_all_used(model_folder)
    _note_dtype(folder / "config.json")


class _Deltas:
    """What an adapter adds to each weight."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.folder = folder
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            self.tensors: dict[str, Any] = load_file(folder / WEIGHTS)
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{folder} holds no adapter that can be read ({error}); expected {CONFIG} and {WEIGHTS}"
            ) from error
        self.scale = _scale(config, folder)

    def add(self, name: str, weight: Any) -> Any:
        """Give a weight with what the adapter adds, in bfloat16 where it is a floating point number."""
        import torch

        if not weight.is_floating_point():
            return weight
        stem = f"{_PREFIX}{name.removesuffix('.weight')}"
        first = self.tensors.pop(f"{stem}.lora_A.weight", None)
        second = self.tensors.pop(f"{stem}.lora_B.weight", None)
        if first is None or second is None:
            return weight.to(torch.bfloat16)
        if weight.shape != (second.shape[0], first.shape[1]):
            raise EngineError(f"{self.folder} does not fit the model: {name} has the shape {tuple(weight.shape)}")
        return (weight.float() + self.scale * (second.float() @ first.float())).to(torch.bfloat16)

    def check_all_used(self, model_folder: Path) -> None:
        """Make sure that no part of the adapter is left over."""
        if self.tensors:
            raise EngineError(
                f"{self.folder} does not fit {model_folder}: {len(self.tensors)} of its tensors have no place there, "
                f"e.g. {next(iter(self.tensors))}; merge it with peft, or give the model it was made for"
            )


def _scale(config: Mapping[str, Any], folder: Path) -> float:
    used = [name for name in _NOT_PLAIN if config.get(name)]
    if config.get("peft_type") != "LORA" or used or config.get("bias", "none") != "none":
        said = ", ".join(used) or f"peft_type {config.get('peft_type')}, bias {config.get('bias')}"
        raise EngineError(f"{folder} is no plain LoRA adapter ({said}); merge it with peft's merge_and_unload")
    rank, alpha = config["r"], config["lora_alpha"]
    return float(alpha / math.sqrt(rank)) if config.get("use_rslora") else float(alpha / rank)


def _note_dtype(path: Path) -> None:
    config = json.loads(path.read_text("utf-8"))
    config.pop("torch_dtype", None)
    path.write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=2) + "\n", "utf-8")
