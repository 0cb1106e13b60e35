"""The second level of the bootstrap: seeds, drawn inside each entry.

Users and seeds are crossed, so both are resampled (Owen 2007, "The pigeonhole bootstrap"): a resample draws users once
for all entries, and for each entry S of its S runs. Two things would make the result too narrow, and are mended:

* S seeds drawn from themselves vary by (S - 1) / S of what they should. Their deviations are widened by
  sqrt(S / (S - 1)) (Rao and Wu 1988, "Resampling inference with complex survey data", do the same by drawing S - 1).
* Percentiles act as if the spread were known. The interval keeps the form of the bootstrap's percentiles, but its
  spread is that of the standard error, times the ratio of the t quantile to the normal one (Hesterberg 2015, "What
  teachers should know about the bootstrap", on intervals from percentiles that are too narrow).
"""

from __future__ import annotations

import numpy as np

from recbench.contracts.seeding import numpy_rng
from recbench.stats.bootstrap import LEVEL, BootstrapMeans
from recbench.stats.clustered import SeedLevel


def two_level_means(boot: BootstrapMeans, seeds: SeedLevel) -> np.ndarray:
    """Return float64 (R, E): the entries' means with users and seeds resampled.

    Args:
        boot: means of the seed-averaged values, with users resampled.
        seeds: the run means of each entry. Entries that rank with the same fitted models share their draws.
    """
    resampled = boot.means.copy()
    for entry, (run_means, models) in enumerate(zip(seeds.run_means, seeds.models, strict=True)):
        n_seeds = len(run_means)
        if n_seeds > 1:
            rng = numpy_rng(boot.seed, "seeds", *models)
            drawn = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=len(resampled)) / n_seeds
            resampled[:, entry] += np.sqrt(n_seeds / (n_seeds - 1)) * (drawn @ (run_means - run_means.mean()))
    return resampled


def scaled_interval(
    resampled: np.ndarray, centre: float, standard_error: float, df: float, level: float = LEVEL
) -> tuple[float, float]:
    """Return the percentile interval about ``centre``, with the spread of the standard error.

    Args:
        resampled: float64 (R,), resamples of one quantity.
        centre: its observed value.
        standard_error, df: its error and the degrees of freedom of that.
        level: confidence level.
    """
    from scipy import stats

    tail = (1 - level) / 2
    spread = float(resampled.std())
    if spread == 0:
        return centre, centre
    low, high = np.quantile(resampled, [tail, 1 - tail])
    factor = standard_error / spread * float(stats.t.isf(tail, df) / stats.norm.isf(tail))
    return centre + factor * (float(low) - centre), centre + factor * (float(high) - centre)
