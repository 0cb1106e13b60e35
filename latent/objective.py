"""What LR-GRPO adds to the mathematics of :mod:`recbench.llm.grpo` (paper section 3.2.2).

Dimensions: G groups (one prompt each), K samples per group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recbench.llm.grpo import group_advantage


def batch_advantage(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """Eq. 7: A = (s - mean of the groups' noise-free rewards) / (L2 norm of these differences over the batch + eps).

    Args:
        rewards: (..., G, K); sample 0 of each group is the one without noise. G is "the batch" of the paper.
        eps: keeps a batch of equal rewards finite.

    Returns:
        (..., G, K).
    """
    centred = rewards - rewards[..., :1].mean(dim=-2, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True)
    return centred / (norm + eps)


def scoped_advantage(rewards: Tensor, scope: int, kind: Literal["batch", "group"]) -> Tensor:
    """Return (G, K): :func:`batch_advantage` within every ``scope`` consecutive groups, or within each group.

    Args:
        rewards: (G, K); with ``kind`` "batch" G is a multiple of ``scope``.
        scope: groups that share a baseline. "The batch" of the published code has 2.
        kind: "batch", or "group" for classic GRPO, where ``scope`` does not matter.
    """
    if kind == "group":
        return group_advantage(rewards)
    return batch_advantage(rewards.unflatten(0, (-1, scope))).flatten(0, 1)
