"""The model that is tuned, as this machine computes it fastest."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from ipt_datasets.errors import EngineError, RecipeError, one_line
from ipt_datasets.models.embedded import quiet_transformers
from ipt_datasets.synthesis.engines.device import cpu_has_bfloat16
from ipt_datasets.tuning.loss import compute_kept_logits_only
from ipt_datasets.tuning.prepare import Prepared


def load_model(prepared: Prepared, revision: str | None, gradient_checkpointing: bool, fused: bool) -> Any:
    """Load the model, with an adapter in 32 bits on weights in 16, or all weights in 32.

    Args:
        prepared: model, settings and the adapter to go on from.
        revision: branch, tag or commit of a Hub id.
        gradient_checkpointing: less memory, more time.
        fused: let torch compile the layers.

    Raises:
        EngineError: the model cannot be loaded.
        RecipeError: sequences are longer than it reads.
    """
    import torch
    from transformers import AutoModelForCausalLM

    settings = prepared.settings
    in_16_bits = cpu_computes_in_16_bits() if on_cpu() else True
    dtype = torch.bfloat16 if settings.lora_rank and in_16_bits else torch.float32
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                prepared.location, revision=revision, dtype=dtype, attn_implementation=_attention()
            )
    except (OSError, ValueError) as error:
        raise EngineError(f"model {prepared.model!r} cannot be loaded: {one_line(error)}") from error
    model.config.use_cache = False
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and settings.max_length > longest:
        raise RecipeError(
            f"max_length={settings.max_length}: model {prepared.model!r} reads {longest} tokens at most; lower it"
        )
    if gradient_checkpointing:
        model.enable_input_require_grads()
    if settings.lora_rank:
        from peft import LoraConfig, PeftModel, get_peft_model

        if prepared.adapter:
            try:
                model = PeftModel.from_pretrained(model, str(prepared.adapter), is_trainable=True)
            except (RuntimeError, ValueError) as error:
                raise EngineError(
                    f"adapter {str(prepared.adapter)!r} does not fit model {prepared.model!r}: {one_line(error):.200}; "
                    "give the model it was made for"
                ) from error
        else:
            config = LoraConfig(
                r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            model = get_peft_model(model, config)
        if on_cpu():  # there autocast computes in 16 bits; a way through 32 would only take time
            for module in model.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = False
    compute_kept_logits_only(model)
    if fused:
        for layers in [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]:
            for layer in layers:  # as one piece the model would take many minutes, and keep no name
                layer.compile(dynamic=True)
    return model


def _attention() -> str | None:
    """Where a CPU computes in 16 bits, plain attention trains 1.3 to 1.5 times as fast as torch's fused one.

    In 32 bits the fused one does: 223 tokens a second beside 153 with smol-base.
    """
    return "eager" if cpu_computes_in_16_bits() else None


def cpu_computes_in_16_bits() -> bool:
    """Tell whether the training runs on a CPU, and one that is faster in 16 bits than in 32."""
    return on_cpu() and cpu_has_bfloat16()


def on_cpu() -> bool:
    """Tell whether the training runs on the CPU: torch sees no GPU of any make."""
    import torch

    return not torch.accelerator.is_available()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and advice of the libraries away from our own progress."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
