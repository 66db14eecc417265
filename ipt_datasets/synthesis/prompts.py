"""Prompts as token ids, built piece by piece, so that the prefix cache of an engine holds.

A finished shot keeps the ids that the engine generated. Where all its pairs were accepted, the next prompt of the
chain begins with exactly the ids that the engine has already seen; where not, the generated ids are reused as far as
they decode to the history as it is written anew, and only the rest is encoded.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ipt_datasets.errors import RecipeError
from ipt_datasets.schema import Pair
from ipt_datasets.synthesis.markup import Markup
from ipt_datasets.synthesis.tokens import PromptTokenizer

GUESSES = 6
"""So many guesses say where reused ids end before the search halves what is left, so that none takes long."""


class FinishedShot(NamedTuple):
    """Token ids of a shot that later prompts of its chain carry: from its text to the id that ends it."""

    ids: list[int]


class Frame(NamedTuple):
    """Ids around the pieces of a shot.

    Attributes:
        first: before the text of a prompt's first shot.
        later: before the text of any other shot.
        close: between the text and the completion.
        end: behind the completion.
    """

    first: list[int]
    later: list[int]
    close: list[int]
    end: list[int]


class Prompter:
    """Builds the prompts of a recipe's markup for one tokenizer.

    Args:
        tokenizer: of the model that will read the prompts.
        markup: how shots are written; its control tokens are replaced by the tokenizer's.
        primer: finished shots, each a text and its pairs, that stand before every chain.
    """

    def __init__(
        self, tokenizer: PromptTokenizer, markup: Markup, primer: Sequence[tuple[str, Sequence[Pair]]] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.markup = replace(markup, control_tokens=tuple(tokenizer.control_tokens))
        self.control_ids = frozenset(tokenizer.control_tokens.values()) | {tokenizer.eos_id}
        if tokenizer.bos_id is not None:
            self.control_ids |= {tokenizer.bos_id}
        self.frame = _chat_frame(tokenizer) if markup.is_chat else _plain_frame(tokenizer)
        self.primer = self.join([self.finish(self.encode_text(text), pairs) for text, pairs in primer])
        self.overhead = len(self.primer) + max(len(self.frame.first), len(self.frame.later))

    def encode_text(self, text: str) -> list[int]:
        """Encode a raw text with the markup around it, up to where the completion begins."""
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several raw texts as `encode_text` does each, in less time than one by one."""
        written, prefill = [self.markup.render_text(text) for text in texts], self.markup.prefill
        if not self.markup.is_chat:
            return self.tokenizer.encode_batch([one + prefill for one in written])
        begun = self.frame.close + self.tokenizer.encode_continuation(prefill)
        return [ids + begun for ids in self.tokenizer.encode_batch(written)]

    def join(self, history: Sequence[FinishedShot]) -> list[int]:
        """Give the ids of finished shots, one behind the other, each with its begin ids."""
        ids: list[int] = []
        for shot in history:
            ids += self.frame.later if ids else self.frame.first
            ids += shot.ids
        return ids

    def prompt(self, history: Sequence[FinishedShot], text_ids: list[int], budget: int) -> tuple[list[int], int]:
        """Build the prompt for the next shot; the oldest finished shots leave until it fits.

        Args:
            history: finished shots of the chain, oldest first.
            text_ids: what `encode_text` gave for the text.
            budget: how many tokens the prompt may have.

        Returns:
            The prompt, and how many shots of the history are in it.
        """
        if self.overhead + len(text_ids) > budget:
            raise RecipeError(f"a text of {len(text_ids)} tokens does not fit a prompt of {budget}; split it first")
        room = budget - self.overhead - len(text_ids)
        kept = 0
        for shot in reversed(history):
            room -= len(shot.ids) + len(self.frame.later)
            if room < 0:
                break
            kept += 1
        ids = list(self.primer)
        for shot in [*history[len(history) - kept :], FinishedShot(text_ids)]:
            ids += self.frame.later if ids else self.frame.first
            ids += shot.ids
        return ids, kept

    def completion_text(self, token_ids: Sequence[int]) -> str:
        """Decode what an engine generated, up to the first control id."""
        return self.tokenizer.decode(self._before_control(token_ids))

    def finish_exactly(self, text_ids: list[int], token_ids: list[int]) -> FinishedShot:
        """Keep a shot all of whose completion was accepted: exactly the ids that the engine has seen."""
        body = self._before_control(token_ids)
        ended_by = list(token_ids[len(body) : len(body) + 1])
        if ended_by and ended_by[0] != self.tokenizer.bos_id:
            return FinishedShot(text_ids + body + ended_by + self.frame.end[1:])
        return FinishedShot(text_ids + body + self.frame.end)

    def finish(
        self, text_ids: list[int], pairs: Sequence[Pair], token_ids: Sequence[int] = (), text: str | None = None
    ) -> FinishedShot:
        """Keep a shot with only its accepted pairs; generated ids are reused as far as they decode to them.

        Args:
            text_ids: what `encode_text` gave for the text.
            pairs: the accepted ones.
            token_ids: what the engine generated.
            text: what `completion_text` gave for them, where it is known already.
        """
        written = self.markup.render_pairs(pairs)
        reused, length = self._common(self._before_control(token_ids), written, text)
        rest = written[length:]
        body = reused + (self.tokenizer.encode_continuation(rest) if rest else [])
        return FinishedShot(text_ids + body + self.frame.end)

    def _before_control(self, token_ids: Sequence[int]) -> list[int]:
        if self.control_ids.isdisjoint(token_ids[:-1]):  # nearly always: at most the last id ends the completion
            return list(token_ids[:-1] if token_ids and token_ids[-1] in self.control_ids else token_ids)
        first = next(at for at, id_ in enumerate(token_ids) if id_ in self.control_ids)
        return list(token_ids[:first])

    def _common(self, token_ids: list[int], written: str, text: str | None = None) -> tuple[list[int], int]:
        """Give the longest beginning of generated ids that decodes to a beginning of `written`, and its characters.

        `text` is what the ids decode to, where that is known.
        """
        if not token_ids:
            return [], 0
        decoded = {0: "", len(token_ids): self.tokenizer.decode(token_ids) if text is None else text}

        def said(at: int) -> str:
            if at not in decoded:
                decoded[at] = self.tokenizer.decode(token_ids[:at])
            return decoded[at]

        shared = _shared_length(said(len(token_ids)), written)
        ids_a_character = len(token_ids) / max(len(said(len(token_ids))), 1)
        low, high, at = 0, len(token_ids), round(shared * ids_a_character)
        tries = 0
        # Decoding is what costs: each try goes where the shared characters end as far as the one before tells.
        while low < high:
            at = min(max(at, low + 1), high) if tries < GUESSES else (low + high + 1) // 2
            # An id may end inside a character: only the part before the replacement character counts.
            tried = said(at).rstrip("\ufffd")
            if written.startswith(tried):
                low = at
            else:
                high = at - 1
            at += round((shared - len(tried)) * ids_a_character)
            tries += 1
        while low and not written.startswith(said(low)):
            low -= 1
        return token_ids[:low], len(said(low))


def _shared_length(one: str, other: str) -> int:
    """Count the characters that two strings have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices by halves is faster than going through the characters
        middle = (low + high + 1) // 2
        if one.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def _plain_frame(tokenizer: PromptTokenizer) -> Frame:
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return Frame(first=begin, later=begin, close=[], end=[tokenizer.eos_id])


def _chat_frame(tokenizer: PromptTokenizer) -> Frame:
    first, close, later = tokenizer.chat_pieces()
    # The id that ends a turn stands behind the completion; the model usually generates it itself.
    return Frame(first=first, later=later[1:], close=close, end=later[:1])
