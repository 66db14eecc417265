"""An engine without a model: deterministic, needs no weights and no tokenizer file, and writes well-formed pairs.

For tests, dry runs and notebooks. What it writes about a text depends on the text alone.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence

from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.engines import DEFAULT_MAX_MODEL_LEN, Completion, Request
from ipt_datasets.synthesis.markup import PAPER, Markup
from ipt_datasets.synthesis.tokens import PromptTokenizer

BOS, EOS = 1, 2
TURN_END = "\n"
PIECE = re.compile(r" ?\w{1,5}| ?[^\w\s]|\s", re.DOTALL)
SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
STRANGERS = ("umbrella", "trombone", "glacier", "saddle", "pepper", "lantern", "walnut", "compass")


class ScriptedTokenizer:
    """A reversible tokenizer without a vocabulary: an id is the bytes of its piece, read as a number."""

    bos_id: int | None = BOS
    eos_id: int = EOS
    control_tokens: Mapping[str, int] = {"<s>": BOS, "</s>": EOS}

    def encode(self, text: str) -> list[int]:
        """Encode text; see `PromptTokenizer`."""
        return [int.from_bytes(b"\x01" + piece.encode()) for piece in PIECE.findall(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several texts; see `PromptTokenizer`."""
        return list(map(self.encode, texts))

    def encode_continuation(self, text: str) -> list[int]:
        """Encode text that goes on; the same as `encode`, since a piece never depends on what stands before it."""
        return self.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Decode ids; see `PromptTokenizer`."""
        control = {BOS: "<s>", EOS: "</s>"}
        return "".join(control[id_] if id_ in control else _piece_of(id_) for id_ in ids)

    def chat_pieces(self) -> tuple[list[int], list[int], list[int]]:
        """Give the ids around the turns of a chat."""
        return [BOS], self.encode(TURN_END), [EOS, BOS]


class ScriptedEngine:
    """Answers prompts by a script instead of a model.

    Args:
        markup: how its prompts are written; it answers in the same.
        script: gives the completion for a raw text; by default `write_pairs`, rendered in the markup.
        max_model_len: prompt and completion together, in the scripted tokenizer's pieces.
        max_requests: how many requests one `step` answers.
    """

    kind = "scripted"

    def __init__(
        self,
        markup: Markup = PAPER,
        script: Callable[[str], str] | None = None,
        max_model_len: int | None = None,
        max_requests: int = 64,
    ) -> None:
        self.tokenizer: PromptTokenizer = ScriptedTokenizer()
        self.max_model_len = max_model_len or DEFAULT_MAX_MODEL_LEN
        self.max_requests = max_requests
        self.kv_tokens: int | None = None
        self._markup = markup
        self._script = script or (lambda text: markup.render_pairs(write_pairs(text)))
        self._pending: dict[int, Request] = {}

    def submit(self, request_id: int, request: Request) -> None:
        """Take a request."""
        self._pending[request_id] = request

    def step(self) -> list[tuple[int, Completion]]:
        """Answer the oldest requests."""
        answered = list(self._pending)[: self.max_requests]
        return [(request_id, self._answer(self._pending.pop(request_id))) for request_id in answered]

    def abort(self, request_ids: list[int]) -> None:
        """Forget requests."""
        for request_id in request_ids:
            self._pending.pop(request_id, None)

    def close(self) -> None:
        """Nothing to free."""

    def _answer(self, request: Request) -> Completion:
        last = len(request.prompt) - 1 - request.prompt[::-1].index(BOS)
        asked = self.tokenizer.decode(request.prompt[last + 1 :])
        closing = self._markup.text_close + TURN_END * self._markup.is_chat + self._markup.prefill
        text, _, begun = asked.removeprefix(self._markup.text_open).partition(closing)
        # A prompt that holds the beginning of a completion is gone on with, where the script writes that somewhere.
        written = self._script(self._markup.unescape(text))
        ids = [*self.tokenizer.encode(written.partition(begun)[2] if begun else written), EOS]
        if len(ids) > request.max_tokens:
            return Completion(ids[: request.max_tokens], "length")
        return Completion(ids, "stop")


def write_pairs(text: str) -> list[Pair]:
    """Write pairs about a text, of all four kinds where it has enough words; every response is true of the text."""
    sentences = [found.strip() for found in SENTENCE.findall(text) if found.strip()] or [text.strip()]
    words = re.findall(r"\w+", text)
    pairs = [Pair(f"How does the passage that mentions “{_clip(sentences[0], 30)}” begin?", _clip(sentences[0], 160))]
    if len(words) < 6:
        return pairs
    draw = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    at = draw % (len(words) - 3)
    first, second, third = words[at : at + 3]
    pairs.append(Pair(f"Which word comes after “{first} {second}” in the passage?", third))
    known = {word.lower() for word in words}
    strangers = [word for word in STRANGERS if word not in known][:3]
    longest = max(words, key=len)
    options = [*strangers[: draw % 4], longest, *strangers[draw % 4 :]]
    pairs.append(Pair("Which of these words does the passage use?", longest, tuple(options)))
    if len(sentences) > 1:
        counted = "; ".join(f"{number}: {_clip(sentence, 40)}" for number, sentence in enumerate(sentences[:5], 1))
        more = f" and so on up to number {len(sentences)}" if len(sentences) > 5 else ""
        pairs.append(
            Pair(
                f"How many sentences does the passage with the word “{longest}” have?",
                str(len(sentences)),
                rationale=f"Counting the sentences gives {counted}{more}",
            )
        )
        pairs.append(Pair(f"What is the last thing said in the passage about “{longest}”?", _clip(sentences[-1], 160)))
    return pairs


def _clip(text: str, length: int) -> str:
    """Cut at a word's end, where there is one."""
    if len(text) <= length:
        return text
    head = text[:length]
    return (head.rsplit(None, 1)[0] if " " in head.strip() else head).strip()


def _piece_of(id_: int) -> str:
    return id_.to_bytes((id_.bit_length() + 7) // 8)[1:].decode(errors="replace")
