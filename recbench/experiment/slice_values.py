"""The numbers of slices: means, intervals, gains and contrasts of E entries on the slices of several cuts.

Pure functions of arrays. All cuts share one set of bootstrap resamples and one set of sign flips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbench.contracts.comparison import Interval
from recbench.stats.bootstrap import LEVEL, bootstrap_means
from recbench.stats.interaction import contrast
from recbench.stats.paired import sign_flip_p

#: Below this a percentile bootstrap over users is not worth printing, and resamples without any row get likely.
MIN_USERS_FOR_INTERVAL = 20


@dataclass(frozen=True)
class UserSums:
    """Sums over the examples of each of U users in each of S slices, for E entries.

    Attributes:
        totals: float64 (U, S, E), sums of the metric.
        counts: int64 (U, S), examples.
        focus: bool (S,), slices in the focus of the cut.
    """

    totals: np.ndarray
    counts: np.ndarray
    focus: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, user: np.ndarray, label: np.ndarray, n_users: int, focus: np.ndarray) -> UserSums:
        """Add up examples.

        Args:
            values: float (E, N).
            user: int (N,), 0 to U-1.
            label: int (N,), slice of each example, 0 to S-1; -1 for those in none.
            n_users: U.
            focus: bool (S,).
        """
        known = label >= 0
        n_slices = len(focus)
        cell = user[known] * n_slices + label[known]
        totals = [np.bincount(cell, weights=one[known], minlength=n_users * n_slices) for one in values]
        counts = np.bincount(cell, minlength=n_users * n_slices)
        return cls(np.stack(totals, axis=1).reshape(n_users, n_slices, -1), counts.reshape(n_users, n_slices), focus)

    @cached_property
    def users(self) -> np.ndarray:
        """int64 (S,): users with examples in each slice."""
        return (self.counts > 0).sum(axis=0)

    @property
    def inside(self) -> tuple[np.ndarray, np.ndarray]:
        """Totals (U, E) and counts (U, 1) of the focus."""
        return self.totals[:, self.focus].sum(axis=1), self.counts[:, self.focus].sum(axis=1, keepdims=True)

    @property
    def outside(self) -> tuple[np.ndarray, np.ndarray]:
        """Totals (U, E) and counts (U, 1) of all other slices."""
        return self.totals[:, ~self.focus].sum(axis=1), self.counts[:, ~self.focus].sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Estimates:
    """A quantity with its bootstrap interval.

    Attributes:
        value: float64 (S, E); NaN where it is not defined.
        low, high: float64 (S, E); NaN where there is no interval.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, place: int, entry: int) -> float | None:
        """Return one value, or None."""
        value = float(self.value[place, entry])
        return None if np.isnan(value) else value

    def interval(self, place: int, entry: int) -> Interval | None:
        """Return one interval, or None."""
        low, high = float(self.low[place, entry]), float(self.high[place, entry])
        return None if np.isnan(low) or np.isnan(high) else Interval(low, high)


@dataclass(frozen=True)
class ContrastEstimates:
    """Contrasts of E entries: gain inside the focus minus gain outside.

    Attributes:
        value, p: float64 (E,); NaN where not defined.
        low, high: float64 (E,); NaN where there is no interval.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class SliceValues:
    """Everything about E entries on S slices. Without a baseline, only ``mean`` is there."""

    mean: Estimates
    difference: Estimates | None = None
    improvement: Estimates | None = None
    absolute: ContrastEstimates | None = None
    relative: ContrastEstimates | None = None


def slice_values(
    sums: Sequence[UserSums], baseline: int | None, n_resamples: int, n_flips: int, seed: int
) -> list[SliceValues]:
    """Return the numbers of several cuts of the same examples.

    Args:
        sums: one per cut, of the same users and entries.
        baseline: number of the entry that others are compared with.
        n_resamples: of the bootstrap.
        n_flips: of the sign-flip test.
        seed: seed of both.
    """
    resampled = _resample(sums, n_resamples, seed)
    if baseline is None:
        return [
            SliceValues(_estimates(_observed(one).mean[0], drawn.mean, one.users))
            for one, drawn in zip(sums, resampled, strict=True)
        ]
    p_values = _p_values(sums, baseline, n_flips, seed)
    return [
        _against(one, drawn, baseline, p_absolute, p_relative)
        for one, drawn, (p_absolute, p_relative) in zip(sums, resampled, p_values, strict=True)
    ]


@dataclass(frozen=True)
class _Sums:
    """Sums over all users, as drawn in R resamples (or R = 1: as observed).

    Attributes:
        totals: float64 (R, S, E).
        counts: float64 (R, S, 1).
    """

    totals: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """float64 (R, S, E); NaN where a slice is empty."""
        return _divide(self.totals, self.counts)

    def difference(self, baseline: int) -> np.ndarray:
        """float64 (R, S, E), mean minus the baseline's; NaN where a slice is empty."""
        return self.mean - self.mean[:, :, baseline, None]

    def improvement(self, baseline: int) -> np.ndarray:
        """float64 (R, S, E), relative to the baseline; NaN where that has 0."""
        return _divide(self.totals, self.totals[:, :, baseline, None]) - 1

    def part(self, chosen: np.ndarray) -> _Sums:
        """Return the chosen slices as one."""
        return _Sums(
            self.totals[:, chosen].sum(axis=1, keepdims=True), self.counts[:, chosen].sum(axis=1, keepdims=True)
        )


def _observed(sums: UserSums) -> _Sums:
    return _Sums(sums.totals.sum(axis=0)[None], sums.counts.sum(axis=0)[None, :, None].astype(np.float64))


def _resample(sums: Sequence[UserSums], n_resamples: int, seed: int) -> list[_Sums]:
    """Draw users once for all cuts. What is drawn are sums over one common number, which ratios do without."""
    n_users = len(sums[0].counts)
    columns = [block.reshape(n_users, -1) for one in sums for block in (one.totals, one.counts)]
    drawn = bootstrap_means(np.hstack(columns), np.ones(n_users), n_resamples, seed).means
    widths = np.cumsum([block.shape[1] for block in columns])[:-1]
    parts = iter(np.split(drawn, widths, axis=1))
    return [_Sums(next(parts).reshape(n_resamples, *one.totals.shape[1:]), next(parts)[:, :, None]) for one in sums]


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0."""
    b = np.broadcast_to(b, a.shape)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval over the first axis; NaN wherever a resample has no value."""
    tail = 100 * (1 - LEVEL) / 2
    # Percentiles of an array with NaN are NaN.
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return low, high


def _estimates(value: np.ndarray, drawn: np.ndarray, users: np.ndarray) -> Estimates:
    """Put together values (S, E) and what was drawn (R, S, E), given the number of users behind each slice (S,).

    Where all resamples agree, there is no interval either: without a single hit, resampling cannot say how many others
    would have had.
    """
    low, high = _interval(drawn)
    useful = (users >= MIN_USERS_FOR_INTERVAL)[:, None] & (high > low)
    return Estimates(value, np.where(useful, low, np.nan), np.where(useful, high, np.nan))


def _against(
    sums: UserSums, drawn: _Sums, baseline: int, p_absolute: np.ndarray, p_relative: np.ndarray
) -> SliceValues:
    observed = _observed(sums)

    def estimates(quantity: Callable[[_Sums], np.ndarray]) -> Estimates:
        return _estimates(quantity(observed)[0], quantity(drawn), sums.users)

    def contrasted(gain: Callable[[_Sums], np.ndarray], p: np.ndarray) -> ContrastEstimates:
        def value(of: _Sums) -> np.ndarray:
            return (gain(of.part(sums.focus)) - gain(of.part(~sums.focus)))[:, 0]

        users = [(sums.counts[:, side].sum(axis=1) > 0).sum() for side in (sums.focus, ~sums.focus)]
        found = _estimates(value(observed), value(drawn), np.array([min(users)]))
        return ContrastEstimates(found.value[0], found.low[0], found.high[0], p)

    both_sides = bool(sums.focus.any() and not sums.focus.all())
    return SliceValues(
        mean=estimates(lambda of: of.mean),
        difference=estimates(lambda of: of.difference(baseline)),
        improvement=estimates(lambda of: of.improvement(baseline)),
        absolute=contrasted(lambda of: of.difference(baseline), p_absolute) if both_sides else None,
        relative=contrasted(lambda of: of.improvement(baseline), p_relative) if both_sides else None,
    )


def _p_values(sums: Sequence[UserSums], baseline: int, n_flips: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return p-values (E,) of the absolute and the relative contrast of every cut, NaN where not defined."""
    n_users, _, n_entries = sums[0].totals.shape
    blocks: list[np.ndarray] = []
    for one in sums:
        (inside, n_inside), (outside, n_outside) = one.inside, one.outside
        base_in, base_out = inside[:, baseline, None], outside[:, baseline, None]
        nothing = np.full((n_users, n_entries), np.nan)
        both = n_inside.sum() > 0 and n_outside.sum() > 0
        blocks.append(contrast(inside - base_in, n_inside, outside - base_out, n_outside)[1] if both else nothing)
        both = base_in.sum() > 0 and base_out.sum() > 0
        blocks.append(contrast(inside, base_in, outside, base_out)[1] if both else nothing)
    contributions = np.hstack(blocks)
    defined = ~np.isnan(contributions[0])
    p = np.full(contributions.shape[1], np.nan)
    p[defined] = sign_flip_p(contributions[:, defined], n_flips, seed)
    per_cut = p.reshape(len(sums), 2, n_entries)
    return [(both_p[0], both_p[1]) for both_p in per_cut]
