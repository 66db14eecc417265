"""Text to token ids and back, such that text never becomes a control id."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ipt_datasets.errors import EngineError, IPTError, RecipeError, one_line


class PromptTokenizer(Protocol):
    """What prompts need of a tokenizer.

    Attributes:
        bos_id: begins a shot; None for tokenizers without one.
        eos_id: ends a shot.
        control_tokens: every string that the tokenizer would turn into a single control or added id, with that id.
    """

    bos_id: int | None
    eos_id: int
    control_tokens: Mapping[str, int]

    def encode(self, text: str) -> list[int]:
        """Encode text that stands at the beginning of a sequence or behind a control id; no control id comes out."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several texts as `encode` does each."""

    def encode_continuation(self, text: str) -> list[int]:
        """Encode text that goes on after other text, whose last character is a line break or white space."""

    def decode(self, ids: list[int]) -> str:
        """Decode ids that go on after other text; control ids are written as their strings."""

    def chat_pieces(self) -> tuple[list[int], list[int], list[int]]:
        """Give the ids before the first user text of a chat, behind a user text, and before the next user text."""


class HFTokenizer:
    """A transformers tokenizer as prompts need it.

    Args:
        tokenizer: a `PreTrainedTokenizerBase` with a fast (tokenizers) backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise RecipeError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token, and every finished shot ends with one; "
                "set `eos_token` in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.control_tokens: Mapping[str, int] = {
            str(token): id_ for id_, token in tokenizer.added_tokens_decoder.items() if str(token).strip()
        }
        self._backend = _plain_backend(tokenizer)
        self._bytes_of = TokenBytes.of(self._backend)
        self._anchor = self.encode("\n")
        self._anchor_text = self._decode(self._anchor)

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None) -> "HFTokenizer":
        """Load the tokenizer of a Hub id or a folder."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(model, revision=revision))

    def encode(self, text: str) -> list[int]:
        """Encode text without control ids; see `PromptTokenizer`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several texts, in less time than one by one; see `PromptTokenizer`."""
        backend = self._backend
        if backend is None:
            return [self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts]
        # Whoever calls the transformers tokenizer in between sets these on the same backend.
        if not backend.encode_special_tokens:
            backend.encode_special_tokens = True
        if backend.truncation:
            backend.no_truncation()
        if backend.padding:
            backend.no_padding()
        return [encoded.ids for encoded in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_continuation(self, text: str) -> list[int]:
        """Encode text that goes on after a line break; see `PromptTokenizer`."""
        ids = self.encode("\n" + text)
        if ids[: len(self._anchor)] == self._anchor:
            return ids[len(self._anchor) :]
        return self.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Decode ids that go on after other text; see `PromptTokenizer`."""
        if self._bytes_of is not None:
            return b"".join(map(self._bytes_of.__getitem__, ids)).decode("utf-8", "replace")
        # A sentencepiece decoder drops the leading space of the first token; behind the anchor it stands.
        return self._decode(self._anchor + ids)[len(self._anchor_text) :]

    def chat_pieces(self) -> tuple[list[int], list[int], list[int]]:
        """Read from the chat template the ids before the first user text, behind a user text, and before the next.

        Raises:
            RecipeError: the tokenizer has no chat template, or one that does not keep the texts of its turns.
        """
        if not self.tokenizer.chat_template:
            raise RecipeError(
                f"markup 'chat' needs a chat template and {self.tokenizer.name_or_path!r} has none; "
                "choose markup='plain' or markup='paper'"
            )
        user, reply, then = "First text.", "First reply.", "Second text."
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
        asked = self._render_chat(turns[:1])
        answered = self._render_chat([*turns, {"role": "user", "content": then}])
        if user not in asked or reply not in answered or then not in answered:
            raise RecipeError(f"the chat template of {self.tokenizer.name_or_path!r} changes the texts of its turns")
        first, close = asked.split(user, 1)
        later = answered.split(reply, 1)[1].split(then, 1)[0]
        return self._encode_template(first), self._encode_template(close), self._encode_template(later)

    def _decode(self, ids: list[int]) -> str:
        if self._backend is None:
            slowly: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            return slowly
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def _render_chat(self, turns: list[dict[str, str]]) -> str:
        rendered: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return rendered

    def _encode_template(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def load_tokenizer(model: str | Path, revision: str | None) -> HFTokenizer:
    """Load the tokenizer of a model whose weights stay elsewhere.

    Raises:
        EngineError: it cannot be loaded.
    """
    try:
        return HFTokenizer.from_pretrained(model, revision)
    except IPTError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise
        raise EngineError(f"the tokenizer of {str(model)!r} cannot be loaded: {one_line(error)}") from error


class TokenBytes(dict[int, bytes]):
    """The bytes behind each id of a byte-level tokenizer, looked up as they are needed.

    Joined and read as UTF-8 they are what the backend's decoder gives, in about two fifths of its time.

    Args:
        backend: a `tokenizers.Tokenizer` whose decoder is `ByteLevel`.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend
        shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
        # Bytes that no character shows stand in the vocabulary as the characters from 256 on, in their order.
        hidden = [byte for byte in range(256) if byte not in shown]
        self._byte_of = {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}

    @classmethod
    def of(cls, backend: Any) -> "TokenBytes | None":
        """Give the bytes of a byte-level tokenizer, None for any other."""
        from tokenizers.decoders import ByteLevel

        return cls(backend) if backend is not None and isinstance(backend.decoder, ByteLevel) else None

    def __missing__(self, id_: int) -> bytes:
        token = self._backend.id_to_token(id_)
        if token is None:  # the decoder leaves it out, too
            return b""
        try:
            found = bytes([self._byte_of[character] for character in token])
        except KeyError:  # an added token, as it is written
            found = token.encode()
        self[id_] = found
        return found


def _plain_backend(tokenizer: Any) -> Any:
    """Give the fast backend of a tokenizer whose class adds nothing to it, else None.

    Called directly it needs half the time of a call through transformers.
    """
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    own = type(tokenizer).__mro__[: type(tokenizer).__mro__.index(PreTrainedTokenizerFast)]
    if any(name in vars(kind) for kind in own for name in ("__call__", "encode", "_encode_plus", "decode", "_decode")):
        return None
    return tokenizer.backend_tokenizer
