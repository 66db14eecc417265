"""Runs a synthesizer with transformers, on the CPU or a GPU, where vLLM is not at hand.

Not by transformers' `generate`, which keeps a batch until its slowest row is done, and not by its continuous batching,
which knows neither a repetition penalty nor stop strings nor a seed a request.
"""

import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipt_datasets.errors import EngineError, one_line
from ipt_datasets.synthesis.engines import DEFAULT_MAX_MODEL_LEN, Completion, Request
from ipt_datasets.synthesis.engines.device import free_memory, is_out_of_memory, place
from ipt_datasets.synthesis.engines.kv_slots import KVSlots, Prefixes, common_prefix, use_grouped_attention
from ipt_datasets.synthesis.engines.sampling import draw, is_plain
from ipt_datasets.synthesis.tokens import HFTokenizer, PromptTokenizer

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Row:
    """A request under way; `seen` marks the ids that a repetition penalty is for, None without one."""

    request_id: int
    request: Request
    limit: int
    stream: random.Random
    generated: list[int] = field(default_factory=list)
    cached: int | None = None
    seen: Any = None

    @property
    def ids(self) -> list[int]:
        return self.request.prompt + self.generated


class TransformersEngine:
    """A causal language model of transformers that decodes several rows at once.

    A row that has finished makes room for the next request at once. A prompt that begins like another one under way, or
    like one that finished lately, takes its keys and values over and computes only the rest.

    Args:
        model: a folder or a Hub id.
        revision: commit of a Hub id.
        max_model_len: prompt and completion together; None: the model's own, 4096 at most.
        tokenizer: None: the model's own.
        batch_size: how many rows are decoded together.
        cache_tokens: how many tokens of finished rows are kept for prompts that begin like them; None: 1024 a row.
        options: anything `AutoModelForCausalLM.from_pretrained` takes: dtype, device_map, attn_implementation,
            quantization_config, ... Without a device_map the model goes to this process's accelerator, if it has one.

    Raises:
        EngineError: torch or another package is missing, or the model cannot be loaded as asked.
    """

    kind = "transformers"

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        max_model_len: int | None = None,
        tokenizer: HFTokenizer | None = None,
        batch_size: int = 16,
        cache_tokens: int | None = None,
        **options: Any,
    ) -> None:
        if batch_size < 1:
            raise EngineError(f"batch_size={batch_size} leaves the engine no row to work on; give 1 or more")
        try:
            import torch
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise EngineError(
                f"the transformers engine needs torch, which cannot be imported ({one_line(error)}); "
                'run `pip install "ipt-datasets[smol]"`, or use another engine'
            ) from error
        self._torch = torch
        try:
            loaded = AutoModelForCausalLM.from_pretrained(model, revision=revision, **{"dtype": "auto", **options})
            self._model: Any = loaded if "device_map" in options else place(loaded, any_dtype="dtype" in options)
            self.tokenizer: PromptTokenizer = tokenizer or HFTokenizer.from_pretrained(model, revision)
        except Exception as error:  # transformers raises whatever its parts raise
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise EngineError(
                f"transformers cannot load {str(model)!r}{given and f' with {given}'}: {one_line(error)}; expected "
                "a folder or Hub id of a causal language model, and options of its from_pretrained"
            ) from error
        config = self._model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_MODEL_LEN
        self.max_model_len = min(longest, DEFAULT_MAX_MODEL_LEN) if max_model_len is None else max_model_len
        if not 2 <= self.max_model_len <= longest:
            raise EngineError(
                f"max_model_len={max_model_len} does not fit {str(model)!r}, which reads up to {longest} tokens; "
                "give a number from 2 to that, or None"
            )
        self.max_requests = batch_size
        self.kv_tokens: int | None = None
        self._vocabulary: int = config.vocab_size
        ends = self._model.generation_config.eos_token_id
        self._ends = {self.tokenizer.bos_id, self.tokenizer.eos_id, *(ends if isinstance(ends, list) else [ends])}
        self._prefixes = Prefixes(1024 * batch_size if cache_tokens is None else cache_tokens)
        self._rows: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._refused: list[tuple[int, Completion]] = []
        self._dead = ""
        self._slots = KVSlots(batch_size)
        if "attn_implementation" not in options:
            use_grouped_attention(self._model)
        self._probe(str(model))

    def submit(self, request_id: int, request: Request) -> None:
        """Take a request."""
        room = self.max_model_len - len(request.prompt)
        said = ""
        if not request.prompt or min(room, request.max_tokens) < 1:
            said = (
                f"{len(request.prompt)} tokens of prompt and {request.max_tokens} to generate; expected at least one "
                f"of each, together at most max_model_len={self.max_model_len}"
            )
        elif not 0 <= min(request.prompt) <= max(request.prompt) < self._vocabulary:
            said = f"the prompt holds ids outside the model's vocabulary of {self._vocabulary}; is this its tokenizer?"
        if said:
            self._refused.append((request_id, Completion([], "error", error=said)))
        else:
            limit = min(room, request.max_tokens)
            self._waiting.append(_Row(request_id, request, limit, random.Random(request.seed)))

    def step(self) -> list[tuple[int, Completion]]:
        """Decode until a row has finished; give all that have."""
        if self._dead:
            raise EngineError(self._dead)
        finished, self._refused = self._refused, []
        try:
            with self._torch.inference_mode():
                while not finished and (self._waiting or self._rows):
                    finished = [*self._admit(), *self._decode()]
        except Exception as error:  # a device that failed, or a defect in the model's code
            self._dead = (
                f"the transformers engine died ({type(error).__name__}: {one_line(error)}); what was finished is "
                "kept; start again, with a smaller batch_size if memory ran out"
            )
            raise EngineError(self._dead) from error
        return finished

    def abort(self, request_ids: list[int]) -> None:
        """Forget requests, whether they wait or run."""
        gone = set(request_ids)
        self._refused = [answer for answer in self._refused if answer[0] not in gone]
        self._waiting = deque(row for row in self._waiting if row.request_id not in gone)
        if self._dead:
            return
        with self._torch.inference_mode():
            for index in reversed(range(len(self._rows))):
                if self._rows[index].request_id in gone:
                    self._drop(index)

    def close(self) -> None:
        """Free the model."""
        self._dead = self._dead or "this transformers engine is closed; build another one"
        self._model = self._slots = self._prefixes = None  # type: ignore[assignment]
        self._rows, self._refused = [], []
        self._waiting.clear()
        free_memory()

    def _probe(self, name: str) -> None:
        """Show at once whether the model keeps keys and values as the engine lays them out."""
        said = "it keeps no keys and values a token, as Mamba and its like"
        try:
            with self._torch.inference_mode():
                _, key_values = self._read_prompt([self.tokenizer.eos_id], 0, [])
            shapes = [tensor.shape for layer in key_values for tensor in layer]
            plain = bool(shapes) and all(shape[0] == shape[2] == 1 for shape in shapes)
        except Exception as error:  # whatever a model's code raises on a cache that is not its own
            said, plain = one_line(error), False
        if not plain:
            raise EngineError(f"the transformers engine cannot run {name!r}: {said}; use engine='vllm' for it")

    def _admit(self) -> list[tuple[int, Completion]]:
        """Read the prompts of waiting requests while there are free rows."""
        finished = []
        while self._waiting and len(self._rows) < self._slots.rows:
            row = self._waiting.popleft()
            try:
                known, past = self._shared_prefix(row.ids)
                logits, key_values = self._read_prompt(row.ids, known, past)
                self._slots.join(key_values)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = one_line(error)
            else:
                self._rows.append(row)
                row.cached = known if row.cached is None else row.cached
                if row.request.repetition_penalty != 1.0:
                    row.seen = logits.new_zeros(len(logits), dtype=self._torch.bool)
                    row.seen[row.ids] = True
                token = draw(logits, row.request, row.stream, row.seen, row.generated)
                finished += self._append(len(self._rows) - 1, token)
                continue
            # Outside of the except clause, whose error would hold on to the tensors of the failed call.
            if self._make_room(len(self._rows)):
                self._waiting.appendleft(row)
            else:
                finished.append((row.request_id, Completion([], "error", error=f"out of memory: {said}")))
        return finished

    def _decode(self) -> list[tuple[int, Completion]]:
        """Generate one token a row."""
        if not self._rows:
            return []
        device = self._model.device
        try:
            cache, mask, positions = self._slots.begin_step()
            output = self._model(
                self._torch.tensor([row.generated[-1:] for row in self._rows], device=device),
                attention_mask=self._torch.tensor(mask, device=device),
                position_ids=self._torch.tensor(positions, device=device),
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1].float()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said = one_line(error)
        else:
            self._slots.end_step()
            tokens = logits.argmax(-1).tolist()
            finished = []
            for index in reversed(range(len(self._rows))):  # a row that leaves is replaced by a later one
                row = self._rows[index]
                if not is_plain(row.request):
                    tokens[index] = draw(logits[index], row.request, row.stream, row.seen, row.generated)
                finished += self._append(index, tokens[index])
            return finished
        if self._make_room(len(self._rows) // 2):
            return []
        row = self._drop(0)
        return [(row.request_id, Completion([], "error", row.cached or 0, f"out of memory: {said}"))]

    def _append(self, index: int, token: int) -> list[tuple[int, Completion]]:
        """Add a token to a row; give its completion if that ended it."""
        row = self._rows[index]
        row.generated.append(token)
        if row.seen is not None:
            row.seen[token] = True
        if token in self._ends or self._has_stop_string(row):
            reason = "stop"
        elif len(row.generated) == row.limit:
            reason = "length"
        else:
            return []
        held = self._slots.lengths[index]
        if self._prefixes.takes(held):
            self._prefixes.keep(row.ids[:held], self._slots.read(index, held))
        self._drop(index)
        return [(row.request_id, Completion(row.generated, reason, min(row.cached or 0, len(row.request.prompt))))]

    def _has_stop_string(self, row: _Row) -> bool:
        if not row.request.stop:
            return False
        # A token holds one byte of text at least, so a stop string that just ended began within so many.
        longest = max(len(stop.encode()) for stop in row.request.stop)
        text = self.tokenizer.decode(row.generated[-longest:])
        return any(stop in text for stop in row.request.stop)

    def _drop(self, index: int) -> _Row:
        self._slots.leave(index)
        row, last = self._rows[index], self._rows.pop()
        if row is not last:
            self._rows[index] = last
        return row

    def _make_room(self, rows: int) -> bool:
        """Free what is kept, else all rows beyond the first `rows`, which wait again; False if nothing can be freed."""
        if not self._prefixes.clear():
            if not rows:
                return False
            logger.warning("out of memory with %d rows: from now on %d are decoded together", len(self._rows), rows)
            while len(self._rows) > rows:
                self._waiting.appendleft(self._drop(len(self._rows) - 1))
            self._slots.rows = rows
        free_memory()
        return True

    def _shared_prefix(self, ids: list[int]) -> tuple[int, Sequence[Sequence[Any]]]:
        """Find the keys and values that a running or a finished row shares with `ids`, whose last id is always read."""
        shared = [
            common_prefix(ids, row.ids[:length]) for row, length in zip(self._rows, self._slots.lengths, strict=True)
        ]
        known, past = self._prefixes.find(ids, least=max(shared, default=0))
        if known or not any(shared):
            return min(known, len(ids) - 1), past
        known = min(max(shared), len(ids) - 1)
        return known, self._slots.read(shared.index(max(shared)), known)

    def _read_prompt(self, ids: list[int], known: int, past: Sequence[Sequence[Any]]) -> tuple[Any, list[list[Any]]]:
        """Read `ids`, of which `past` holds the first `known`; give the last logits and all keys and values."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for index, (keys, values) in enumerate(past):
            cache.update(keys[:, :, :known], values[:, :, :known], index)
        device = self._model.device
        output = self._model(
            self._torch.tensor([ids[known:]], device=device),
            position_ids=self._torch.arange(known, len(ids), device=device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[0, -1].float(), [[layer.keys, layer.values] for layer in cache.layers]
