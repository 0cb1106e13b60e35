"""Many tests at once: adjusted p-values within a declared family."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, which bound the chance of any false finding in the family.

    Valid however the tests depend on each other (Holm 1979). The same as statsmodels' ``multipletests``, which collects
    the garbage of the whole process in every call: a report makes hundreds of them.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return Benjamini-Hochberg adjusted p-values, which bound the expected share of false ones among the findings.

    For exploration: it finds more than Holm, and some of what it finds is expected to be false. Valid for independent
    and positively dependent tests (Benjamini and Yekutieli 2001).
    """
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="fdr_bh")[1]] if p_values else []
