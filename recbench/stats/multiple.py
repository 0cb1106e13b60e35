"""Many tests at once: adjusted p-values within a declared family."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, which bound the chance of any false finding in the family.

    Valid however the tests depend on each other (Holm 1979).
    """
    return _adjust(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return Benjamini-Hochberg adjusted p-values, which bound the expected share of false ones among the findings.

    For exploration: it finds more than Holm, and some of what it finds is expected to be false. Valid for independent
    and positively dependent tests (Benjamini and Yekutieli 2001).
    """
    return _adjust(p_values, "fdr_bh")


def _adjust(p_values: Sequence[float], method: str) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    return [float(p) for p in multipletests(list(p_values), method=method)[1]]
