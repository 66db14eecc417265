"""What a synthesizer asks of the thing that runs its model: one small protocol, four engines behind it.

Requests are added while others run: `submit` never blocks and `step` returns as soon as at least one request has
finished, so that shot r+1 of a chain can be submitted the moment shot r is parsed.
"""

from typing import NamedTuple, Protocol

from ipt_datasets.synthesis.tokens import PromptTokenizer

DEFAULT_MAX_MODEL_LEN = 4096
"""Prompt and completion together, where nobody says and the model reads more or does not tell."""


class Request(NamedTuple):
    """One prompt for the model.

    Attributes:
        prompt: token ids, BOS and earlier shots included.
        max_tokens: how many tokens may be generated; prompt and max_tokens together fit the engine's max_model_len.
        seed: for sampling at a temperature above 0, one stream a request.
        stop: strings after which generation may end (the engine may return a few tokens more).
    """

    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Completion(NamedTuple):
    """What the model wrote.

    Attributes:
        token_ids: exactly the generated ids, with the control token that ended them where there is one.
        finish_reason: "stop" (a control token or a stop string), "length", or "error".
        cached_tokens: how many prompt tokens the engine had in its prefix cache.
        error: the engine's words when finish_reason is "error".
    """

    token_ids: list[int]
    finish_reason: str
    cached_tokens: int = 0
    error: str = ""


class Engine(Protocol):
    """Runs one language model over token-id prompts.

    Attributes:
        kind: "vllm", "transformers", "server" or "scripted".
        tokenizer: the model's tokenizer, as prompts need it.
        max_model_len: the longest prompt plus completion, in tokens.
        max_requests: how many requests are worth having under way: those it works on at once and, where its process
            does not wait for the next, a few more; beyond that they only wait.
        kv_tokens: how many tokens its KV cache holds, None where that does not bind.
    """

    kind: str
    tokenizer: PromptTokenizer
    max_model_len: int
    max_requests: int
    kv_tokens: int | None

    def submit(self, request_id: int, request: Request) -> None:
        """Take a request; never blocks. `request_id` is unique among the requests that are under way."""

    def step(self) -> list[tuple[int, Completion]]:
        """Work until at least one request has finished and give all that have; [] when none is under way.

        Raises:
            EngineError: the engine died; what is under way is lost. A failure of one request is no exception
                but a completion whose finish_reason is "error".
        """

    def abort(self, request_ids: list[int]) -> None:
        """Forget requests that are under way; their ids may be used again."""

    def close(self) -> None:
        """Free the model; the engine cannot be used after it."""
