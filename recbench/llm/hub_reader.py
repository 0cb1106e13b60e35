"""A tree of answers read by Hugging Face's own forward pass, whatever the device and the architecture.

The keys and values of all answer tokens ("slots") lie in a store. A model call looks at the prompt and at the slots on
its tokens' paths, side by side on a desk where the prompt always lies: in a long search these are a small part of all.

Dimensions: B rows, P columns of the prompt, S slots, M new slots per row, N of them with a token, U slots looked at, L
tokens of the longest path, D per head, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from recbench.llm.attention import grouped_attention
from recbench.llm.layer_kinds import LayerKinds
from recbench.llm.tree_paths import level, looked_at
from recbench.llm.writer import cache_argument, positions

# Slots that there is room for on a desk at first: as many as ten beams look at.
_DESK = 128


class HubReader:
    """Reads new tokens as Hugging Face wants them: one in every slot of every row, and one mask for all layers.

    Args:
        lm: the model.
        read: keys and values of the prompt.
        mask: int64 (B, P), 1 for the prompt's real tokens.
        room: slots to make room for at first.
    """

    def __init__(self, lm: PreTrainedModel, read: DynamicCache, mask: Tensor, room: int) -> None:
        self._lm, self._mask = lm, mask
        self._kinds = LayerKinds(lm)
        self._cache = _TreeCache(read, room)

    def read(self, embeds: Tensor, paths: Tensor, path: Tensor, real: Tensor | None) -> Tensor:
        """See :class:`~recbench.llm.tree.TreeReader`."""
        rows, n_new, _ = path.shape
        if real is not None:
            embeds = embeds.new_zeros((rows * n_new, embeds.shape[1])).index_copy_(0, real, embeds)
        embeds = embeds.view(rows, n_new, -1)
        slots, seen, _ = looked_at(path, self._cache.n_slots + n_new)
        self._cache.slots[:] = [slots]
        prompt = self._mask.bool()
        visible = torch.cat([prompt[:, None].expand(-1, n_new, -1), seen], dim=2)
        n_before = prompt.sum(dim=1, keepdim=True)
        position = (n_before + level(path)).clamp(min=0)
        near = None
        if self._kinds.window is not None:
            row = torch.arange(rows, device=path.device)[:, None]
            columns = torch.cat([positions(self._mask), n_before + level(paths[row, slots])], dim=1)
            near = self._kinds.near(position, columns[:, None])
        with grouped_attention(self._lm):
            decoder = self._lm.get_decoder()
            hidden = decoder(
                inputs_embeds=embeds,
                attention_mask=self._kinds.masks(visible, near, embeds.dtype),
                position_ids=position,
                use_cache=True,
                **{cache_argument(decoder): self._cache},
            ).last_hidden_state.flatten(0, 1)
        return hidden if real is None else hidden.index_select(0, real)

    def keep(self, rows: Tensor) -> None:
        """See :class:`~recbench.llm.tree.TreeReader`."""
        self._mask = self._mask[rows]
        for layer in self._cache.layers:
            layer.batch_select_indices(rows)


class _TreeCache(DynamicCache):
    """A cache that begins with the columns of another one and keeps a tree behind them.

    Attributes:
        slots: in a list that all layers share: int64 (B, U), those that the model call under way looks at.
    """

    def __init__(self, read: DynamicCache, room: int) -> None:
        super().__init__()
        self.slots: list[Tensor] = []
        self.layers = [_TreeLayer(self.slots, layer, max(room, 1)) for layer in read.layers]

    @property
    def n_slots(self) -> int:
        """Slots of every row so far."""
        return self.layers[0].key_columns.n_slots


class _TreeLayer(DynamicLayer):
    def __init__(self, slots: list[Tensor], read: DynamicLayer, room: int) -> None:
        super().__init__()
        self._slots = slots
        self.key_columns, self.value_columns = _Columns(read.keys, room), _Columns(read.values, room)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Keep new columns (B, heads, M, D). Returns the prompt and the slots of the call, (B, heads, P + U, D)."""
        self.key_columns.add(key_states)
        self.value_columns.add(value_states)
        return self.key_columns.look_at(self._slots[0]), self.value_columns.look_at(self._slots[0])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.key_columns.keep(indices)
        self.value_columns.keep(indices)


class _Columns:
    """Keys or values of one layer.

    Args:
        prompt: (B, heads, P, D), where the desk begins.
        room: slots to make room for at first.
    """

    def __init__(self, prompt: Tensor, room: int) -> None:
        self._n_prompt, self.n_slots = prompt.shape[2], 0
        self._desk = _roomier(prompt, self._n_prompt, self._n_prompt + min(room, _DESK))
        self._store = _roomier(prompt, 0, room)

    def add(self, new: Tensor) -> None:
        """Store new slots (B, heads, M, D)."""
        end = self.n_slots + new.shape[2]
        if end > self._store.shape[2]:
            self._store = _roomier(self._store, self.n_slots, max(end, 2 * self._store.shape[2]))
        self._store[:, :, self.n_slots : end] = new
        self.n_slots = end

    def look_at(self, slots: Tensor) -> Tensor:
        """Return (B, heads, P + U, D): the prompt and some slots, int64 (B, U), until the next such call."""
        rows, heads, n_columns, width = self._store.shape
        end = self._n_prompt + slots.shape[1]
        if end > self._desk.shape[2]:
            self._desk = _roomier(self._desk, self._n_prompt, self._n_prompt + 2 * slots.shape[1])
        first = torch.arange(rows * heads, device=slots.device).view(rows, heads, 1) * n_columns
        # Rows of a matrix are copied whole; PyTorch's gather goes element by element and takes ten times as long.
        taken = self._store.view(-1, width).index_select(0, (first + slots[:, None]).flatten())
        self._desk[:, :, self._n_prompt : end] = taken.view(rows, heads, -1, width)
        return self._desk[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 (R,)."""
        self._desk, self._store = self._desk.index_select(0, rows), self._store.index_select(0, rows)


def _roomier(columns: Tensor, n_used: int, n_columns: int) -> Tensor:
    """Return a copy of the first ``n_used`` columns with room for others behind them."""
    larger = columns.new_empty((*columns.shape[:2], n_columns, columns.shape[3]))
    larger[:, :, :n_used] = columns[:, :, :n_used]
    return larger
