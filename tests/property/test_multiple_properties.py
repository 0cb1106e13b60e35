"""Adjusted p-values: those of statsmodels, whatever the family."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.stats.multiple import benjamini_hochberg, holm


@settings(deadline=None, max_examples=8)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    for ours, method in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        _, theirs, _, _ = multipletests(p_values, method=method)
        np.testing.assert_allclose(ours(p_values), theirs, rtol=1e-12, atol=0)
