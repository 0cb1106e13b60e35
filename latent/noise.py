"""Samples of a thought (paper Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbench.contracts.seeding import derive_seed


def thought_noise(seed: int, examples: Sequence[int], rollout: int, samples: int, width: int, sigma: float) -> Tensor:
    """Return float32 (G, K, H) on the CPU: noise of K samples of each example's last thought; the first has none.

    A draw depends on the seed, the example and the rollout alone, so neither on batches nor on processes.

    Args:
        seed: of the run.
        examples: ids of G examples.
        rollout: number of the rollout; with one update per rollout, the optimizer step.
        samples: K.
        width: H.
        sigma: standard deviation per coordinate.
    """
    draws = torch.zeros(len(examples), samples, width)
    for row, example in enumerate(examples):
        generator = torch.Generator().manual_seed(derive_seed(seed, "noise", example, rollout))
        draws[row, 1:] = torch.randn((samples - 1, width), generator=generator) * sigma
    return draws


def thought_logprob(thought: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Return float32 (G, K): log-density of samples under the normal distribution of their draw, up to a constant.

    A sample r_k = r + eps_k (Eq. 5) is one point; r is what learns. Its value is -|eps_k|^2 / (2 sigma^2), its gradient
    eps_k / sigma^2 times that of r: nothing for the sample without noise.

    Args:
        thought: (G, H), r, with gradients.
        noise: (G, K, H).
        sigma: standard deviation per coordinate.
    """
    # The samples stay where they are while r moves; at this point the difference is the noise itself.
    moved = (thought.detach() - thought).float().unsqueeze(1)
    return -(noise.float() + moved).square().sum(dim=-1) / (2 * sigma**2)
