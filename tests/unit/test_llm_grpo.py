"""Reward, advantage, clipped policy loss and KL: values worked by hand, and a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.llm.grpo import (
    clip_fraction,
    equal_rewards,
    group_advantage,
    kl_penalty,
    mean_logprob,
    perplexity_reward,
    policy_loss,
)

REWARDS = torch.tensor([[-2.0, -3.0], [-10.0, -12.0]])


def test_reward_is_minus_perplexity() -> None:
    logprobs = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.5), -99.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    assert mean_logprob(logprobs, mask).item() == pytest.approx(-0.92420, abs=1e-5)
    assert perplexity_reward(logprobs, mask).item() == pytest.approx(-2.51984, abs=1e-5)


def test_group_advantage_by_hand() -> None:
    expected = torch.tensor([[0.70701, -0.70701], [0.70706, -0.70706]])
    torch.testing.assert_close(group_advantage(REWARDS), expected, atol=1e-5, rtol=0)


@given(st.floats(-1e3, 1e3, width=32), st.integers(2, 9))
def test_a_group_of_equal_rewards_has_exactly_no_advantage(reward: float, samples: int) -> None:
    rewards = torch.stack([torch.full((samples,), reward), torch.arange(samples).float()])
    assert equal_rewards(rewards).tolist() == [True, False]
    advantage = group_advantage(rewards)
    assert (advantage[0] == 0).all()
    assert (advantage[1] != 0).any()


def test_on_policy_loss_is_minus_the_mean_advantage_and_its_gradient_weights_the_logprobs() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    advantages = torch.tensor([0.5, -0.25])
    loss = policy_loss(logprobs, logprobs.detach(), advantages, mask)
    assert loss.item() == pytest.approx(-0.125)
    loss.backward()
    # -A / (K |y|): two samples, of two tokens and of one.
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.125, -0.125], [0.125, 0.0]]))


CLIPPING = [(2.0, 1.0, 1.28), (0.5, 1.0, 0.5), (2.0, -1.0, -2.0), (0.5, -1.0, -0.8), (1.1, 1.0, 1.1)]


@pytest.mark.parametrize(("ratio", "advantage", "gain"), CLIPPING)
def test_clipping_holds_back_only_what_would_gain(ratio: float, advantage: float, gain: float) -> None:
    arguments = (torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1))
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss = policy_loss(logprobs, *arguments)
    assert loss.item() == pytest.approx(-gain, abs=1e-6)
    loss.backward()
    clipped = clip_fraction(logprobs.detach(), *arguments)
    assert clipped.item() == float(logprobs.grad.item() == 0)
    assert clipped.item() == float(not math.isclose(ratio * advantage, gain))


def test_kl_by_hand() -> None:
    # q = pi_ref / pi is 2 and 0.5: 2 - ln 2 - 1 and 0.5 + ln 2 - 1; the second sample has one token with q = 1.
    logprobs = torch.tensor([[-1.0, -1.0], [-2.0, -7.0]], requires_grad=True)
    reference = torch.tensor([[-1.0 + math.log(2), -1.0 - math.log(2)], [-2.0, 0.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    penalty = kl_penalty(logprobs, reference, mask)
    assert penalty.item() == pytest.approx(((1 - math.log(2)) + (math.log(2) - 0.5)) / 4)
    penalty.backward()
    # d/d log pi of (q - log q - 1) is 1 - q, over 2 samples of |y| tokens.
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.25, 0.125], [0.0, 0.0]]))


def test_kl_estimate_has_the_mean_of_the_true_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn((2, 6), generator=generator).log_softmax(dim=-1)
    # The expectation over tokens drawn from the policy, computed exactly.
    estimate = sum(
        policy[token].exp() * kl_penalty(policy[token].view(1, 1), reference[token].view(1, 1), torch.ones(1, 1))
        for token in range(6)
    )
    assert float(estimate) == pytest.approx(float((policy.exp() * (policy - reference)).sum()), abs=1e-6)


def slow_loss(new: list, old: list, advantages: list, lengths: list, low: float, high: float) -> float:
    total = 0.0
    for k, length in enumerate(lengths):
        gain = 0.0
        for t in range(length):
            rho = math.exp(new[k][t] - old[k][t])
            gain += min(rho * advantages[k], min(max(rho, 1 - low), 1 + high) * advantages[k])
        total += gain / length
    return -total / len(lengths)


@settings(max_examples=50)
@given(st.data())
def test_loss_equals_a_slow_reference(data: st.DataObject) -> None:
    samples, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    number = st.floats(-2, 0, width=32)
    new, old = ([[data.draw(number) for _ in range(tokens)] for _ in range(samples)] for _ in range(2))
    advantages = [data.draw(st.floats(-2, 2, width=32)) for _ in range(samples)]
    lengths = [data.draw(st.integers(1, tokens)) for _ in range(samples)]
    mask = torch.tensor([[t < length for t in range(tokens)] for length in lengths])
    loss = policy_loss(torch.tensor(new), torch.tensor(old), torch.tensor(advantages), mask, 0.1, 0.3)
    assert float(loss) == pytest.approx(slow_loss(new, old, advantages, lengths, 0.1, 0.3), abs=1e-5)
