"""Keys and values of a tree of answers, and attention that shows every token its own ancestors.

The keys and values of all answer tokens ("slots") lie in a store. A model call with many tokens is cut into lanes of a
few tokens each. A lane looks at the prompt and at the slots on its own tokens' paths, side by side on a desk where the
prompt always lies. Tokens that stand near each other in the tree share most of their paths, so lanes look at far fewer
columns than all tokens of a call do together.

Dimensions: B rows, P columns of the prompt, S slots, M new tokens per row, U slots that a lane looks at, D per head.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from recbench.llm.attention import grouped_attention_forward, in_place_of_sdpa

_NAME = "recbench_tree"
# Slots that there is room for on a desk at first: as many as ten beams look at.
_DESK = 128


class Slots:
    """Slots that a lane looks at, to be taken from the store of every layer.

    Args:
        numbers: int64 (B, U).
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self._index: dict[tuple[int, ...], Tensor] = {}

    def of(self, store: Tensor) -> Tensor:
        """Return (B, heads, U, D): these columns of a contiguous store (B, heads, S, D)."""
        rows, heads, n_columns, width = store.shape
        index = self._index.get(store.shape[:3])
        if index is None:
            first = torch.arange(rows * heads, device=store.device).view(rows, heads, 1) * n_columns
            index = self._index[store.shape[:3]] = (first + self.numbers[:, None]).flatten()
        # Rows of a matrix are copied whole; PyTorch's gather goes element by element and takes ten times as long.
        return store.view(-1, width).index_select(0, index).view(rows, heads, -1, width)


@dataclass(frozen=True)
class Lane:
    """Some of a call's tokens and what they look at.

    Attributes:
        tokens: which of the call's M tokens.
        slots: the slots of their paths.
    """

    tokens: slice
    slots: Slots


class TreeCache(DynamicCache):
    """A cache that begins with the columns of another one and keeps a tree behind them.

    Args:
        lm: whose cache it is.
        read: the columns to begin with.
        room: slots to make room for at first.

    Attributes:
        lanes: of the model call under way, the same list for all layers; empty while the prompt is read.
    """

    def __init__(self, lm: PreTrainedModel, read: Cache, room: int) -> None:
        super().__init__()
        self.lanes: list[Lane] = []
        layers = read.layers or [None] * lm.config.get_text_config().num_hidden_layers
        self.layers = [_TreeLayer(self.lanes, layer, room) for layer in layers]

    def end_prompt(self) -> None:
        """Take all columns so far as the prompt."""
        for layer in self.layers:
            layer.end_prompt()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 (R,)."""
        for layer in self.layers:
            layer.batch_select_indices(rows)


class _TreeLayer(DynamicLayer):
    """Keys and values of one layer.

    Args:
        lanes: of the model call under way.
        read: the layer whose columns the prompt begins with; None for an empty one.
        room: slots to make room for at first.
    """

    def __init__(self, lanes: list[Lane], read: DynamicLayer | None, room: int) -> None:
        super().__init__()
        self._lanes, self._room = lanes, room
        if read is not None and read.is_initialized:
            super().update(read.keys, read.values)

    def end_prompt(self) -> None:
        """Take all columns so far as the prompt."""
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        self._keys, self._values = _Columns(keys, self._room), _Columns(values, self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Keep new columns. Returns what the first lane looks at."""
        if not self._lanes:
            return super().update(key_states, value_states)
        self._keys.add(key_states)
        self._values.add(value_states)
        return self.look_at(self._lanes[0].slots)

    def look_at(self, slots: Slots) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, heads, P + U, D) of the prompt and of some slots, until the next such call."""
        return self._keys.look_at(slots), self._values.look_at(slots)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._keys.keep(indices)
        self._values.keep(indices)


class _Columns:
    """Keys or values of one layer: those of all slots in a store, the prompt and some slots side by side on a desk.

    Args:
        prompt: (B, heads, P, D), where the desk begins.
        room: slots to make room for at first.
    """

    def __init__(self, prompt: Tensor, room: int) -> None:
        self._n_prompt, self._n_slots = prompt.shape[2], 0
        self._desk = _roomier(prompt, self._n_prompt, self._n_prompt + min(room, _DESK))
        self._store = _columns_like(prompt, room)

    def add(self, new: Tensor) -> None:
        """Store new slots (B, heads, M, D)."""
        end = self._n_slots + new.shape[2]
        if end > self._store.shape[2]:
            self._store = _roomier(self._store, self._n_slots, max(end, 2 * self._store.shape[2]))
        self._store[:, :, self._n_slots : end] = new
        self._n_slots = end

    def look_at(self, slots: Slots) -> Tensor:
        """Return (B, heads, P + U, D): the prompt and some slots."""
        end = self._n_prompt + slots.numbers.shape[1]
        if end > self._desk.shape[2]:
            self._desk = _roomier(self._desk, self._n_prompt, self._n_prompt + 2 * slots.numbers.shape[1])
        self._desk[:, :, self._n_prompt : end] = slots.of(self._store)
        return self._desk[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._desk, self._store = self._desk[rows], self._store[rows]


def _columns_like(columns: Tensor, n_columns: int) -> Tensor:
    return columns.new_empty((*columns.shape[:2], n_columns, columns.shape[3]))


def _roomier(columns: Tensor, n_used: int, n_columns: int) -> Tensor:
    """Return a copy of the first ``n_used`` columns with room for others behind them."""
    larger = _columns_like(columns, n_columns)
    larger[:, :, :n_used] = columns[:, :, :n_used]
    return larger


def _tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    answer_tree: TreeCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend lane by lane.

    Args:
        query: (B, heads, M, D).
        key, value: (B, key heads, P + U, D), what the first lane looks at.
        attention_mask: (B, 1, M, C), added to the scores, where C is at least what any lane looks at; a token's
            columns are those of its lane.
        answer_tree: the cache of the call.
        options: others of the interface.

    Returns:
        (B, M, heads, D), and no weights.
    """
    if answer_tree is None or len(answer_tree.lanes) < 2:
        return grouped_attention_forward(module, query, key, value, attention_mask, **options)
    layer = answer_tree.layers[cast(int, module.layer_idx)]
    outputs = []
    for number, lane in enumerate(answer_tree.lanes):
        if number:
            key, value = layer.look_at(lane.slots)
        mask = attention_mask[:, :, lane.tokens, : key.shape[2]]
        outputs.append(grouped_attention_forward(module, query[:, :, lane.tokens], key, value, mask, **options)[0])
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(_NAME, _tree_attention_forward)


def takes_lanes(lm: PreTrainedModel) -> bool:
    """Whether a model's attention can go lane by lane; it must run with "sdpa"."""
    return lm.get_decoder().config._attn_implementation == "sdpa"


def tree_attention(lm: PreTrainedModel) -> AbstractContextManager[None]:
    """Let a model that runs with "sdpa" attend lane by lane; other models stay as is."""
    return in_place_of_sdpa(lm, _NAME)
