"""What a tuning tries: the file that declares it, and which point comes next. Nothing is run here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from recbench.contracts.config import StrictModel, build_config
from recbench.contracts.errors import MissingExtraError
from recbench.contracts.seeding import derive_seed, numpy_rng
from recbench.experiment.config import read_yaml

# Larger grids are drawn from with repetition: a permutation of them would not fit into memory.
_LARGEST_SHUFFLED = 1_000_000

MAX_REPEATS = 50
"""So many repeated settings in a row end a search that draws: they cost no time, so minutes would never end it."""

Point = dict[str, Any]
"""Key -> index of a choice, or number of a range. What every searcher speaks."""


class Choices(StrictModel):
    """Values that are tried as they are."""

    choices: tuple[Any, ...] = Field(min_length=1, description="plain values")

    @property
    def n_values(self) -> int:
        """Number of values."""
        return len(self.choices)


class Range(StrictModel):
    """Numbers between two bounds, both included."""

    model_config = ConfigDict(populate_by_name=True)

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="draw on a logarithmic scale; low must be above 0")
    integer: bool = Field(False, alias="int", description="whole numbers only")

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}; a logarithmic scale needs a value above 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low {self.low:g} and high {self.high:g} are bounds of whole numbers and must be whole")
        return self

    @property
    def bounds(self) -> tuple[float | int, float | int]:
        """The smallest and the largest value, as a configuration gets them."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    @property
    def n_values(self) -> int | None:
        """Number of values, None where there is no end of them."""
        return int(self.high) - int(self.low) + 1 if self.integer else None

    def draw(self, rng: np.random.Generator) -> float | int:
        """Return a number, uniformly on the scale of the range."""
        if self.integer and not self.log:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        # Whole numbers own the half steps around them, so that the bounds are as likely as the others.
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        value = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)
        return min(max(round(value), int(self.low)), int(self.high)) if self.integer else float(value)


def _dimension(value: Any) -> Any:
    if isinstance(value, list):
        return Choices(choices=value)
    if isinstance(value, Mapping):
        return (Choices if "choices" in value else Range).model_validate(value)
    raise ValueError(f"{value!r} is neither a list of values nor low: and high:")


Dimension = Annotated[Choices | Range, BeforeValidator(_dimension)]


class Budget(StrictModel):
    """When a search ends, whichever limit is met first; without one it ends when nothing new is left to try."""

    trials: int | None = Field(None, ge=1, description="trials at most, failed and repeated ones counted")
    minutes: float | None = Field(
        None, gt=0, description="no trial begins after so many minutes of finished trials; repeated ones take none"
    )


class TuneConfig(StrictModel):
    """A declared search for settings, as ``--tune`` reads it. Settings are chosen on validation rows only."""

    search: Literal["grid", "random", "optuna"] = Field(
        "grid", description="grid: every combination; random: drawn; optuna: tree-structured Parzen estimator"
    )
    budget: Budget = Field(
        Budget(),
        description="when the search ends; a grid needs none. Every search ends when all combinations are tried, and "
        f"a drawn one (random, optuna) after {MAX_REPEATS} trials in a row that repeat earlier settings",
    )
    metric: str = Field(
        "NDCG@10",
        description="metric of the exact item on validation rows, or LL, the log-probability of the true titles, for "
        "which nothing is decoded; the largest mean wins",
    )
    rows: int | None = Field(
        None, ge=1, description="validation rows that trials are measured on, drawn at random; unset: all"
    )
    seed: int = Field(0, ge=0, description="of the drawn rows and of the search; the runs' own seed is another")
    space: dict[str, Dimension] = Field(
        min_length=1, description="key of the method's configuration (a.b) -> values, or low/high/log/int"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TuneConfig:
        wrong = [key for key in self.space if key.partition(".")[0] == "protocol" or not all(key.split("."))]
        if wrong:
            raise ValueError(
                f"space: {', '.join(wrong)}: only keys of the method's configuration are tuned; the protocol is the "
                "same for all trials"
            )
        clashes = [key for key in self.space for other in self.space if other.startswith(f"{key}.")]
        if clashes:
            raise ValueError(f"space: {', '.join(clashes)} is given both as a value and as a group of keys")
        ranges = [key for key, dimension in self.space.items() if isinstance(dimension, Range)]
        if self.search == "grid" and ranges:
            raise ValueError(f"space: {', '.join(ranges)}: a grid needs a list of values, not a range")
        if self.search != "grid" and self.budget == Budget():
            raise ValueError(f"budget: search {self.search} needs budget.trials or budget.minutes")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the sequence of trials; a larger budget continues the same tuning."""
        return self.model_dump(mode="json", exclude={"budget"})

    @property
    def n_points(self) -> int | None:
        """Number of combinations, None where a range has no end of them."""
        sizes = [one.n_values for one in self.space.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def corners(self) -> list[Point]:
        """Return points in which every choice and every bound occurs; the first has the first of each."""
        ends = {
            key: list(range(len(one.choices))) if isinstance(one, Choices) else list(one.bounds)
            for key, one in self.space.items()
        }
        first = {key: values[0] for key, values in ends.items()}
        return [first, *(first | {key: value} for key, values in ends.items() for value in values[1:])]

    def values(self, point: Point) -> dict[str, Any]:
        """Return the values that a point stands for, by key."""
        return {
            key: dimension.choices[point[key]] if isinstance(dimension, Choices) else point[key]
            for key, dimension in self.space.items()
        }


@dataclass(frozen=True)
class Tried:
    """What a searcher learns from one trial: its point and its metric, None if it failed."""

    point: Point
    value: float | None


Propose = Callable[[Sequence[Tried]], Point | None]
"""All trials so far -> the next point, None where nothing is left. A pure function, so a killed tuning goes on."""


def read_tune_file(path: Path) -> TuneConfig:
    """Read the file of ``--tune``.

    Raises:
        ConfigError: it cannot be read, or names every wrong key and value.
    """
    return build_config(TuneConfig, read_yaml(path, TuneConfig), f"the tuning ({path})")


def searcher(config: TuneConfig) -> Propose:
    """Return the function that proposes points.

    Raises:
        MissingExtraError: the search needs Optuna, which is not installed.
    """
    if config.search == "grid":
        grid = _grid(config)
        return lambda tried: grid[len(tried)] if len(tried) < len(grid) else None
    if config.search == "random":
        return _while_untried(config, _random(config))
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "search: optuna needs Optuna, which is not installed.", "pip install 'recbench[tune]'"
        ) from error
    return _while_untried(config, partial(_optuna, config))


def _while_untried(config: TuneConfig, propose: Propose) -> Propose:
    """Return a search by ``propose`` that ends when every combination has been tried."""
    n_points = config.n_points

    def limited(tried: Sequence[Tried]) -> Point | None:
        if n_points is not None and len(tried) >= n_points:
            distinct = {tuple(one.point[key] for key in config.space) for one in tried}
            if len(distinct) >= n_points:
                return None
        return propose(tried)

    return limited


def _grid(config: TuneConfig) -> list[Point]:
    sizes = [range(len(one.choices)) for one in config.space.values() if isinstance(one, Choices)]
    return [dict(zip(config.space, place, strict=True)) for place in itertools.product(*sizes)]


def _random(config: TuneConfig) -> Propose:
    sizes = tuple(len(one.choices) for one in config.space.values() if isinstance(one, Choices))
    n_points = math.prod(sizes)
    if len(sizes) == len(config.space) and n_points <= _LARGEST_SHUFFLED:
        order = numpy_rng(config.seed, "tune", "order").permutation(n_points)

        def shuffled(tried: Sequence[Tried]) -> Point | None:
            if len(tried) == n_points:
                return None
            place = np.unravel_index(order[len(tried)], sizes)
            return dict(zip(config.space, map(int, place), strict=True))

        return shuffled

    def drawn(tried: Sequence[Tried]) -> Point:
        rng = numpy_rng(config.seed, "tune", len(tried))
        return {
            key: int(rng.integers(len(one.choices))) if isinstance(one, Choices) else one.draw(rng)
            for key, one in config.space.items()
        }

    return drawn


def _optuna(config: TuneConfig, tried: Sequence[Tried]) -> Point:
    """Ask Optuna's TPE, which is told all trials so far. Its seed depends on their number alone."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    def distribution(one: Choices | Range) -> BaseDistribution:
        if isinstance(one, Choices):
            return CategoricalDistribution(tuple(range(len(one.choices))))
        if one.integer:
            return IntDistribution(int(one.low), int(one.high), log=one.log)
        return FloatDistribution(one.low, one.high, log=one.log)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: distribution(one) for key, one in config.space.items()}
    sampler = optuna.samplers.TPESampler(seed=derive_seed(config.seed, "tune", len(tried)) % 2**32)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in tried:
        state = TrialState.FAIL if one.value is None else TrialState.COMPLETE
        study.add_trial(create_trial(params=one.point, distributions=space, value=one.value, state=state))
    return dict(study.ask(space).params)
