"""LatentRATT: special weights with a known answer, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch

from latent.attention import LatentAttention, rotate

WIDTH = 8


def attention(seed: int = 0) -> LatentAttention:
    layer = LatentAttention(WIDTH)
    layer.reset(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for linear in (layer.query, layer.key, layer.value):
            linear.weight *= 20
            linear.bias.normal_(generator=torch.Generator().manual_seed(seed + 1))
    return layer


def hidden(rows: int = 2, columns: int = 5) -> torch.Tensor:
    return torch.randn((rows, columns, WIDTH), generator=torch.Generator().manual_seed(7))


def test_no_query_and_no_key_gives_the_mean_of_the_values() -> None:
    layer, states = attention(), hidden()
    for linear in (layer.query, layer.key):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    expected = torch.stack([layer.value(states[0]).mean(0), layer.value(states[1, 2:]).mean(0)])
    torch.testing.assert_close(layer(states, mask), expected)


def test_no_value_weight_gives_the_value_bias() -> None:
    layer = attention()
    torch.nn.init.zeros_(layer.value.weight)
    torch.testing.assert_close(layer(hidden(), torch.ones(2, 5)), layer.value.bias.expand(2, -1))


@pytest.mark.parametrize("shift", [1, 4])
def test_left_padding_changes_nothing(shift: int) -> None:
    layer, states = attention(), hidden()
    padding = torch.full((2, shift, WIDTH), 3.0)
    padded = layer(torch.cat([padding, states], 1), torch.tensor([[0] * shift + [1] * 5] * 2))
    torch.testing.assert_close(padded, layer(states, torch.ones(2, 5)), atol=1e-5, rtol=1e-5)


def test_rotation_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0, 2.0]])
    # Pairs (0, 2) and (1, 3); angles at position 3: 3 * 1000^0 and 3 * 1000^(-1/2).
    a, b = 3.0, 3.0 / math.sqrt(1000)
    expected = torch.tensor([[math.cos(a), -2 * math.sin(b), math.sin(a), 2 * math.cos(b)]])
    torch.testing.assert_close(rotate(x, torch.tensor([3])), expected)


def test_number_of_parameters_at_the_paper_s_width() -> None:
    assert sum(p.numel() for p in LatentAttention(1536).parameters()) == 7_082_496
