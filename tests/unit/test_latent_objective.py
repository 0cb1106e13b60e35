"""Reward, advantage and policy loss: values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from latent.objective import batch_advantage, group_advantage, mean_logprob, perplexity_reward, policy_loss

REWARDS = torch.tensor([[-2.0, -3.0], [-10.0, -12.0]])


def test_reward_is_minus_perplexity() -> None:
    logprobs = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.5), -99.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    assert mean_logprob(logprobs, mask).item() == pytest.approx(-0.92420, abs=1e-5)
    assert perplexity_reward(logprobs, mask).item() == pytest.approx(-2.51984, abs=1e-5)


def test_batch_advantage_by_hand() -> None:
    # Baseline (-2 - 10) / 2 = -6; differences 4, 3, -4, -6 with norm sqrt(77).
    expected = torch.tensor([[0.45584, 0.34188], [-0.45584, -0.68376]])
    torch.testing.assert_close(batch_advantage(REWARDS), expected, atol=1e-5, rtol=0)


def test_group_advantage_by_hand() -> None:
    expected = torch.tensor([[0.70701, -0.70701], [0.70706, -0.70706]])
    torch.testing.assert_close(group_advantage(REWARDS), expected, atol=1e-5, rtol=0)


def test_equal_rewards_have_no_advantage() -> None:
    assert (batch_advantage(torch.full((2, 4), -3.0)) == 0).all()


def test_on_policy_loss_is_minus_the_mean_advantage_and_its_gradient_weights_the_logprobs() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    advantages = torch.tensor([0.5, -0.25])
    loss = policy_loss(logprobs, logprobs.detach(), advantages, mask)
    assert loss.item() == pytest.approx(-0.125)
    loss.backward()
    # -A / (K |y|): two samples, of two tokens and of one.
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.125, -0.125], [0.125, 0.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain"),
    [(2.0, 1.0, 1.28), (0.5, 1.0, 0.5), (2.0, -1.0, -2.0), (0.5, -1.0, -0.8), (1.1, 1.0, 1.1)],
)
def test_clipping_holds_back_only_what_would_gain(ratio: float, advantage: float, gain: float) -> None:
    loss = policy_loss(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1)
    )
    assert loss.item() == pytest.approx(-gain, abs=1e-6)
