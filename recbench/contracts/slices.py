"""Metrics of several entries on slices of the test examples: what `slices` prints and reports render, unrounded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from recbench.contracts.comparison import Interval

MIN_USERS = 50
"""With fewer clusters than about this, cluster-robust inference is known to be too sure of itself (Cameron and Miller
2015, "A practitioner's guide to cluster-robust inference", section VI)."""

MIN_HITS = 10
"""A sum of h rare hits has a relative standard error of about 1 / sqrt(h): above 30% with fewer than these."""

SliceWarning = Literal["few users", "few hits", "few baseline hits"]

WARNING_TEXT: dict[SliceWarning, str] = {
    "few users": f"fewer than {MIN_USERS} users, so intervals and tests are too sure of themselves",
    "few hits": f"no method hits {MIN_HITS} of the examples, so one hit more or less changes much",
    "few baseline hits": f"the baseline hits fewer than {MIN_HITS} of the examples, so relative gains are unstable",
}


@dataclass(frozen=True)
class SliceFacts:
    """One slice of the test examples.

    Attributes:
        key, title, rule: name, name for readers, which examples belong to it.
        n_rows: examples.
        n_users, n_items: distinct users and target items.
        share: of all examples.
        focus: whether the slice belongs to the focus of its table.
        warnings: why its numbers say little, if they do (:data:`WARNING_TEXT`).
    """

    key: str
    title: str
    rule: str
    n_rows: int
    n_users: int
    n_items: int
    share: float
    focus: bool
    warnings: tuple[SliceWarning, ...] = ()


@dataclass(frozen=True)
class SliceValue:
    """One entry on one slice. All intervals are of the user-level bootstrap, of the same resamples.

    Attributes:
        mean: mean of the metric over the slice's examples (and seeds).
        interval: of ``mean``; None where the slice has too few users for one, or where all resamples agree (no hits).
        difference, difference_interval: mean minus the baseline's; None, as all that follows, without a baseline and
            for the baseline itself.
        improvement, improvement_interval: mean over the baseline's mean, minus 1; None where the baseline has 0 (the
            interval: in any resample).
        improvement_of_sums: the same for the sum of several metrics (``SliceTable.summed_metrics``): the relative
            improvement as the LatentR3 paper computes it over metrics.
        mean_improvement: mean over those metrics of each one's relative improvement, leaving out metrics for which
            the baseline has 0; None where that leaves none.
        n_improvements: metrics in ``mean_improvement``.
    """

    mean: float
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None
    improvement: float | None = None
    improvement_interval: Interval | None = None
    improvement_of_sums: float | None = None
    mean_improvement: float | None = None
    n_improvements: int = 0


@dataclass(frozen=True)
class Contrast:
    """Is the gain over the baseline larger inside the focus than on all other examples?

    Attributes:
        value: gain inside minus gain outside.
        interval: user-level bootstrap interval; None where there are too few users inside or outside.
        p: two-sided sign-flip test over users (:mod:`recbench.stats.interaction`).
        p_adjusted: the same, Holm-adjusted over the entries of the table.
    """

    value: float
    interval: Interval | None
    p: float
    p_adjusted: float


@dataclass(frozen=True)
class SlicedEntry:
    """One entry of a table.

    Attributes:
        label: unique name within the table.
        method: method name.
        run_ids, seeds: runs behind it, one per seed.
        whole: on all examples.
        values: on each slice, in the order of the table's slices.
        absolute: contrast of the differences; None for the baseline, or where the focus is empty or everything.
        relative: contrast of the relative improvements; None also where the baseline has 0 inside or outside.
    """

    label: str
    method: str
    run_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    whole: SliceValue
    values: tuple[SliceValue, ...]
    absolute: Contrast | None = None
    relative: Contrast | None = None


@dataclass(frozen=True)
class SliceTable:
    """Entries on the slices of one cut, by one metric.

    Attributes:
        cut, title: name of the cut, heading.
        focus_title: the focus in words.
        dataset, protocol_hash, split_fingerprint: what all runs have in common.
        limited: whether rows were left out to save time (a try-out, not a result).
        truth, metric: what is measured.
        summed_metrics: metrics behind ``SliceValue.improvement_of_sums`` and ``mean_improvement``.
        baseline: label of the entry that others are compared with, or None.
        baseline_rule: how it was chosen, in words.
        n_examples: all examples.
        n_unknown: examples in no slice, because what the cut needs is not known of them.
        slices: those with examples, in their natural order.
        entries: best mean over all examples first.
        level: confidence level of the intervals.
        n_resamples, n_flips, random_seed: settings of bootstrap and test.
        notes: sentences that must stand under every table made from this.
    """

    cut: str
    title: str
    focus_title: str
    dataset: str
    protocol_hash: str
    split_fingerprint: str
    limited: bool
    truth: str
    metric: str
    summed_metrics: tuple[str, ...]
    baseline: str | None
    baseline_rule: str
    n_examples: int
    n_unknown: int
    slices: tuple[SliceFacts, ...]
    entries: tuple[SlicedEntry, ...]
    level: float
    n_resamples: int
    n_flips: int
    random_seed: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
