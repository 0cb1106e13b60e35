"""A tree of answers read by :class:`~recbench.llm.blocks.Blocks`: real tokens only, and each looks at little.

The keys and values of all answer tokens lie in one store, in the order in which they were read. A row's new tokens are
cut into lanes of a few tokens each. A lane looks at its row's prompt, without padding, and at the slots on its own
tokens' paths, side by side on a desk where the prompt always lies. Tokens that stand near each other in the tree share
most of their paths, so lanes look at far fewer columns than all tokens of a call do together.

Dimensions: B rows, P columns of the longest prompt, M new slots per row, N of them with a token, U slots that a lane
looks at, T tokens of a lane, L tokens of the longest path, D per head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from recbench.llm.blocks import Blocks
from recbench.llm.lanes import Sight, attend, lane_mask, lane_sizes
from recbench.llm.tree_paths import NONE, level, looked_at

# Tokens of a lane, at most.
_LANE = 32
# Slots that there is room for on a desk at first: as many as ten beams look at.
_DESK = 128


class LaneReader:
    """Reads new tokens in one flat list, and lets them attend lane by lane.

    Args:
        blocks: of the model.
        read: keys and values of the prompts.
        mask: int64 (B, P), 1 for the prompts' real tokens.
        room: slots to make room for at first.
    """

    def __init__(self, blocks: Blocks, read: DynamicCache, mask: Tensor, room: int) -> None:
        self._blocks = blocks
        # Real tokens last, next to the slots.
        order = mask.argsort(dim=1, stable=True) if bool((mask.diff(dim=1) < 0).any()) else None
        self._layers = [_Columns(layer.keys, layer.values, order, room) for layer in read.layers]
        # Of the rows that are left: which row of the desks each is, and the tokens of its prompt.
        self._desk_rows, self._n_before = torch.arange(len(mask)), mask.sum(dim=1)
        # Where the token of each slot lies in the stores.
        self._places = torch.zeros((len(mask), 0), dtype=torch.int64)
        self._n_stored = 0

    def read(self, embeds: Tensor, paths: Tensor, path: Tensor, real: Tensor | None) -> Tensor:
        """See :class:`~recbench.llm.tree.TreeReader`."""
        rows, n_new, _ = path.shape
        real = torch.arange(rows * n_new) if real is None else real
        row, column = real // n_new, real % n_new
        places = torch.zeros((rows, n_new), dtype=torch.int64)
        places[row, column] = self._n_stored + torch.arange(len(real))
        self._places = torch.cat([self._places, places], dim=1)
        self._n_stored += len(real)
        path = path[row, column]
        lanes = self._lanes(path, torch.bincount(row, minlength=rows).tolist())
        memory = _LaneMemory(self._layers, lanes, self._blocks.group)
        return self._blocks(embeds, self._n_before[row] + level(path), memory)

    def keep(self, rows: Tensor) -> None:
        """See :class:`~recbench.llm.tree.TreeReader`."""
        self._desk_rows, self._n_before, self._places = self._desk_rows[rows], self._n_before[rows], self._places[rows]

    def _lanes(self, path: Tensor, counts: list[int]) -> list[_Lane]:
        """Return the lanes of tokens with these paths (N, L), of which each row has ``counts``."""
        parts = [(row, size) for row, count in enumerate(counts) for size in lane_sizes(count, _LANE)]
        row, size = torch.tensor(parts).unbind(1)
        end = size.cumsum(0)
        token = torch.arange(int(size.max())) + (end - size)[:, None]
        padded = path[token.clamp(max=len(path) - 1)].where((token < end[:, None])[:, :, None], NONE)
        slots, seen, used = looked_at(padded, self._places.shape[1])
        places = self._places[row].gather(1, slots)
        facts = torch.stack([self._desk_rows[row], self._n_before[row], end - size, end, used], dim=1).tolist()
        lanes = []
        for number, (desk_row, n_prompt, first, last, n_slots) in enumerate(facts):
            mask = lane_mask(seen[number, : last - first, :n_slots], n_prompt, self._blocks.group)
            lanes.append(_Lane(desk_row, n_prompt, slice(first, last), places[number, :n_slots], mask))
        return lanes


@dataclass(frozen=True)
class _Lane:
    """Some tokens of one row, and what they look at.

    Attributes:
        row: of the desks.
        n_prompt: tokens of the row's prompt.
        tokens: which of the call's N tokens.
        places: int64 (U,), where the slots of their paths lie in the stores.
        mask: see :func:`~recbench.llm.lanes.lane_mask`.
    """

    row: int
    n_prompt: int
    tokens: slice
    places: Tensor
    mask: Tensor


class _LaneMemory:
    """The memory of one call."""

    def __init__(self, layers: list[_Columns], lanes: list[_Lane], group: int) -> None:
        self._layers, self._lanes, self._group = layers, lanes, group

    def add(self, layer: int, key: Tensor, value: Tensor) -> None:
        """See :class:`~recbench.llm.blocks.Memory`."""
        self._layers[layer].add(key, value)

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """See :class:`~recbench.llm.blocks.Memory`."""
        columns = self._layers[layer]
        sights = (Sight(lane.tokens, *columns.look_at(lane), lane.mask) for lane in self._lanes)
        return attend(query, self._group, scale, sights)


class _Columns:
    """Keys and values of one layer, side by side.

    Args:
        key, value: (B, key heads, P, D), of the prompts, where the desks begin.
        order: int64 (B, P), the columns in which they lie there, real tokens last; None if they stand so.
        room: slots to make room for at first.
    """

    def __init__(self, key: Tensor, value: Tensor, order: Tensor | None, room: int) -> None:
        rows, self._heads, self._n_prompt, width = key.shape
        self._width = 2 * self._heads * width
        self._desk = key.new_empty((rows, self._n_prompt + _DESK, self._width))
        prompt = self._desk[:, : self._n_prompt]
        torch.cat([key, value], dim=1, out=prompt.unflatten(2, (2 * self._heads, width)).transpose(1, 2))
        if order is not None:
            prompt.copy_(prompt[torch.arange(rows)[:, None], order])
        self._store = key.new_empty((max(rows * room, 1), self._width))
        self._n_stored = 0

    def add(self, key: Tensor, value: Tensor) -> None:
        """Store those of new tokens, (N, key heads, D) each."""
        end = self._n_stored + len(key)
        if end > len(self._store):
            larger = self._store.new_empty((max(end, 2 * len(self._store)), self._width))
            larger[: self._n_stored] = self._store[: self._n_stored]
            self._store = larger
        torch.cat([key.flatten(1), value.flatten(1)], dim=1, out=self._store[self._n_stored : end])
        self._n_stored = end

    def look_at(self, lane: _Lane) -> tuple[Tensor, Tensor]:
        """Return keys and values (1, key heads, n_prompt + U, D) that a lane looks at, until the next such call."""
        end = self._n_prompt + len(lane.places)
        if end > self._desk.shape[1]:
            self._desk = F.pad(self._desk, (0, 0, 0, 2 * end - self._desk.shape[1]))
        desk = self._desk[lane.row]
        torch.index_select(self._store, 0, lane.places, out=desk[self._n_prompt : end])
        both = desk[self._n_prompt - lane.n_prompt : end].view(-1, 2, self._heads, self._width // (2 * self._heads))
        key, value = both.permute(1, 2, 0, 3).split(1)
        return key, value
