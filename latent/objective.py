"""What LR-GRPO adds to the mathematics of :mod:`recbench.llm.grpo` (paper section 3.2.2).

Dimensions: G groups (one prompt each), K samples per group.
"""

from __future__ import annotations

from torch import Tensor


def batch_advantage(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """Eq. 7: A = (s - mean of the groups' noise-free rewards) / (L2 norm of these differences over the batch + eps).

    Args:
        rewards: (G, K); sample 0 of each group is the one without noise. G is "the batch" of the paper.
        eps: keeps a batch of equal rewards finite.

    Returns:
        (G, K).
    """
    centred = rewards - rewards[:, 0].mean()
    return centred / (centred.norm() + eps)
