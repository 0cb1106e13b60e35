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
from recbench.llm.layer_kinds import additive
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
        self._layers = [_Columns(torch.stack([layer.keys, layer.values], dim=1), mask, room) for layer in read.layers]
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
        memory = _LaneMemory(self._layers, self._lanes(path, torch.bincount(row, minlength=rows).tolist()))
        return self._blocks(embeds, self._n_before[row] + level(path), memory)

    def keep(self, rows: Tensor) -> None:
        """See :class:`~recbench.llm.tree.TreeReader`."""
        self._desk_rows, self._n_before, self._places = self._desk_rows[rows], self._n_before[rows], self._places[rows]

    def _lanes(self, path: Tensor, counts: list[int]) -> list[_Lane]:
        """Return the lanes of tokens with these paths (N, L), of which each row has ``counts``."""
        parts = [(row, size) for row, count in enumerate(counts) for size in _lane_sizes(count)]
        row, size = torch.tensor(parts).unbind(1)
        end = size.cumsum(0)
        token = torch.arange(int(size.max())) + (end - size)[:, None]
        padded = path[token.clamp(max=len(path) - 1)].where((token < end[:, None])[:, :, None], NONE)
        slots, seen, used = looked_at(padded, self._places.shape[1])
        places = self._places[row].gather(1, slots)
        hidden = additive(seen, torch.float32)
        facts = torch.stack([self._desk_rows[row], self._n_before[row], end - size, end, used], dim=1).tolist()
        lanes = []
        for number, (desk_row, n_prompt, first, last, n_slots) in enumerate(facts):
            n_tokens = last - first
            mask = hidden.new_zeros((self._blocks.group, n_tokens, n_prompt + n_slots))
            mask[:, :, n_prompt:] = hidden[number, :n_tokens, :n_slots]
            mask = mask.view(1, 1, -1, n_prompt + n_slots)
            lanes.append(_Lane(desk_row, n_prompt, slice(first, last), places[number, :n_slots], mask))
        return lanes


def _lane_sizes(n_tokens: int) -> list[int]:
    """Return sizes of lanes for a row's tokens that differ by at most 1."""
    n_lanes = -(-n_tokens // _LANE)
    return [(n_tokens + lane) // n_lanes for lane in range(n_lanes)]


@dataclass(frozen=True)
class _Lane:
    """Some tokens of one row, and what they look at.

    Attributes:
        row: of the desks.
        n_prompt: tokens of the row's prompt.
        tokens: which of the call's N tokens.
        places: int64 (U,), where the slots of their paths lie in the stores.
        mask: (1, 1, group * T, n_prompt + U), added to the scores of the queries of a head of each group, then of the
            next.
    """

    row: int
    n_prompt: int
    tokens: slice
    places: Tensor
    mask: Tensor


class _LaneMemory:
    """The memory of one call."""

    def __init__(self, layers: list[_Columns], lanes: list[_Lane]) -> None:
        self._layers, self._lanes = layers, lanes

    def add(self, layer: int, key: Tensor, value: Tensor) -> None:
        """See :class:`~recbench.llm.blocks.Memory`."""
        self._layers[layer].add(key, value)

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """See :class:`~recbench.llm.blocks.Memory`."""
        columns = self._layers[layer]
        found = torch.empty_like(query)
        for lane in self._lanes:
            key, value = columns.look_at(lane)
            # The query heads of a group become further queries of their one key head, so nothing is copied for them.
            own = query[lane.tokens].unflatten(1, (key.shape[1], -1)).permute(1, 2, 0, 3)
            taken = F.scaled_dot_product_attention(
                own.flatten(1, 2).unsqueeze(0), key, value, attn_mask=lane.mask, scale=scale
            )
            found[lane.tokens] = taken.view(own.shape).permute(2, 0, 1, 3).flatten(1, 2)
        return found.flatten(1)


class _Columns:
    """Keys and values of one layer, side by side.

    Args:
        prompt: (B, 2, key heads, P, D), keys and values, where the desks begin.
        mask: int64 (B, P), 1 for the prompts' real tokens.
        room: slots to make room for at first.
    """

    def __init__(self, prompt: Tensor, mask: Tensor, room: int) -> None:
        rows, _, self._heads, self._n_prompt, width = prompt.shape
        self._width = 2 * self._heads * width
        # Real tokens last, next to the slots.
        order = mask.argsort(dim=1, stable=True)
        part = torch.arange(rows * 2 * self._heads).view(rows, 1, -1) * self._n_prompt
        prompt = prompt.view(-1, width).index_select(0, (part + order[:, :, None]).flatten())
        self._desk = prompt.new_empty((rows, self._n_prompt + _DESK, self._width))
        self._desk[:, : self._n_prompt] = prompt.view(rows, -1, self._width)
        self._store = prompt.new_empty((max(rows * room, 1), self._width))
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
