"""What is found out about servers before the first request: their model, its length, the form that they take."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from ipt_datasets.errors import EngineError
from ipt_datasets.synthesis.engines import DEFAULT_MAX_MODEL_LEN, Request
from ipt_datasets.synthesis.engines.endpoint import Card, Endpoint, RefusedError
from ipt_datasets.synthesis.engines.wire import Form, end_ids, usage_of
from ipt_datasets.synthesis.tokens import PromptTokenizer

logger = logging.getLogger(__name__)

PROBE = "In 1719 a harbour was opened; 37.5% was coffee (кофе, 珈琲, καφές): naïvely,\n\n    if x_1 >= 20: brew(x_1)"
"""Its number of tokens tells one tokenizer from another."""


def choose_card(endpoint: Endpoint, cards: Sequence[Card], names: Collection[str], served_model: str | None) -> Card:
    """Give the model of a server that is the recipe's.

    Args:
        endpoint: the server.
        cards: its models.
        names: what the recipe's model is called: its name, its folder, its revision.
        served_model: what the user says it is called there; None: it has one of the names.

    Raises:
        EngineError: the server has no such model.
    """
    wanted = {served_model} if served_model else set(names)
    for card in cards:
        if card.id in wanted or (not served_model and _is_one_of(card.root, wanted)):
            return card
    served = ", ".join(repr(card.id) + (f" ({card.root})" if card.root != card.id else "") for card in cards)
    if served_model:
        raise EngineError(f"{endpoint.shown} has no model {served_model!r}; it serves {served}")
    raise EngineError(
        f"{endpoint.shown} serves {served}, and the recipe's model is {next(iter(names))!r}; serve that one, or, if "
        f"it is the same under another name, say so with the engine's option served_model={cards[0].id}"
    )


async def find_form(endpoint: Endpoint, model: str, tokenizer: PromptTokenizer) -> Form:
    """Find out how a server is asked, by requests of one token.

    Raises:
        EngineError: it takes no form that is known, has another tokenizer, or counts no tokens where that matters.
    """
    text_ids = tokenizer.encode(PROBE)
    ids = [*([] if tokenizer.bos_id is None else [tokenizer.bos_id]), *text_ids]
    refused = ""
    for form in _forms(model):
        try:
            # As a string the text goes without our BOS, to see what the server puts there.
            read = await _tokens_read(endpoint, _probe(form, ids if form.takes_ids else PROBE, tokenizer))
        except RefusedError as refusal:
            if refusal.status in (401, 403):
                raise EngineError(f"{endpoint.shown} wants another key ({refusal}); set OPENAI_API_KEY") from None
            refused = str(refusal)
            continue
        if form.takes_ids and read in (len(ids), None):
            await _check_tokenizer(endpoint, form, text_ids, tokenizer)
            endpoint.well = _probe(form, form.prompt(ids, tokenizer), tokenizer)
            return form
        if not form.takes_ids:
            logger.warning("%s takes prompts only as strings: where words meet, its ids may be others", endpoint.shown)
            return await _find_bos(endpoint, form, ids, text_ids, read, tokenizer)
        refused = f"it read {read} tokens where {len(ids)} ids were sent"
    raise EngineError(f"{endpoint.shown} takes no completion request: {refused}")


async def _find_bos(
    endpoint: Endpoint, form: Form, ids: list[int], text_ids: list[int], read: int | None, tokenizer: PromptTokenizer
) -> Form:
    """Find out whether a server that takes strings puts a BOS before them, and see that prompts then have one."""
    if read is None:
        raise EngineError(
            f"{endpoint.shown} takes no token ids and does not say in usage.prompt_tokens how many tokens it read, so "
            "that nobody knows whether it adds a BOS; use a server that does one of them, such as `vllm serve`"
        )
    _compare(endpoint, read, text_ids)
    form = replace(form, adds_bos=read == len(text_ids) + 1)
    endpoint.well = _probe(form, form.prompt(ids, tokenizer), tokenizer)
    if not form.adds_bos and len(ids) > len(text_ids):
        again = await _tokens_read(endpoint, endpoint.well)
        if again != len(ids):
            raise EngineError(
                f"{endpoint.shown} takes no token ids, adds no BOS and does not read ours from a string; use a server "
                "that does one of them, such as `vllm serve`"
            )
    return form


async def _check_tokenizer(endpoint: Endpoint, form: Form, text_ids: list[int], tokenizer: PromptTokenizer) -> None:
    """See that a server that takes ids means the same by them; one that takes nothing else cannot be asked."""
    try:
        answer = await endpoint.try_once(_probe(form, PROBE, tokenizer))
    except RefusedError:
        return
    read = usage_of(answer, "prompt_tokens")
    if read is not None:
        _compare(endpoint, read, text_ids)
    told = answer["choices"][0].get("prompt_token_ids")  # vLLM tells them
    if isinstance(told, list) and text_ids not in (told, told[1:]):
        raise EngineError(
            f"{endpoint.shown} writes a text in other token ids than the tokenizer of the recipe's model: it has "
            "another model; serve the recipe's"
        )


async def _tokens_read(endpoint: Endpoint, body: Mapping[str, Any]) -> int | None:
    return usage_of(await endpoint.try_once(body), "prompt_tokens")


def _probe(form: Form, prompt: list[int] | str, tokenizer: PromptTokenizer) -> dict[str, Any]:
    return form.body(Request([], max_tokens=1), prompt, end_ids(tokenizer))


def _compare(endpoint: Endpoint, read: int, text_ids: list[int]) -> None:
    if read not in (len(text_ids), len(text_ids) + 1):
        raise EngineError(
            f"{endpoint.shown} reads {read} tokens in a text where the tokenizer of the recipe's model has "
            f"{len(text_ids)}, or one more with a BOS: it has another model; serve the recipe's"
        )


def _forms(model: str) -> Iterator[Form]:
    for takes_ids in (True, False):
        for takes_extras in (True, False):
            yield Form(model, takes_ids, takes_extras)


def _is_one_of(root: str, names: Collection[str]) -> bool:
    """Tell whether a model was loaded from one of these; folders may lie elsewhere on the server's machine."""
    is_folder = root.startswith(("/", "."))
    return root in names or (is_folder and PurePath(root).name in {PurePath(name).name for name in names})


def check_arguments(
    urls: Sequence[str], max_concurrency: int, timeout: float, max_retries: int, unknown: Mapping[str, Any]
) -> None:
    """See that servers and options are what the engine takes.

    Raises:
        EngineError: they are not.
    """
    if unknown:
        raise EngineError(
            f"the server engine has no option {', '.join(unknown)}; it has served_model, api_key, max_concurrency, "
            "request_timeout, max_retries; how the model runs is said to the server itself"
        )
    if not urls:
        raise EngineError(
            "the server engine needs a server: give servers=['http://host:8000/v1'], --server URL, or set "
            "OPENAI_BASE_URL, which other processes see too"
        )
    if len(set(urls)) < len(urls):
        raise EngineError("a server is given twice; to ask it more at once, raise max_concurrency")
    for option, value in (("max_concurrency", max_concurrency), ("max_retries", max_retries)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise EngineError(f"{option}={value!r}: expected a whole number of at least 1")
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout <= 0:
        raise EngineError(f"request_timeout={timeout!r}: expected seconds, more than 0")


def own_length(model: str | Path, revision: str | None, cards: Mapping[Endpoint, Card]) -> int:
    """Give the length of the model itself, as the other engines do; where it is not told, the shortest server's."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, revision=revision).get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
    except (OSError, ValueError):
        longest = None
    told = [card.max_model_len for card in cards.values() if card.max_model_len]
    return min(longest or min(told, default=DEFAULT_MAX_MODEL_LEN), DEFAULT_MAX_MODEL_LEN)


async def check_untold_length(endpoint: Endpoint, form: Form, max_model_len: int, tokenizer: PromptTokenizer) -> None:
    """See by one long request that a server that does not tell its length reads as much as the recipe wants.

    Raises:
        EngineError: it refuses such a prompt, or reads less of it than it was sent.
    """
    wanted = max_model_len - max_model_len // 64  # a string may come out a little longer on the other side
    once = tokenizer.encode(f"{PROBE}\n\n")
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = (bos + once * (wanted // len(once) + 1))[: max(wanted - 1, 1)]
    told = (
        f"{endpoint.shown} does not tell its length, and the recipe wants {max_model_len} tokens; a try with {len(ids)}"
    )
    do = "serve the model with that length, or give a smaller max_model_len"
    try:
        answer = await endpoint.try_once(_probe(form, form.prompt(ids, tokenizer), tokenizer))
    except RefusedError as refusal:
        raise EngineError(f"{told} was refused ({refusal}); {do}") from None
    read = usage_of(answer, "prompt_tokens")
    if read is not None and read < 0.9 * len(ids):
        raise EngineError(f"{told} was cut: it read {read}; {do}")


def check_lengths(cards: Mapping[Endpoint, Card], max_model_len: int) -> None:
    """See that every server reads as much as the recipe wants.

    Raises:
        EngineError: one does not.
    """
    for endpoint, card in cards.items():
        if card.max_model_len and card.max_model_len < max_model_len:
            raise EngineError(
                f"{endpoint.shown} reads up to {card.max_model_len} tokens and the recipe wants {max_model_len}; serve "
                f"the model with that length (`--max-model-len` of vLLM), or give max_model_len={card.max_model_len}"
            )
