"""Attention of many short runs of tokens, each with its own columns to look at.

A lane is a few tokens of one row that follow each other in a flat list of tokens. What a lane looks at has no padding,
and its scores stay in the processor's cache.

Dimensions: N tokens of the list, T of a lane, C columns that it looks at, D per head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sight:
    """What a lane looks at in one layer.

    Attributes:
        tokens: which tokens of the list are the lane's.
        key, value: (1, key heads, C, D).
        mask: see :func:`lane_mask`.
    """

    tokens: slice
    key: Tensor
    value: Tensor
    mask: Tensor


def lane_sizes(n_tokens: int, at_most: int) -> list[int]:
    """Return sizes of lanes for a row's tokens that differ by at most 1."""
    n_lanes = -(-n_tokens // at_most)
    return [(n_tokens + lane) // n_lanes for lane in range(n_lanes)]


def lane_mask(seen: Tensor, n_before: int, group: int) -> Tensor:
    """Return (1, 1, T * group, C), to be added to a lane's scores.

    Args:
        seen: bool (T, C - n_before), which of the last columns each token sees; it sees all columns before them.
        group: query heads that share a key head.
    """
    mask = torch.zeros((len(seen), group, n_before + seen.shape[1]))
    # Not -inf, as in additive().
    mask[:, :, n_before:].masked_fill_(~seen[:, None], torch.finfo(mask.dtype).min)
    return mask.view(1, 1, -1, mask.shape[2])


def attend(query: Tensor, group: int, scale: float, sights: Iterable[Sight]) -> Tensor:
    """Return (N, heads * D): what tokens take from the columns that they look at.

    Args:
        query: (N, heads, D), N > 0.
        group: query heads that share a key head.
        scale: of the scores.
        sights: of the lanes, which have all tokens in order.
    """
    # The query heads of a group become further queries of their one key head: nothing is copied for them.
    folded = query.unflatten(1, (-1, group)).transpose(0, 1).contiguous()
    found = []
    for sight in sights:
        own = folded[:, sight.tokens].flatten(1, 2).unsqueeze(0)
        taken = F.scaled_dot_product_attention(own, sight.key, sight.value, attn_mask=sight.mask, scale=scale)
        found.append(taken.transpose(1, 2))
    return torch.cat(found, dim=1).unflatten(1, (-1, group)).transpose(2, 3).flatten(2).squeeze(0)
