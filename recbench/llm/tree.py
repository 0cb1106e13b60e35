"""Answers of one prompt as a tree of tokens in one key-value cache.

Searches (beam, exact) try many answers of the same prompt, which share their beginnings. Here the tokens of all these
answers are further columns ("slots") behind the prompt's columns of one sequence, and an attention mask shows every
token the prompt, its own ancestors and itself. So the prompt is read once and stored once, a token that several
answers share is computed once, and nothing is ever copied or reordered when a search changes its mind.

Dimensions: B rows, P columns of prompt and pending inputs (left-padded), M new tokens per row, C columns in all,
H hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from recbench.contracts.errors import ConfigError
from recbench.llm.attention import grouped_attention
from recbench.llm.writer import Prefix, TitleWriter, positions, run_body

ROOT = -1
"""Parent of the tokens that come right after the prompt."""

_MASKABLE = ("sdpa", "eager")


class AnswerTree:
    """A growing tree of answer tokens behind each of B prompts.

    Slots are numbered from 0 in the order in which tokens are given, for every row alike. Results of a row do not
    depend on the other rows.

    Args:
        writer: writes the answers; its model must run with "sdpa" or "eager" attention.
        prefix: prompts that were read; stays as it is.
        room: slots to reserve at first. More are added as they are needed.

    Raises:
        ConfigError: the model's attention cannot be masked token by token.
    """

    def __init__(self, writer: TitleWriter, prefix: Prefix, room: int) -> None:
        self._writer = writer
        self._pending = prefix.pending
        self._layers = LayerKinds(writer.lm)
        n_pending = prefix.pending.shape[1]
        self._prompt_mask = prefix.read_mask
        self._positions = positions(self._prompt_mask)
        self._cache = _roomy_cache(writer.lm, prefix.cache, n_pending + room)
        self._sees = self._prompt_mask.new_zeros((len(self._prompt_mask), 0, 0), dtype=torch.bool)
        self._grow_mask(room)
        self.n_slots = 0

    @property
    def n_rows(self) -> int:
        """Rows that the tree still holds."""
        return len(self._prompt_mask)

    def start(self) -> Tensor:
        """Read the pending inputs, which are not needed afterwards. Returns logits (B, V) of the first answer token."""
        hidden = run_body(self._writer.lm, self._pending, self._prompt_mask, self._cache)
        return self._writer.logits(hidden[:, -1])

    def extend(self, token: Tensor, parent: Tensor, depth: int = 1) -> Tensor:
        """Add M tokens to every row, in slots ``n_slots`` to ``n_slots + M - 1``.

        Args:
            token: int64 (B, M). Rows that need fewer may hold any token id in the places left over.
            parent: int64 (B, M), the slot that each token follows, or ``ROOT``: an older slot or, where ``depth`` is
                more than 1, also one of this call that stands before the token.
            depth: the most tokens of this call that follow each other.

        Returns:
            (B, M, V): logits of what follows each token.
        """
        old, new = self.n_slots, token.shape[1]
        if old + new > self._sees.shape[1]:
            self._grow_mask(max(old + new, 2 * self._sees.shape[1]))
        seen = self._seen(parent, depth)
        self._sees[:, old : old + new, : old + new] = seen
        self.n_slots = old + new
        visible = torch.cat([self._prompt_mask.bool()[:, None].expand(-1, new, -1), seen], dim=2)
        position = visible.sum(dim=2) - 1
        self._positions = torch.cat([self._positions, position], dim=1)
        embeds = self._writer.embed(token)
        with grouped_attention(self._writer.lm):
            output = self._writer.lm.get_decoder()(
                inputs_embeds=embeds,
                attention_mask=self._layers.masks(visible, position, self._positions, embeds.dtype),
                position_ids=position,
                past_key_values=self._cache,
                use_cache=True,
            )
        return self._writer.logits(output.last_hidden_state)

    def _seen(self, parent: Tensor, depth: int) -> Tensor:
        """Return bool (B, M, n_slots + M): which slots are the new tokens' ancestors or themselves."""
        old, new = self.n_slots, parent.shape[1]
        row = torch.arange(self.n_rows, device=parent.device)[:, None]
        is_old = (parent >= 0) & (parent < old)
        seen = torch.eye(new, dtype=torch.bool, device=parent.device).expand(self.n_rows, -1, -1)
        seen = torch.cat([self._sees[row, parent.where(is_old, 0), :old] & is_old[:, :, None], seen], dim=2)
        # Within this call: after step i every token sees its next 2 ** i ancestors; ``ancestor`` is the one after.
        ancestor = (parent - old).clamp(min=-1)
        for _ in range((depth - 1).bit_length()):
            inside, index = ancestor >= 0, ancestor.clamp(min=0)
            seen = seen | (seen[row, index] & inside[:, :, None])
            ancestor = ancestor.gather(1, index).where(inside, -1)
        return seen

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these for good; row ``i`` of later calls is ``rows[i]`` of now.

        Args:
            rows: int64 (R,), ascending.
        """
        self._pending = self._pending[rows]
        self._prompt_mask = self._prompt_mask[rows]
        self._positions = self._positions[rows]
        self._sees = self._sees[rows]
        for layer in self._cache.layers:
            layer.batch_select_indices(rows)

    def _grow_mask(self, room: int) -> None:
        """Make place for ``room`` slots in the table of who sees whom."""
        old = self._sees
        self._sees = old.new_zeros((self.n_rows, room, room))
        self._sees[:, : old.shape[1], : old.shape[2]] = old


class LayerKinds:
    """What a model's layers may see, and in which form the model takes it.

    Raises:
        ConfigError: the model cannot take a mask of our own.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        config = lm.config.get_text_config()
        name = type(lm).__name__
        attention = config._attn_implementation
        if attention not in _MASKABLE:
            raise ConfigError(
                f"{name} runs with {attention} attention, which takes no mask per token.",
                f"Load it with attn_implementation {' or '.join(_MASKABLE)}.",
            )
        self.kinds = set(getattr(config, "layer_types", None) or [])
        unknown = self.kinds - {"full_attention", "sliding_attention"}
        if unknown:
            raise ConfigError(
                f"{name} has layers of kind {', '.join(sorted(unknown))}, which cannot hold a tree of answers.",
                "Choose a backbone with full or sliding attention (Qwen2, Llama, Gemma, ...).",
            )
        window = getattr(config, "sliding_window", None)
        self.window = None if self.kinds == {"full_attention"} else window

    def masks(
        self, visible: Tensor, position: Tensor, column_position: Tensor, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Return additive masks (B, 1, M, C) for the decoder.

        Args:
            visible: bool (B, M, C), what a token sees where the window does not matter.
            position: int64 (B, M), of the new tokens.
            column_position: int64 (B, C), of all columns.
        """
        full = _additive(visible, dtype)
        if self.window is None:
            return full
        near = position[:, :, None] - column_position[:, None, :] < self.window
        sliding = _additive(visible & near, dtype)
        if "full_attention" in self.kinds:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def _roomy_cache(lm: PreTrainedModel, read: Cache, room: int) -> DynamicCache:
    """Return a copy of a cache with room for more columns."""
    cache = DynamicCache()
    layers = read.layers or [None] * lm.config.get_text_config().num_hidden_layers
    cache.layers = [_RoomyLayer(layer, room) for layer in layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """Keys and values with room for more columns, so that a step writes its own columns only.

    Args:
        read: the layer to copy; None for an empty one.
        room: columns to come.
    """

    def __init__(self, read: DynamicLayer | None, room: int) -> None:
        super().__init__()
        self._room = room
        self._length = 0
        if read is not None and read.is_initialized:
            self.update(read.keys, read.values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take shape, type and device from the first keys and values."""
        super().lazy_initialization(key_states, value_states)
        self._all_keys = key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3]))
        self._all_values = value_states.new_empty((*value_states.shape[:2], 0, value_states.shape[3]))

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write new columns and return all columns so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._length, self._length + key_states.shape[2]
        if end > self._all_keys.shape[2]:
            self._move(slice(None), end + max(self._room, end // 2 if start else 0))
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._move(indices, self._all_keys.shape[2])
        self._show()

    def _move(self, rows: slice | Tensor, columns: int) -> None:
        for name in ("_all_keys", "_all_values"):
            old = getattr(self, name)[rows, :, : self._length]
            new = old.new_empty((*old.shape[:2], columns, old.shape[3]))
            new[:, :, : self._length] = old
            setattr(self, name, new)

    def _show(self) -> None:
        self.keys, self.values = self._all_keys[:, :, : self._length], self._all_values[:, :, : self._length]
