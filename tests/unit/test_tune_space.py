"""Which point a search tries next."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.contracts.errors import MissingExtraError
from recbench.experiment.tune_space import Range, Tried, TuneConfig, searcher


def points_of(config: TuneConfig, n: int, value: float | None = 0.5) -> list[dict[str, object]]:
    """Return the first ``n`` points, all of whose trials have one value."""
    propose, tried = searcher(config), []
    for _ in range(n):
        point = propose(tried)
        if point is None:
            break
        tried.append(Tried(point, value))
    return [config.values(one.point) for one in tried]


def test_grid_in_the_order_of_the_file_last_key_fastest() -> None:
    config = TuneConfig.model_validate({"space": {"a": [1, 2], "b.c": ["x", None, [1]]}})
    assert config.n_points == 6
    assert points_of(config, 99) == [
        {"a": 1, "b.c": "x"}, {"a": 1, "b.c": None}, {"a": 1, "b.c": [1]},
        {"a": 2, "b.c": "x"}, {"a": 2, "b.c": None}, {"a": 2, "b.c": [1]},
    ]  # fmt: skip


def test_corners_hold_every_declared_value() -> None:
    space = {"a": [1, 2, 3], "b": {"low": 0.5, "high": 2}, "c": {"low": 1, "high": 9, "int": True}}
    config = TuneConfig.model_validate({"search": "random", "budget": {"trials": 1}, "space": space})
    corners = [config.values(point) for point in config.corners()]
    assert corners[0] == {"a": 1, "b": 0.5, "c": 1}
    assert {repr(corner[key]) for corner in corners for key in space} == {"1", "2", "3", "0.5", "2.0", "9"}


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 10))
def test_random_over_choices_is_a_permutation_of_the_grid(sizes: list[int], seed: int) -> None:
    space = {f"k{number}": list(range(size)) for number, size in enumerate(sizes)}
    config = TuneConfig.model_validate({"search": "random", "budget": {"trials": 99}, "seed": seed, "space": space})
    points = points_of(config, 99)
    assert len(points) == np.prod(sizes)
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert points == points_of(config, 99, value=None), "random search does not look at results"


@settings(max_examples=100, deadline=None)
@given(
    low=st.integers(1, 50), width=st.integers(1, 50), log=st.booleans(), integer=st.booleans(), seed=st.integers(0, 99)
)
def test_draws_lie_within_the_range(low: int, width: int, log: bool, integer: bool, seed: int) -> None:
    drawn = Range(low=low, high=low + width, log=log, integer=integer).draw(np.random.default_rng(seed))
    assert low <= drawn <= low + width
    assert isinstance(drawn, int) == integer


def test_draws_follow_the_scale() -> None:
    rng = np.random.default_rng(0)
    even = [Range(low=0.001, high=10).draw(rng) for _ in range(4000)]
    log = [Range(low=0.001, high=10, log=True).draw(rng) for _ in range(4000)]
    dice = [Range(low=1, high=6, integer=True).draw(rng) for _ in range(6000)]
    assert np.mean(even) == pytest.approx(5, abs=0.2)
    assert np.mean(np.log10(log)) == pytest.approx(-1, abs=0.1)
    assert np.bincount(dice)[1:].min() > 850, "the bounds are as likely as the others"


def search(kind: str, n: int) -> list[Tried]:
    """Search the maximum of a function whose best place is x = 0.3, c = "good"; the fourth trial fails."""
    space = {"x": {"low": 0, "high": 1}, "c": ["bad", "good"]}
    config = TuneConfig.model_validate({"search": kind, "budget": {"trials": n}, "space": space})
    propose, tried = searcher(config), []
    for number in range(n):
        point = propose(tried)
        assert point is not None
        assert propose(tried) == point, "a proposal depends on what it is told alone"
        values = config.values(point)
        tried.append(Tried(point, None if number == 3 else -abs(values["x"] - 0.3) - (values["c"] == "bad")))
    return tried


def test_optuna_goes_where_the_values_are_good() -> None:
    pytest.importorskip("optuna")
    late = {kind: np.mean([one.value for one in search(kind, 40)[20:]]) for kind in ("random", "optuna")}
    assert late["optuna"] > late["random"] + 0.2


def test_optuna_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    config = TuneConfig.model_validate({"search": "optuna", "budget": {"trials": 1}, "space": {"x": [1, 2]}})
    with pytest.raises(MissingExtraError) as caught:
        searcher(config)
    assert "pip install 'recbench[tune]'" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "n_points"),
    [
        ({"a": [1, 2], "b": {"low": 3, "high": 7, "int": True}}, 10),
        ({"a": {"low": 1, "high": 64, "int": True, "log": True}}, 64),
        ({"a": [1, 2], "b": {"low": 3, "high": 7}}, None),
    ],
)
def test_what_can_be_counted(space: dict[str, object], n_points: int | None) -> None:
    config = TuneConfig.model_validate({"search": "random", "budget": {"minutes": 5}, "space": space})
    assert config.n_points == n_points


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_ends_when_all_combinations_are_tried(kind: str) -> None:
    if kind == "optuna":
        pytest.importorskip("optuna")
    space = {"a": [1, 2], "b": {"low": 3, "high": 4, "int": True}}
    config = TuneConfig.model_validate({"search": kind, "budget": {"minutes": 5}, "space": space})
    points = points_of(config, 300)
    distinct = {tuple(point.values()) for point in points}
    assert distinct == {(1, 3), (1, 4), (2, 3), (2, 4)}
    assert tuple(points[-1].values()) not in {tuple(point.values()) for point in points[:-1]}


def test_budget_is_no_part_of_what_is_searched() -> None:
    def config(**changes: object) -> TuneConfig:
        return TuneConfig.model_validate(
            {"search": "random", "budget": {"trials": 3}, "space": {"x": [1, 2]}} | changes
        )

    assert config().identity == config(budget={"minutes": 5}).identity
    assert config().identity != config(seed=1).identity
    assert config().identity != config(rows=5).identity
