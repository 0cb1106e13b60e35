"""The batch advantage of LR-GRPO: values worked by hand."""

from __future__ import annotations

import torch

from latent.objective import batch_advantage

REWARDS = torch.tensor([[-2.0, -3.0], [-10.0, -12.0]])


def test_batch_advantage_by_hand() -> None:
    # Baseline (-2 - 10) / 2 = -6; differences 4, 3, -4, -6 with norm sqrt(77).
    expected = torch.tensor([[0.45584, 0.34188], [-0.45584, -0.68376]])
    torch.testing.assert_close(batch_advantage(REWARDS), expected, atol=1e-5, rtol=0)


def test_equal_rewards_have_no_advantage() -> None:
    assert (batch_advantage(torch.full((2, 4), -3.0)) == 0).all()
