"""The mathematics of group-relative policy optimisation (GRPO) as pure functions.

Shao et al., "DeepSeekMath" (arXiv 2402.03300), with the asymmetric clipping of Yu et al., "DAPO" (arXiv 2503.14476).

Dimensions: G groups (one prompt each), K samples per group, T tokens of an answer or a completion.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_logprob(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return (...): mean over the real tokens of ``logprobs`` (..., T); ``mask`` is (..., T)."""
    mask = mask.to(logprobs.dtype)
    return (logprobs * mask).sum(dim=-1) / mask.sum(dim=-1)


def perplexity_reward(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Minus the perplexity of the true answer: s = -exp(-(1/|y|) sum_i log pi(y_i | prefix, y_<i)).

    Eq. 6 of the LatentR3 paper, where the prefix is the prompt and a latent thought.

    Args:
        logprobs: (..., T), log-probability of each token of the true answer, its end token included.
        mask: (..., T), 1 for real tokens.

    Returns:
        (...), at most -1. Computed in float32: perplexities of rare items pass the range of half precision.
    """
    return -torch.exp(-mean_logprob(logprobs.float(), mask))


def equal_rewards(rewards: Tensor) -> Tensor:
    """Return bool (G,): the groups whose K rewards (G, K) are all the same, from which nothing can be learned."""
    return rewards.amax(dim=1) == rewards.amin(dim=1)


def group_advantage(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """A = (s - group mean) / (unbiased group standard deviation + eps), for ``rewards`` (G, K).

    A group of equal rewards has exactly no advantage, whatever its mean is rounded to.
    """
    advantage = (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + eps)
    return advantage.masked_fill(equal_rewards(rewards).unsqueeze(1), 0.0)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Return -mean_k (1/|y|) sum_i min(rho A, clip(rho, 1 - low, 1 + high) A), with rho = pi / pi_old per token.

    Eq. 8 of the LatentR3 paper without its KL term.

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


def clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Return the share of tokens whose gradient the clipping of :func:`policy_loss` takes away (a scalar).

    That is rho > 1 + high with a positive advantage, or rho < 1 - low with a negative one. Arguments as there.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    advantage = advantages.unsqueeze(-1)
    clipped = ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))
    mask = mask.bool()
    return (clipped & mask).sum() / mask.sum()


def kl_penalty(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return KL(pi || pi_ref), estimated from tokens drawn from pi (a scalar).

    The k3 estimator of Schulman ("Approximating KL divergence"): per token q - log q - 1 with q = pi_ref / pi. It is
    never negative, unbiased as a value, and 0 with zero gradient where both agree.

    Args:
        logprobs: (..., T), with gradients.
        reference_logprobs: (..., T), constants.
        mask: (..., T).

    Returns:
        The mean over samples of the per-sequence mean over tokens.
    """
    log_ratio = reference_logprobs - logprobs
    return mean_logprob(torch.expm1(log_ratio) - log_ratio, mask).mean()
