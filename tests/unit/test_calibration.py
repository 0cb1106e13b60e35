"""Calibration on made-up worlds: a small version of `python -m benchmarks.calibration`, and its command line.

Bounds are 3.3 standard errors of the simulation (1 in 1,000) around the promised share.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.calibration.__main__ import main
from benchmarks.calibration.checks import Draws, Share, check_ranks, check_seeds, check_users
from benchmarks.calibration.worlds import World, user_sizes

N_WORLDS = 300


def near(share: float) -> object:
    return pytest.approx(share, abs=3.3 * (share * (1 - share) / N_WORLDS) ** 0.5)


def by_name(shares: list[Share]) -> dict[str, float]:
    return {share.what: share.value for share in shares}


def test_worlds_have_the_mean_that_is_said() -> None:
    world = World(user_sizes(20_000, 2.5, 0.9), seed_sd=0.3, luck_sd=0.4)
    drawn = [world.draw((0.0, 0.5), 1, np.random.default_rng(seed)).sum(axis=2)[:, 0] for seed in range(60)]
    means = np.mean(drawn, axis=0) / world.sizes.sum()
    assert means == pytest.approx([world.true_mean(), world.true_mean(0.5)], rel=0.05)


@pytest.mark.parametrize(("n_users", "median", "spread"), [(60, 1, 0.0), (150, 2.5, 0.9), (120, 20, 1.2)])
def test_user_level_statistics_keep_their_level_where_row_level_ones_do_not(n_users, median, spread) -> None:
    world = World(user_sizes(n_users, median, spread))
    found = by_name(check_users(world, shift=0.0, draws=Draws("null", N_WORLDS, 400, n_users)))
    assert found["sign-flip test rejects"] == near(0.05)
    assert found["t-test over users rejects"] == near(0.05)
    assert found["interval covers"] == near(0.95)
    assert found["TOST rejects at the margin"] == near(0.05)
    assert found["detectable difference found"] == near(0.8)
    if spread:  # users have several examples
        assert found["t-test over rows rejects (wrong)"] > 0.2


def test_interval_covers_a_real_difference() -> None:
    world = World(user_sizes(150, 2.5, 0.9))
    found = by_name(check_users(world, shift=0.8, draws=Draws("better", N_WORLDS, 400, 5)))
    assert found["interval covers"] == near(0.95)


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_interval_covers_seeds_where_users_alone_do_not(n_seeds: int) -> None:
    world = World(user_sizes(150, 2.5, 0.9), seed_sd=0.5, luck_sd=0.4)
    found = by_name(check_seeds(world, n_seeds=n_seeds, draws=Draws("seeds", N_WORLDS, 400, 6)))
    assert found["interval covers"] >= 0.95 - 3.3 * (0.05 * 0.95 / N_WORLDS) ** 0.5
    assert found["test over users and seeds rejects"] <= 0.05 + 3.3 * (0.05 * 0.95 / N_WORLDS) ** 0.5
    assert found["interval over users alone covers"] < 0.7
    assert found["interval of plainly resampled seeds covers"] < 0.9


def test_ranges_of_ranks_hold_all_ranks_at_once() -> None:
    world = World(user_sizes(120, 2.5, 0.9))
    found = by_name(check_ranks(world, shifts=(0.0,) * 5, draws=Draws("equal", N_WORLDS, 400, 7)))
    assert found["all ranges of ranks hold"] >= 0.95 - 3.3 * (0.05 * 0.95 / N_WORLDS) ** 0.5
    found = by_name(check_ranks(world, shifts=(2.0, 0.0), draws=Draws("two", 50, 400, 8)))
    assert found["the best is in the best set"] >= 0.9


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--worlds", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["worlds"] == 2
    assert {"setting", "what", "target", "value", "low", "high", "n_worlds"} == set(document["shares"][0])
    with pytest.raises(SystemExit):
        main(["--worlds", "0"])
