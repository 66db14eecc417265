"""vLLM offline: token-id prompts, requests added while others run, prefix caching counted by the engine itself."""

import os
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.tokens import HFTokenizer, PromptTokenizer

DEFAULT_MAX_MODEL_LEN = 4096

CPU_DEFAULTS: dict[str, Any] = {
    "kv_cache_memory_bytes": 2 * 2**30,
    "enforce_eager": True,  # compiling for the CPU costs minutes at every start
    # With chunks, vLLM 0.32 dies on the CPU where a request that samples has a seed of its own.
    "enable_chunked_prefill": False,
}


class VLLMEngine:
    """A model in a vLLM engine of its own.

    Args:
        model: a folder or a Hub id.
        revision: commit of a Hub id.
        max_model_len: prompt and completion together; None: the model's own, 4096 at most.
        options: any field of vLLM's `EngineArgs`: gpu_memory_utilization, max_num_seqs, quantization,
            speculative_config, tensor_parallel_size, ... They win over what is set here.

    Raises:
        EngineError: vLLM is not installed, or cannot load the model.
    """

    kind = "vllm"

    def __init__(
        self, model: str | Path, *, revision: str | None = None, max_model_len: int | None = None, **options: Any
    ) -> None:
        if find_spec("vllm") is None:
            raise EngineError('vLLM is not installed: run `pip install "ipt-datasets[vllm]"`, or use another engine')
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # A thread bound to a core stands still when anything else runs there, and every operation waits for it.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from transformers import AutoConfig
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        try:
            positions = AutoConfig.from_pretrained(model, revision=revision).get_text_config().max_position_embeddings
            defaults = {
                "model": str(model),
                "revision": revision,
                "max_model_len": max_model_len or min(positions, DEFAULT_MAX_MODEL_LEN),
                "enable_prefix_caching": True,
                "disable_log_stats": False,  # without it there are no counters
            }
            if current_platform.is_cpu():
                defaults |= CPU_DEFAULTS
            self._engine = LLMEngine.from_engine_args(EngineArgs(**{**defaults, **options}))
        except Exception as error:  # vLLM raises whatever its parts raise
            raise EngineError(f"vLLM cannot load {str(model)!r}: {' '.join(str(error).split())[:400]}") from error
        config = self._engine.vllm_config
        self.tokenizer: PromptTokenizer = HFTokenizer.from_pretrained(model, revision)
        self.max_model_len: int = config.model_config.max_model_len
        self.max_requests: int = config.scheduler_config.max_num_seqs
        self.kv_tokens: int | None = config.cache_config.num_gpu_blocks * config.cache_config.block_size
        self._ends = {id_ for id_ in (self.tokenizer.bos_id, self.tokenizer.eos_id) if id_ is not None}
        self._refused: deque[tuple[int, Completion]] = deque()

    def submit(self, request_id: int, request: Request) -> None:
        """Add a request to those that run."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        try:
            params = SamplingParams(
                max_tokens=min(request.max_tokens, self.max_model_len - len(request.prompt)),
                temperature=request.temperature,
                top_p=request.top_p,
                repetition_penalty=request.repetition_penalty,
                seed=request.seed if request.temperature else None,
                stop=list(request.stop),
                stop_token_ids=sorted(self._ends),
                detokenize=bool(request.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._engine.add_request(str(request_id), TokensPrompt(prompt_token_ids=request.prompt), params)
        except (ValueError, VLLMValidationError) as error:
            said = " ".join(str(error).split())
            self._refused.append((request_id, Completion([], "error", error=f"vLLM refused the request: {said}")))

    def step(self) -> list[tuple[int, Completion]]:
        """Run the engine until a request has finished; give all that have."""
        finished = list(self._refused)
        self._refused.clear()
        try:
            while not finished and self._engine.has_unfinished_requests():
                finished = [_finished(output) for output in self._engine.step() if output.finished]
        except Exception as error:
            raise EngineError(
                f"the vLLM engine died ({type(error).__name__}: {' '.join(str(error).split())[:300]}); what was "
                "finished is kept; start again, with less gpu_memory_utilization or max_num_seqs if memory ran out"
            ) from error
        return finished

    def abort(self, request_ids: list[int]) -> None:
        """Take requests out of the engine."""
        if request_ids:
            self._engine.abort_request([str(request_id) for request_id in request_ids])

    def counters(self) -> dict[str, int]:
        """Give the engine's own counters, in tokens: prefix_cache_queries, prefix_cache_hits, and what it generated."""
        wanted = ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens")
        values = {metric.name.removeprefix("vllm:"): metric for metric in self._engine.get_metrics()}
        return {name: int(values[name].value) for name in wanted}

    def reset_prefix_cache(self) -> None:
        """Forget all prefixes, for measuring from a cold start."""
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Stop the engine's process and free its memory."""
        self._engine.engine_core.shutdown()


def _finished(output: Any) -> tuple[int, Completion]:
    completion = output.outputs[0]
    reason = completion.finish_reason if completion.finish_reason in ("stop", "length") else "error"
    said = "" if reason != "error" else f"vLLM ended the request with {completion.finish_reason!r}"
    cached = output.num_cached_tokens or 0
    return int(output.request_id), Completion(list(completion.token_ids), reason, cached, said)
