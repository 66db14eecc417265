"""Documents as the token ids that a trainer reads: BOS, the text, EOS; nothing in a text becomes a control id."""

import hashlib
from collections.abc import Sequence
from typing import Any

from ipt_datasets.errors import EngineError, RecipeError, one_line
from ipt_datasets.models.embedded import EMBEDDED
from ipt_datasets.models.identity import locate
from ipt_datasets.synthesis.tokens import HFTokenizer


class DocumentTokenizer:
    """A tokenizer that puts BOS, where it has one, and EOS around each document.

    Args:
        tokenizer: encodes the texts; its backend is set to read control tokens in a text as plain text.
        name: what the user called it.

    Attributes:
        bos: the string of BOS, "" for tokenizers without one.
        eos: the string of EOS.
        eos_id: its id.
        identity: what decides the ids, as a recipe holds it.
    """

    def __init__(self, tokenizer: HFTokenizer, name: str) -> None:
        backend = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise RecipeError(f"tokenizer {name!r} has no fast backend; expected one with a tokenizer.json")
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend: Any = backend
        self._before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        self.eos_id = tokenizer.eos_id
        self.bos = "" if tokenizer.bos_id is None else str(tokenizer.tokenizer.bos_token)
        self.eos = str(tokenizer.tokenizer.eos_token)
        digest = hashlib.sha256(f"{self._before}:{self.eos_id}:{backend.to_str()}".encode()).hexdigest()
        self.identity = {"name": name, "sha256": digest[:32], "bos": self.bos, "eos": self.eos}

    @classmethod
    def load(cls, name: str, revision: str | None = None) -> "DocumentTokenizer":
        """Load the tokenizer of a model.

        Args:
            name: "smol" (the embedded model), a Hub id or a folder.
            revision: branch, tag or commit of a Hub id.

        Raises:
            RecipeError: there is no such tokenizer, or it has no EOS.
            EngineError: the embedded model is not installed.
        """
        expected = "expected smol, a Hub id or a folder with a tokenizer"
        try:
            path = locate(name, "transformers")
        except EngineError as error:
            if name in EMBEDDED:
                raise
            raise RecipeError(f"tokenizer {name!r}: there is no such folder; {expected}") from error
        try:
            return cls(HFTokenizer.from_pretrained(path, revision), name)
        except RecipeError:
            raise
        except Exception as error:  # transformers, the Hub client and tokenizers have types of their own
            raise RecipeError(f"tokenizer {name!r} cannot be loaded: {one_line(error)}; {expected}") from error

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each document, BOS and EOS included."""
        around = len(self._before) + 1
        return [len(encoded) + around for encoded in self._encode(texts)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the ids of each document, BOS and EOS included."""
        return [[*self._before, *encoded.ids, self.eos_id] for encoded in self._encode(texts)]

    def literal(self, text: str) -> str:
        """Write BOS and EOS into the text, as strings, for trainers that tokenize such texts."""
        return f"{self.bos}{text}{self.eos}"

    def without_literals(self, text: str) -> str:
        """Undo `literal`; leaves other texts as they are."""
        return text.removeprefix(self.bos).removesuffix(self.eos)

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        encoded: list[Any] = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return encoded
