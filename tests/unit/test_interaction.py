"""The contrast of gains inside and outside a group: by hand, its symmetries, and its calibration under the null."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.stats.interaction import contrast
from recbench.stats.paired import sign_flip_p


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_relative_contrast_by_hand() -> None:
    # Inside: 6 over 4; outside: 3 over 6. Together 9 over 10.
    inside_x, inside_y = column(4, 2, 0), column(2, 2, 0)
    outside_x, outside_y = column(1, 0, 2), column(2, 0, 4)
    value, contributions = contrast(inside_x, inside_y, outside_x, outside_y)
    assert value == pytest.approx([6 / 4 - 3 / 6])
    expected = [(4 - 1.8) / 4 - (1 - 1.8) / 6, (2 - 1.8) / 4, -(2 - 3.6) / 6]
    assert contributions[:, 0] == pytest.approx(expected)
    assert contributions.sum() == pytest.approx(value[0])


def test_equal_gains_of_every_user_are_no_contrast() -> None:
    y_in, y_out = column(1, 2, 3, 0), column(4, 0, 1, 2)
    value, contributions = contrast(1.5 * y_in, y_in, 1.5 * y_out, y_out)
    assert value == pytest.approx([0.0])
    assert np.allclose(contributions, 0)
    assert sign_flip_p(contributions)[0] == 1.0


_SUMS = st.lists(
    st.tuples(*[st.floats(0, 5, allow_subnormal=False)] * 2, *[st.integers(0, 4)] * 2), min_size=2, max_size=12
)


@settings(deadline=None)
@given(_SUMS, st.floats(0.1, 10))
def test_symmetries(rows: list[tuple[float, float, int, int]], factor: float) -> None:
    x_in, x_out, y_in, y_out = (np.array(values, dtype=float)[:, None] for values in zip(*rows, strict=True))
    if not y_in.sum() or not y_out.sum():
        return
    value, contributions = contrast(x_in, y_in, x_out, y_out)
    # What users contribute adds up to the contrast, so the sign-flip test is a test of the contrast.
    assert contributions.sum() == pytest.approx(value[0], abs=1e-9)
    swapped, of_swapped = contrast(x_out, y_out, x_in, y_in)
    assert swapped == pytest.approx(-value)
    assert np.allclose(of_swapped, -contributions)
    order = np.arange(len(rows))[::-1]
    reordered, _ = contrast(x_in[order], y_in[order], x_out[order], y_out[order])
    assert reordered == pytest.approx(value)
    scaled, of_scaled = contrast(factor * x_in, y_in, factor * x_out, y_out)
    assert scaled == pytest.approx(factor * value)
    assert np.allclose(of_scaled, factor * contributions)


def _world(rng: np.random.Generator, gain_head: float, gain_tail: float) -> tuple[np.ndarray, ...]:
    """Return user sums (160, 1) of two methods with rare hits; most users have examples on both sides."""
    n_users = 160
    user = np.repeat(np.arange(n_users), rng.geometric(0.25, n_users))
    predictable = rng.gamma(2.0, 0.5, n_users)[user]
    tail = rng.random(len(user)) < rng.beta(0.8, 1.2, n_users)[user]
    chance = np.clip(np.where(tail, 0.06, 0.15) * predictable, 0, 0.5)
    shared, own = rng.random(len(user)), rng.random(len(user))
    draw = np.where(rng.random(len(user)) < 0.6, shared, own)  # the methods hit much the same examples
    base = (shared < chance) / np.log2(rng.integers(1, 11, len(user)) + 1)
    new = (draw < chance * np.where(tail, gain_tail, gain_head)) / np.log2(rng.integers(1, 11, len(user)) + 1)

    def sums(values: np.ndarray, side: np.ndarray) -> np.ndarray:
        return np.bincount(user[side], weights=values[side], minlength=n_users)[:, None]

    return sums(new, tail), sums(base, tail), sums(new, ~tail), sums(base, ~tail)


def _rejections(gain_head: float, gain_tail: float, n_worlds: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    p_values = [
        sign_flip_p(contrast(*_world(rng, gain_head, gain_tail))[1], 400, seed=world)[0] for world in range(n_worlds)
    ]
    return float(np.mean(np.array(p_values) < 0.05))


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_equal_relative_gains_are_rejected_in_one_of_twenty_worlds(gain: float) -> None:
    n_worlds = 400
    error = np.sqrt(0.05 * 0.95 / n_worlds)
    assert _rejections(gain, gain, n_worlds, seed=11) == pytest.approx(0.05, abs=3.3 * error)


def test_a_gain_on_the_tail_alone_is_found() -> None:
    assert _rejections(1.0, 2.5, 60, seed=12) > 0.6
