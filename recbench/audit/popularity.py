"""How concentrated the events are, and how far the same list for everyone gets."""

from __future__ import annotations

import numpy as np

from recbench.audit.build import Limits, exactly, make_finding, of, percent
from recbench.audit.subject import Subject
from recbench.contracts.audit import EFFECT_CUTOFF, Effect, Finding
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.lists import gini

_TOP = 0.2
#: The 80:20 rule, and half of it.
_LIMITS = Limits(0.5, 0.8)


def check_popularity(subject: Subject) -> Finding:
    """Measure how many test rows ask for the most popular items, and what a list of these alone reaches."""
    counts = subject.trained_targets
    popular, very_popular = (most_popular(counts, share) for share in (_TOP, 0.01))
    rows = popular[subject.test.target]
    count, n = int(rows.sum()), len(rows)
    share = count / n if n else 0.0
    top_share = float(very_popular[subject.test.target].mean()) if n else 0.0
    total = int(counts.sum())
    train_shares = {part: float(counts[chosen].sum() / total) if total else 0.0 for part, chosen in
                    (("20%", popular), ("1%", very_popular))}  # fmt: skip
    concentration = gini(counts)
    known = "unknown" if concentration is None else f"{concentration:.3f}"
    return make_finding(
        "popularity",
        "popularity concentration",
        count=count,
        out_of=n,
        limits=_LIMITS,
        effect=_most_popular_list(subject),
        short=f"{percent(share)} of test targets are among the 20% most popular items",
        found=f"{of(count, n, 'test rows')} ask for one of the 20% of items that are most often a training target, "
        f"{percent(top_share)} for one of the top 1%. These have {percent(train_shares['20%'])} and "
        f"{percent(train_shares['1%'])} of the training targets; Gini coefficient {known}.",
        advice="Look at the slices by popularity: means over all rows are mostly means over the popular items."
        if share >= _LIMITS.note
        else "Nothing to do.",
        facts={
            "gini of training targets": concentration,
            "share of training targets on the top 1%": train_shares["1%"],
            "share of training targets on the top 20%": train_shares["20%"],
            "share of test targets on the top 1%": top_share,
        },
        examples=subject.item_examples(np.argsort(-counts, kind="stable")),
    )


def most_popular(counts: np.ndarray, share: float) -> np.ndarray:
    """Return bool (n_items,): the most popular share of the items, rounded up; equal counts go by item number."""
    # A product such as 0.1 * 30 lies a little above the whole number it means.
    n_top = int(np.ceil(round(share * len(counts), 6)))
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-counts, kind="stable")[:n_top]] = True
    return chosen


def _most_popular_list(subject: Subject, k: int = EFFECT_CUTOFF) -> Effect | str:
    """Return HR@k and NDCG@k of one list for everyone, by training targets, ties by expectation."""
    if subject.protocol.mask_history:
        return "Histories are masked, so popular items make another list for everyone: run the method 'popularity'."
    if not len(subject.test):
        return "There are no test rows."
    counts = subject.trained_targets
    rising = np.sort(counts)
    own = counts[subject.test.target]
    first = len(rising) - np.searchsorted(rising, own, "right") + 1
    last = len(rising) - np.searchsorted(rising, own, "left")
    hr, ndcg = (float(expected_metric(name, first, last, k).mean()) for name in ("HR", "NDCG"))
    return exactly(hr, ndcg, "what the same list of the most popular items for everyone reaches")
