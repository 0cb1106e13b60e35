"""The mathematics of LR-GRPO as pure functions (paper section 3.2.2).

Dimensions: G groups (one prompt each), K samples per group, T answer tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_logprob(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return (...): mean over the real tokens of ``logprobs`` (..., T); ``mask`` is (..., T)."""
    mask = mask.to(logprobs.dtype)
    return (logprobs * mask).sum(dim=-1) / mask.sum(dim=-1)


def perplexity_reward(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Eq. 6: s = -exp(-(1/|y|) sum_i log pi(y_i | x, r, y_<i)), minus the perplexity of the true answer.

    Args:
        logprobs: (..., T), log-probability of each token of the true answer, its end token included.
        mask: (..., T), 1 for real tokens.

    Returns:
        (...), at most -1. Computed in float32: perplexities of rare items pass the range of half precision.
    """
    return -torch.exp(-mean_logprob(logprobs.float(), mask))


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


def group_advantage(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """Classic GRPO: A = (s - group mean) / (unbiased group standard deviation + eps), for ``rewards`` (G, K)."""
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + eps)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Eq. 8 without its KL term: -mean_k (1/|y|) sum_i min(rho A, clip(rho, 1 - low, 1 + high) A), rho = pi / pi_old.

    Args:
        logprobs: (..., T), with gradients.
        old_logprobs: (..., T), constants. With one update per rollout they are the detached ``logprobs``; then rho is
            1, nothing is clipped, and only the gradient -A grad log pi matters.
        advantages: (...), constants.
        mask: (..., T).

    Returns:
        A scalar: the mean over samples of the per-sequence mean over tokens.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    advantage = advantages.unsqueeze(-1)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    return -mean_logprob(gain, mask).mean()
