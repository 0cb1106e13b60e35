"""The paper's own significance test: a t-test over run means, with the run as the unit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbench.contracts.comparison import RunsTestKind


class RunsT(NamedTuple):
    """Statistic, degrees of freedom and two-sided p-value; all None where no run differs from another."""

    t: float | None
    df: float | None
    p: float | None


def runs_test(a: np.ndarray, b: np.ndarray, kind: RunsTestKind) -> RunsT:
    """Test run means of two entries, as the LatentR3 paper's appendix E does over 5 runs of each.

    It asks whether new runs on the same test users would differ again; that other users would agree, it cannot tell.

    Args:
        a, b: float64, one mean per run, at least two; for "paired" in the order of common seeds.
        kind: "welch" (unequal variances; the paper does not say which t-test it took) or "paired".
    """
    from scipy import stats

    if kind == "paired":
        differences = np.asarray(a) - np.asarray(b)
        if np.ptp(differences) == 0:
            return RunsT(None, None, None)
        result = stats.ttest_rel(a, b)
    else:
        if np.ptp(a) == 0 and np.ptp(b) == 0:
            return RunsT(None, None, None)
        result = stats.ttest_ind(a, b, equal_var=False)
    return RunsT(float(result.statistic), float(result.df), float(result.pvalue))
