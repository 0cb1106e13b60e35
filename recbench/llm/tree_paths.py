"""Paths in a tree of answers, as numbers of slots.

A path (..., L) holds the slots from the root's child down to a token itself, and -1 behind them. A token that is there
to fill a row up has an empty path.

Dimensions: B rows, S slots, M new tokens per row, L tokens of the longest path, U slots that are looked at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NONE = -1


def level(path: Tensor) -> Tensor:
    """Return int64 (...): how many tokens stand before the last one of each path (..., L)."""
    return (path != NONE).sum(dim=-1) - 1


def new_paths(paths: Tensor, parent: Tensor, old: int, depth: int) -> Tensor:
    """Return int64 (B, M, L): the paths of new tokens, themselves included, where L is what the longest one needs.

    Args:
        paths: int64 (B, S, L'), of the older slots.
        parent: int64 (B, M), the slot that each token follows, or -1 right after the prompt.
        old: older slots.
        depth: the most new tokens that follow each other.
    """
    row = torch.arange(len(parent), device=parent.device)[:, None]
    own = torch.arange(parent.shape[1], device=parent.device).expand_as(parent)
    is_old = (parent >= 0) & (parent < old)
    before = paths[row, parent.where(is_old, 0)].where(is_old[:, :, None], NONE)
    # Jump number i goes 2 ** i ancestors up within this call, and no further than to the first of them.
    jumps = [(parent - old).where(parent >= old, own)]
    for _ in range((depth - 1).bit_length()):
        jumps.append(jumps[-1].gather(1, jumps[-1]))
    hops = (parent >= old).long()
    for jump in jumps[:-1]:
        hops = hops + hops.gather(1, jump)
    at = (level(before) + 1).gather(1, jumps[-1]) + hops
    path = F.pad(before, (0, max(int(at.max()) + 1 - before.shape[2], 0)), value=NONE)
    path = path.scatter(2, at[:, :, None], old + own[:, :, None])
    for jump in jumps[:-1]:
        path = torch.maximum(path, path[row, jump])
    return path


def looked_at(path: Tensor, n_slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which slots are on the paths (B, M, L) of a row's tokens, and which of them each token sees.

    Returns:
        int64 (B, U): the slots, ascending; rows that have fewer hold slot 0 in the places left over.
        bool (B, M, U): whether each is on a token's path.
        int64 (B,): how many slots a row looks at.
    """
    wanted = torch.zeros((len(path), n_slots + 1), dtype=torch.bool, device=path.device)
    wanted.scatter_(1, path.where(path != NONE, n_slots).flatten(1), True)
    row, slot = wanted[:, :n_slots].nonzero().unbind(1)
    count = torch.bincount(row, minlength=len(path))
    place = torch.arange(len(row), device=path.device) - (count.cumsum(0) - count)[row]
    widest = int(count.max())
    slots = torch.zeros((len(path), widest), dtype=torch.int64, device=path.device)
    slots[row, place] = slot
    # Places of slots that a row does not look at are never asked for.
    place_of = torch.empty(wanted.shape, dtype=torch.int64, device=path.device)
    place_of[row, slot] = place
    column = place_of.gather(1, path.clamp(min=0).flatten(1)).view(path.shape).where(path != NONE, widest)
    seen = torch.zeros((*path.shape[:2], widest + 1), dtype=torch.bool, device=path.device)
    seen.scatter_(2, column, True)
    return slots, seen[..., :widest], count
