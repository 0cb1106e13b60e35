"""Prompts read by :class:`~recbench.llm.blocks.Blocks`: all of a batch in one flat list, without padding.

A beginning that all prompts share is read once, as the first row's. Tokens attend in lanes, each of which looks at its
row up to its own last token.

Dimensions: B rows, P columns, N tokens that are read, D per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from recbench.llm.blocks import Blocks
from recbench.llm.lanes import Sight, attend, lane_mask, lane_sizes

# Tokens of a lane, at most: its first tokens look at later ones in vain.
_LANE = 128


def read_prompts(
    blocks: Blocks, embed: Callable[[Tensor], Tensor], ids: Tensor, mask: Tensor, shared: int
) -> DynamicCache:
    """Return the keys and values of prompts, which hold zeros in columns of padding.

    Args:
        embed: returns the input embeddings of ids.
        ids, mask: int64 (B, P), padded on the left; at least one token.
        shared: how many first tokens all rows have in common.
    """
    rows, width = mask.shape
    # Of each column: the number of its token in its row, negative in padding.
    number = torch.arange(width) - (width - mask.sum(dim=1, keepdim=True))
    is_read = number >= shared
    is_read[0] = number[0] >= 0
    place = is_read.flatten().cumsum(dim=0).view(rows, width) - 1
    column = (number >= 0).flatten().nonzero().squeeze(1)
    token = place.where(is_read, number).flatten()[column]
    tokens = is_read.flatten().nonzero().squeeze(1)
    lanes = _lanes(is_read.sum(dim=1).tolist(), (number[:, -1] + 1).tolist(), blocks.group)
    memory = _PromptMemory(rows, width, column, token, lanes, blocks.group)
    blocks.fill(embed(ids.flatten()[tokens]), number.flatten()[tokens], memory)
    return memory.cache


@dataclass(frozen=True)
class _Lane:
    """Some tokens of one row.

    Attributes:
        row: of the batch.
        tokens: which of the N tokens.
        columns: of the row, from its first token to the lane's last.
        mask: see :func:`~recbench.llm.lanes.lane_mask`.
    """

    row: int
    tokens: slice
    columns: slice
    mask: Tensor


def _lanes(counts: list[int], lengths: list[int], group: int) -> list[_Lane]:
    """Return the lanes of tokens, of which each row has ``counts`` at the end of its ``lengths``."""
    lanes, first = [], 0
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        end = -count
        for size in lane_sizes(count, _LANE):
            end += size
            n_before = length + end - size
            mask = lane_mask(torch.ones((size, size), dtype=torch.bool).tril(), n_before, group)
            lanes.append(_Lane(row, slice(first, first + size), slice(-length, end or None), mask))
            first += size
    return lanes


class _PromptMemory:
    """The columns of all rows.

    Args:
        rows, width: B, P.
        column: int64 (X,), the columns with a token, counted row by row.
        token: int64 (X,), which of the N tokens each holds.
        lanes: of the N tokens, in order.
        group: query heads that share a key head.
    """

    def __init__(self, rows: int, width: int, column: Tensor, token: Tensor, lanes: list[_Lane], group: int) -> None:
        self._rows, self._width, self._column, self._token = rows, width, column, token
        self._lanes, self._group = lanes, group
        self.cache = DynamicCache()

    def add(self, layer: int, key: Tensor, value: Tensor) -> None:
        """See :class:`~recbench.llm.blocks.Memory`."""
        heads = key.shape[1]
        new = torch.cat([key, value], dim=1).flatten(1)
        columns = new.new_zeros((self._rows * self._width, new.shape[1]))
        columns.index_copy_(0, self._column, new.index_select(0, self._token))
        kept = DynamicLayer()
        kept.lazy_initialization(key, value)
        kept.keys, kept.values = (
            columns.view(self._rows, self._width, 2 * heads, -1).transpose(1, 2).split(heads, dim=1)
        )
        self.cache.layers.append(kept)

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """See :class:`~recbench.llm.blocks.Memory`."""
        return attend(query, self._group, scale, self._sights(self.cache.layers[layer]))

    def _sights(self, layer: DynamicLayer) -> Iterator[Sight]:
        for lane in self._lanes:
            row = slice(lane.row, lane.row + 1)
            key, value = layer.keys[row, :, lane.columns], layer.values[row, :, lane.columns]
            yield Sight(lane.tokens, key, value, lane.mask)
