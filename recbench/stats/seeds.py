"""The second level of the bootstrap: seeds, drawn inside each entry.

Users and seeds are crossed, so both are resampled (Owen 2007, "The pigeonhole bootstrap"): a resample draws users once
for all entries, and for each entry S of its S runs. Two things would make the result too narrow, and are mended:

* n things drawn from themselves vary by (n - 1) / n of what they should. Deviations from the mean are widened by
  sqrt(n / (n - 1)) at both levels (Rao and Wu 1988, "Resampling inference with complex survey data", do the same by
  drawing n - 1). With two seeds that is a factor of 1.41, with 2,000 users none.
* Percentiles act as if the spread were known. The interval is widened about its centre by the ratio of the t quantile
  with the degrees of freedom of the two-level error to the normal quantile (Hesterberg 2015, "What teachers should know
  about the bootstrap", expanded percentile interval).
"""

from __future__ import annotations

import numpy as np

from recbench.contracts.seeding import numpy_rng
from recbench.stats.bootstrap import LEVEL, BootstrapMeans
from recbench.stats.clustered import SeedLevel


def two_level_means(boot: BootstrapMeans, means: np.ndarray, n_users: int, seeds: SeedLevel) -> np.ndarray:
    """Return float64 (R, E): the entries' means with users and seeds resampled, centred on ``means``.

    Args:
        boot: means of the seed-averaged values, with users resampled.
        means: float64 (E,), the observed means over examples and seeds.
        n_users: U.
        seeds: the run means of each entry. Entries that rank with the same fitted models share their draws.
    """
    widening = np.sqrt(n_users / (n_users - 1)) if n_users > 1 else 1.0
    resampled = means + widening * (boot.means - means)
    n_resamples = len(resampled)
    for entry, (run_means, models) in enumerate(zip(seeds.run_means, seeds.models, strict=True)):
        n_seeds = len(run_means)
        if n_seeds > 1:
            rng = numpy_rng(boot.seed, "seeds", *models)
            drawn = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples) / n_seeds
            resampled[:, entry] += np.sqrt(n_seeds / (n_seeds - 1)) * (drawn @ (run_means - run_means.mean()))
    return resampled


def widened_interval(resampled: np.ndarray, centre: float, df: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval, widened about ``centre`` by t quantile / normal quantile.

    Args:
        resampled: float64 (R,), resamples of one quantity.
        centre: its observed value.
        df: degrees of freedom of its error.
        level: confidence level.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    factor = float(t_over_normal(df, level))
    return centre + factor * (float(low) - centre), centre + factor * (float(high) - centre)


def t_over_normal(df: np.ndarray | float, level: float = LEVEL) -> np.ndarray:
    """Return the two-sided t quantile over the normal one: how much wider an interval gets for an estimated error."""
    from scipy import stats

    tail = (1 - level) / 2
    return np.asarray(stats.t.isf(tail, df) / stats.norm.isf(tail))
