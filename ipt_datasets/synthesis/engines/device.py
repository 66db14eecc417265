"""Where a model runs and in which precision, and what to do when its memory runs out."""

import gc
import os
from typing import Any


def place(model: Any, any_dtype: bool) -> Any:
    """Move a model to this process's accelerator; where there is none, into a precision that the CPU is fast at.

    `any_dtype` keeps the precision as it is.

    Measured with SmolLM2-135M: without bf16 instructions a CPU reads prompts in bf16 at a quarter of the speed of fp32.
    """
    import torch

    if getattr(model, "hf_quantizer", None) is not None:
        return model
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        # What starts one process a device (accelerate, torchrun) says in LOCAL_RANK which one it is.
        return model.to(torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0"))))
    if any_dtype:
        return model
    return model if model.dtype == torch.bfloat16 and cpu_has_bfloat16() else model.float()


def cpu_has_bfloat16() -> bool:
    """Tell whether the CPU has instructions for bfloat16; without, it is three to five times as fast in 32 bits."""
    import torch

    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(value for name, value in able.items() if name.endswith("bf16"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the memory of a device, or of the machine, did not suffice."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)


def free_memory() -> None:
    """Give memory that nothing uses any more back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
