"""vLLM offline: token-id prompts, requests added while others run, prefix caching counted by the engine itself."""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipt_datasets.errors import EngineError, one_line
from ipt_datasets.synthesis.engines import DEFAULT_MAX_MODEL_LEN, Completion, Request
from ipt_datasets.synthesis.engines.device import cpu_has_bfloat16
from ipt_datasets.synthesis.engines.orphans import OrphanWatch
from ipt_datasets.synthesis.tokens import HFTokenizer, PromptTokenizer

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # A thread bound to a core stands still when anything else runs there, and every operation waits for it.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""What vLLM reads from the environment, where the user has not set it."""

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
        tokenizer: None: the model's own.
        options: any field of vLLM's `EngineArgs`; they win over what is set here. max_num_seqs: requests at once;
            max_num_batched_tokens: tokens a step, prompts among them; both as vLLM chooses them for work offline.
            gpu_memory_utilization, kv_cache_memory_bytes, tensor_parallel_size, quantization, speculative_config, ...

    Raises:
        EngineError: vLLM is not installed, or cannot load the model as asked.
    """

    kind = "vllm"

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        max_model_len: int | None = None,
        tokenizer: HFTokenizer | None = None,
        **options: Any,
    ) -> None:
        if find_spec("vllm") is None:
            raise EngineError('vLLM is not installed: run `pip install "ipt-datasets[vllm]"`, or use another engine')
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._dead = ""
        self._refused: dict[int, Completion] = {}
        try:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(model, revision=revision).get_text_config()
            longest = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_MODEL_LEN
            self.tokenizer: PromptTokenizer = tokenizer or HFTokenizer.from_pretrained(model, revision)
            if not 2 <= (max_model_len or longest) <= longest:
                raise ValueError(f"max_model_len={max_model_len}, and the model reads from 2 to {longest} tokens")
            in_few_bits = "quantization" in options or bool(getattr(config, "quantization_config", None))
            self._engine: Any = _start(
                {
                    "model": str(model),
                    "revision": revision,
                    "tokenizer_revision": revision,
                    "max_model_len": max_model_len or min(longest, DEFAULT_MAX_MODEL_LEN),
                    "enable_prefix_caching": True,
                    "disable_log_stats": False,  # without it there are no counters
                    "use_tqdm_on_load": False,
                },
                options,
                in_few_bits,
            )
        except Exception as error:  # vLLM raises whatever its parts raise
            raise EngineError(
                f"vLLM cannot load {str(model)!r}: {one_line(error)}; expected a folder or Hub id of a model it "
                "supports, and options of its EngineArgs (what its own process said stands above)"
            ) from error
        manager = getattr(getattr(self._engine.engine_core, "resources", None), "engine_manager", None)
        self._orphans = OrphanWatch(process.pid for process in getattr(manager, "processes", ()))
        started = self._engine.vllm_config
        cache = started.cache_config
        self.max_model_len: int = started.model_config.max_model_len
        # Its process goes on before it hears what comes next: unless some wait in it, places stay empty for a step.
        at_once = started.scheduler_config.max_num_seqs
        self.max_requests: int = at_once + at_once // 8 + 1
        # Where layers differ, blocks times their size is not what fits; vLLM says what does.
        self.kv_tokens: int | None = (
            getattr(cache, "kv_cache_size_tokens", None) or cache.num_gpu_blocks * cache.block_size
        )
        self._ends = sorted({id_ for id_ in (self.tokenizer.bos_id, self.tokenizer.eos_id) if id_ is not None})

    def submit(self, request_id: int, request: Request) -> None:
        """Add a request to those that run."""
        if self._dead:
            raise EngineError(self._dead)
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            params = SamplingParams(
                max_tokens=min(request.max_tokens, self.max_model_len - len(request.prompt)),
                temperature=request.temperature,
                top_p=request.top_p,
                repetition_penalty=request.repetition_penalty,
                frequency_penalty=request.frequency_penalty,
                presence_penalty=request.presence_penalty,
                seed=request.seed % 2**63 if request.temperature else None,  # vLLM takes 64 bits, and -1 for none
                stop=list(request.stop),
                stop_token_ids=self._ends,
                detokenize=bool(request.stop),
                skip_special_tokens=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            # Already in the form that vLLM's renderer would give it, so that nothing is done to the ids.
            prompt = {"type": "token", "prompt_token_ids": list(request.prompt)}
            self._engine.add_request(str(request_id), prompt, params)
        except EngineDeadError as error:
            raise self._death(error) from error
        except Exception as error:  # what vLLM checks before its engine sees the request
            said = f"vLLM refused the request: {one_line(error)}"
            self._refused[request_id] = Completion([], "error", error=said)

    def step(self) -> list[tuple[int, Completion]]:
        """Run the engine until a request has finished; give all that have."""
        if self._dead:
            raise EngineError(self._dead)
        finished, self._refused = list(self._refused.items()), {}
        try:
            while not finished and self._engine.has_unfinished_requests():
                self._wait_for_output()
                finished = [_finished(output) for output in self._engine.step() if output.finished]
        except Exception as error:
            raise self._death(error) from error
        return finished

    def abort(self, request_ids: list[int]) -> None:
        """Take requests out of the engine."""
        for request_id in request_ids:
            self._refused.pop(request_id, None)
        if request_ids and not self._dead:
            try:
                self._engine.abort_request([str(request_id) for request_id in request_ids])
            except Exception as error:
                raise self._death(error) from error

    def counters(self) -> dict[str, int]:
        """Give the engine's own counters, {} with disable_log_stats=True.

        They are prefix_cache_queries, prefix_cache_hits, prompt_tokens and generation_tokens, in tokens, and
        num_preemptions: how often a request gave its blocks up, for the most part to be computed again. vLLM counts
        once a process: a second engine in this process begins them anew.
        """
        if not self._engine.log_stats:
            return {}
        values: Counter[str] = Counter()
        for metric in self._engine.get_metrics():
            values[metric.name.removeprefix("vllm:")] += getattr(metric, "value", 0)
        wanted = ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens", "num_preemptions")
        return {name: int(values[name]) for name in wanted}

    def reset_prefix_cache(self) -> None:
        """Forget all prefixes, for measuring from a cold start."""
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Stop the engine's process and free its memory."""
        self._dead = self._dead or "this vLLM engine is closed; build another one"
        self._engine.engine_core.shutdown()
        self._orphans.release()

    def _wait_for_output(self) -> None:
        """Wait until `LLMEngine.step` finds something, since it never returns if the engine's process was killed."""
        core = self._engine.engine_core
        outputs, resources = getattr(core, "outputs_queue", None), getattr(core, "resources", None)
        if outputs is None or resources is None:  # an engine without a process of its own
            return
        with outputs.not_empty:
            while not outputs.queue:
                if resources.engine_dead:
                    raise ChildProcessError("its process was killed, by the system if memory ran out")
                outputs.not_empty.wait(timeout=1)

    def _death(self, error: Exception) -> EngineError:
        self._dead = (
            f"the vLLM engine died ({type(error).__name__}: {one_line(error)}); what was finished is kept; start "
            "again, with less gpu_memory_utilization, kv_cache_memory_bytes or max_num_seqs if memory ran out"
        )
        return EngineError(self._dead)


def _start(defaults: dict[str, Any], options: dict[str, Any], in_few_bits: bool) -> Any:
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    if current_platform.is_cpu():
        # Weights of few bits mostly have kernels for 16 bits alone.
        dtype = {} if in_few_bits or cpu_has_bfloat16() else {"dtype": "float32"}
        defaults = defaults | CPU_DEFAULTS | dtype
    # vLLM's defaults of max_num_seqs and max_num_batched_tokens depend on who asks: those of an engine of one's own are
    # 128 and 2,048 on any GPU, those for work offline 1,024 and 16,384 on an H100.
    return LLMEngine.from_engine_args(EngineArgs(**defaults | options), UsageContext.LLM_CLASS)


def _finished(output: Any) -> tuple[int, Completion]:
    completion = output.outputs[0]
    reason = completion.finish_reason if completion.finish_reason in ("stop", "length") else "error"
    said = "" if reason != "error" else f"vLLM ended the request with {completion.finish_reason!r}"
    cached = output.num_cached_tokens or 0
    return int(output.request_id), Completion(list(completion.token_ids), reason, cached, said)
