"""The key-value cache of the rows that a transformers model decodes together, as one block of memory a layer.

transformers' own growing cache copies all of itself at every token, and its attention then copies every key and value
once more for each query head that shares it. Neither happens here.
"""

from collections.abc import Sequence
from typing import Any

ATTENTION = "ipt_grouped_sdpa"
STRIDE = 256
"""Columns: how far a block grows at once, so that it is copied rarely."""

KeyValues = list[list[Any]]
"""Keys and values of each layer, tensors of shape [1, heads, tokens, head size]."""


def use_grouped_attention(model: Any) -> None:
    """Let `model` decode without copying keys for each query head, where it would use torch's own attention."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def grouped_attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
    ) -> tuple[Any, None]:
        batch, heads, tokens, size = query.shape
        kv_heads = key.shape[1]
        if tokens != 1 or kv_heads == heads or options.get("position_bias") is not None:
            attended: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            return attended
        # The heads of one group read the same keys: to the kernel they are several queries of one head.
        grouped = query.view(batch, kv_heads, heads // kv_heads, size)
        output = scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
        )
        return output.reshape(batch, 1, heads, value.shape[-1]), None

    if model.config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False):
        AttentionInterface.register(ATTENTION, grouped_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def _slot_layer() -> Any:
    from transformers.cache_utils import DynamicLayer

    class SlotLayer(DynamicLayer):  # type: ignore[misc]
        """One layer's block, [rows, heads, columns, head size] for keys and for values; rows end before column `end`.

        To the model it is a layer of a cache whose `keys` and `values` are views of the block.
        """

        def __init__(self) -> None:
            super().__init__()
            self.blocks: list[Any] = []
            self.end = self.start = self.used = 0
            self.is_initialized = True

        def reserve(self, rows: int, used: int, held: int, length: int, like: list[Any]) -> None:
            """Have a block of `rows` rows with room for `length` columns and one more; keep `used` rows of `held`."""
            if self.blocks and self.blocks[0].shape[0] == rows and length <= self.end < self.blocks[0].shape[2]:
                return
            self.keys = self.values = None
            end = -(-max(length, held) // STRIDE) * STRIDE
            blocks = []
            for index, old in enumerate(self.blocks or like):
                # Zeros, because what the mask hides is still multiplied by 0, and 0 times a stray NaN is NaN.
                new = old.new_zeros((rows, old.shape[1], end + STRIDE, old.shape[3]))
                if self.blocks:
                    new[:used, :, end - held : end] = self.blocks[index][:used, :, self.end - held : self.end]
                blocks.append(new)
            self.blocks, self.end = blocks, end

        def show(self, used: int, longest: int) -> None:
            self.used, self.start = used, self.end - longest
            self.keys, self.values = (block[:used, :, self.start : self.end] for block in self.blocks)

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            for block, states in zip(self.blocks, (key_states, value_states), strict=True):
                block[: self.used, :, self.end : self.end + 1] = states
            self.keys, self.values = (block[: self.used, :, self.start : self.end + 1] for block in self.blocks)
            return self.keys, self.values

    return SlotLayer()


class KVSlots:
    """Rows of different lengths in one block a layer: all end at the same column, so that a step writes one column.

    Args:
        rows: how many rows fit.

    Attributes:
        lengths: tokens held of each row under way.
    """

    def __init__(self, rows: int) -> None:
        self.lengths: list[int] = []
        self.rows = rows
        self._layers: list[Any] = []

    def join(self, key_values: KeyValues) -> None:
        """Take a row in; it becomes the last one."""
        length, row = key_values[0][0].shape[2], len(self.lengths)
        self._layers = self._layers or [_slot_layer() for _ in key_values]
        for layer, tensors in zip(self._layers, key_values, strict=True):
            if row == 0 and layer.blocks and length < layer.blocks[0].shape[2]:
                layer.end = length  # nothing to keep: begin at the left again
            layer.reserve(self.rows, row, max(self.lengths, default=0), length, tensors)
            for block, tensor in zip(layer.blocks, tensors, strict=True):
                block[row, :, layer.end - length : layer.end] = tensor[0]
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Give a row up; the last one takes its place."""
        last = len(self.lengths) - 1
        length = self.lengths.pop()
        if row == last:
            return
        self.lengths[row] = length
        for layer in self._layers:
            for block in layer.blocks:
                block[row, :, layer.end - length : layer.end] = block[last, :, layer.end - length : layer.end]

    def read(self, row: int, tokens: int) -> KeyValues:
        """Copy what is held of a row's first `tokens` tokens."""
        copies = []
        for layer in self._layers:
            start = layer.end - self.lengths[row]
            copies.append([block[row : row + 1, :, start : start + tokens].clone() for block in layer.blocks])
        return copies

    def begin_step(self) -> tuple[Any, list[list[int]], list[list[int]]]:
        """Prepare a forward of one token a row.

        Returns:
            The cache for the model, the attention mask [rows, columns] with the new tokens' column, and the
            position of each row's new token [rows, 1].
        """
        from transformers.cache_utils import Cache

        longest = max(self.lengths)
        for layer in self._layers:
            layer.reserve(self.rows, len(self.lengths), longest, longest, [])
            layer.show(len(self.lengths), longest)
        mask = [[0] * (longest - length) + [1] * (length + 1) for length in self.lengths]
        return Cache(layers=self._layers), mask, [[length] for length in self.lengths]

    def end_step(self) -> None:
        """Keep what the forward wrote; without this the step has not happened."""
        for layer in self._layers:
            layer.end += 1
        self.lengths = [length + 1 for length in self.lengths]


class Prefixes:
    """Keys and values of rows that have finished, for prompts that begin like them; the longest unused go first.

    Args:
        tokens: how many tokens are kept in all.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._kept: dict[tuple[int, ...], KeyValues] = {}

    def takes(self, tokens: int) -> bool:
        """Whether a row of so many tokens can be kept at all."""
        return tokens <= self._tokens

    def keep(self, ids: list[int], key_values: KeyValues) -> None:
        """Keep a row; the oldest ones leave."""
        self._kept[tuple(ids)] = key_values
        while sum(map(len, self._kept)) > self._tokens:
            del self._kept[next(iter(self._kept))]

    def find(self, ids: list[int], least: int) -> tuple[int, KeyValues]:
        """Give the row that shares the most ids with `ids`, and how many; (0, []) where none shares more than `least`.

        A row that is shared whole is kept no longer: the one that goes on from it holds all of it.
        """
        best: tuple[int, ...] = ()
        shared = least
        for kept in self._kept:
            if (common := common_prefix(ids, kept)) > shared:
                best, shared = kept, common
        if shared == least:
            return 0, []
        key_values = self._kept.pop(best)
        if shared < len(best):
            self._kept[best] = key_values
        return shared, key_values

    def clear(self) -> bool:
        """Keep nothing; whether there was anything."""
        kept, self._kept = self._kept, {}
        return bool(kept)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the ids with which both begin."""
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)
