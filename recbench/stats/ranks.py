"""Which ranks the data allow, for all entries at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbench.stats.clustered import Errors
from recbench.stats.paired import NO_DIFFERENCE

# A hundred entries make 4,950 pairs; of so many, fewer resamples are looked at.
_CELLS = 20_000_000
_LEAST_RESAMPLES = 2_000


@dataclass(frozen=True)
class RankRanges:
    """Ranks (1 is best) of E entries.

    Attributes:
        better: bool (E, E), whether the row's entry is significantly better than the column's.
    """

    better: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """Best possible ranks, int (E,): 1 + the entries that are significantly better."""
        return 1 + self.better.sum(axis=0)

    @property
    def high(self) -> np.ndarray:
        """Worst possible ranks, int (E,): E - the entries that are significantly worse."""
        return len(self.better) - self.better.sum(axis=1)


def rank_ranges(means: np.ndarray, resampled: np.ndarray, errors: Errors, alpha: float) -> RankRanges:
    """Return ranges that hold all true ranks at once with confidence 1 - alpha.

    Every claim "j is better than k" is tested, for all ordered pairs together: step-down with the largest studentised
    statistic of the bootstrap (Romano and Wolf 2005), so that the chance of any wrong claim is at most alpha. An
    entry's rank lies between 1 + the entries claimed better and E - the entries claimed worse (Mogstad, Romano, Shaikh
    and Wilhelm 2024, "Inference for ranks"). The entries whose range begins at 1 hold the true best with the same
    confidence. Nothing is chosen by looking at the data first, as it is when all are compared with the best.

    Args:
        means: float64 (E,).
        resampled: float64 (R, E), bootstrap of the means, centred on them (``recbench.stats.seeds.two_level_means``).
        errors: (E, E) errors of the differences of means. A statistic whose error rests on few seeds or users counts
            as the normal deviate that is as rare as it is under its t distribution.
        alpha: bound on the chance that any range is wrong.
    """
    from scipy import stats

    n = len(means)
    first, second = np.triu_indices(n, k=1)
    error = errors.standard_error[first, second]
    differences = means[first] - means[second]
    # Without any error a difference is certain, and none is none.
    certain = np.where(np.abs(differences) <= NO_DIFFERENCE, 0.0, np.copysign(np.inf, differences))
    t = np.divide(differences, error, out=certain, where=error > 0)
    observed = np.copysign(stats.norm.isf(stats.t.sf(np.abs(t), errors.df[first, second])), t)
    at_most = max(_LEAST_RESAMPLES, _CELLS // max(len(error), 1))
    # One row per pair: the largest of many pairs is then taken along contiguous memory.
    centred = np.ascontiguousarray((resampled[:at_most] - means).T, dtype=np.float32)
    chance = centred[first] - centred[second]
    spread = chance.std(axis=1)
    chance *= np.divide(1.0, spread, out=np.zeros_like(spread), where=error > 0)[:, None]
    forward, backward = _step_down(observed, chance, alpha)
    better = np.zeros((n, n), dtype=bool)
    better[first[forward], second[forward]] = True
    better[second[backward], first[backward]] = True
    return RankRanges(better)


def _step_down(observed: np.ndarray, chance: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return bool (P,), (P,): pairs whose first one is claimed better, and whose second one is.

    Args:
        observed: float64 (P,) studentised differences.
        chance: float32 (P, R), the same under resampling, centred on 0.
        alpha: chance of any wrong claim.
    """
    forward = np.zeros(len(observed), dtype=bool)
    backward = np.zeros(len(observed), dtype=bool)
    while len(observed) and not (forward.all() and backward.all()):
        largest = np.full(chance.shape[1], -np.inf, dtype=np.float32)
        if not forward.all():
            largest = chance[~forward].max(axis=0)
        if not backward.all():
            largest = np.maximum(largest, -chance[~backward].min(axis=0))
        bound = float(np.quantile(largest, 1 - alpha, method="higher"))
        new_forward, new_backward = observed > bound, -observed > bound
        if not ((new_forward & ~forward).any() or (new_backward & ~backward).any()):
            break
        forward |= new_forward
        backward |= new_backward
    return forward, backward
