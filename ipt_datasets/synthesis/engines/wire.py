"""What a server of OpenAI's protocol is sent, in the form that it takes, and what is read from its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipt_datasets.synthesis.engines import Completion, Request
from ipt_datasets.synthesis.tokens import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Form:
    """How one server is asked.

    Attributes:
        model: the model's name there.
        takes_ids: prompts go as token ids, else as strings.
        takes_extras: it takes what vLLM has beyond OpenAI's protocol.
        adds_bos: it puts a BOS before a string.
    """

    model: str
    takes_ids: bool = True
    takes_extras: bool = True
    adds_bos: bool = False

    def prompt(self, ids: list[int], tokenizer: PromptTokenizer) -> list[int] | str:
        """Write a prompt as the server takes it."""
        return ids if self.takes_ids else prompt_text(tokenizer, ids, self.adds_bos)

    def body(self, request: Request, prompt: list[int] | str, ends: list[int]) -> dict[str, Any]:
        """Give the JSON of a request; sampling is written out, since servers have defaults of their own.

        Args:
            request: what is asked.
            prompt: what `prompt` made of its ids.
            ends: the ids that end a completion.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
        }
        if request.temperature:
            body["seed"] = request.seed % 2**63  # vLLM takes 64 bits, and -1 for none
        if request.stop:
            body["stop"] = list(request.stop)
        if self.takes_extras or request.repetition_penalty != 1.0:
            body["repetition_penalty"] = request.repetition_penalty
        if self.takes_extras:
            body |= {
                "top_k": -1,
                "min_p": 0.0,
                "stop_token_ids": ends,
                "skip_special_tokens": False,
                "return_token_ids": True,
            }
        return body


def prompt_text(tokenizer: PromptTokenizer, ids: Sequence[int], adds_bos: bool) -> str:
    """Write a prompt as a string from which a server makes these ids, with its own BOS or with ours, never both."""
    begin = list(ids[:1]) if tokenizer.bos_id is not None and ids[:1] == [tokenizer.bos_id] else []
    rest = list(ids[len(begin) :])
    text = tokenizer.decode(rest)
    if not adds_bos:
        return tokenizer.decode(begin) + text
    first = text.split(maxsplit=1)[:1]
    # At the very beginning a sentencepiece tokenizer writes the space before the first word itself.
    own_space = first and text.startswith(" ") and tokenizer.encode(first[0])[:1] == rest[:1]
    return text[1:] if own_space else text


def read_answer(answer: Mapping[str, Any], request: Request, tokenizer: PromptTokenizer) -> Completion:
    """Read a completion: the generated ids where the server gives them, else its text encoded anew."""
    choice = answer["choices"][0]
    reason = choice.get("finish_reason")
    ids = choice.get("token_ids")
    if not isinstance(ids, list):
        # Where stop strings were asked for, nobody says whether one of them ended the text.
        unsaid = tokenizer.eos_id if reason == "stop" and not request.stop else None
        ids = _ids_of_text(choice["text"], choice.get("stop_reason") or unsaid, tokenizer)
    cached = usage_of(answer, "prompt_tokens_details", "cached_tokens") or 0
    if reason in ("stop", "length"):
        return Completion(list(ids), reason, cached)
    return Completion(list(ids), "error", cached, f"the server ended the request with {reason!r}")


def usage_of(answer: Mapping[str, Any], *path: str) -> int | None:
    """Give a number of the usage that a server tells; None where it does not."""
    told: Any = answer.get("usage")
    for key in path:
        told = told.get(key) if isinstance(told, Mapping) else None
    return told if isinstance(told, int) else None


def end_ids(tokenizer: PromptTokenizer) -> list[int]:
    """Give the ids that end a completion."""
    return sorted(_ends(tokenizer).values())


def _ends(tokenizer: PromptTokenizer) -> dict[str, int]:
    """Give the strings and ids that end a completion."""
    ends = {tokenizer.bos_id, tokenizer.eos_id}
    return {string: id_ for string, id_ in tokenizer.control_tokens.items() if id_ in ends}


def _ids_of_text(text: str, ended_by: object, tokenizer: PromptTokenizer) -> list[int]:
    """Encode a completion anew, up to the first end that stands in it; `ended_by` is an id, a string or None."""
    found = [(text.find(string), id_) for string, id_ in _ends(tokenizer).items() if string in text]
    if found:
        at, id_ = min(found)
        return [*tokenizer.encode_continuation(text[:at]), id_]
    ids = tokenizer.encode_continuation(text)
    return [*ids, ended_by] if isinstance(ended_by, int) else ids
