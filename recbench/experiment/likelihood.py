"""The likelihood of the true titles, compared among the entries of a group that have one."""

from __future__ import annotations

from collections.abc import Sequence

from recbench.contracts.comparison import Comparison
from recbench.contracts.likelihood import LIKELIHOOD
from recbench.evaluation.accuracy import metric_column
from recbench.experiment.align import align
from recbench.experiment.entries import Entry
from recbench.experiment.statistics import compare_entries

_COLUMN = metric_column("title", LIKELIHOOD)


def likelihood_of_group(entries: Sequence[Entry]) -> Comparison | None:
    """Return how the entries compare with the one that finds the true titles most likely; None if none has numbers.

    Raises:
        ArtifactError: metrics are damaged, or two runs were not measured on the same examples.
    """
    having = [entry for entry in entries if all(_COLUMN in run.metrics_columns() for run in entry.runs)]
    if not having:
        return None
    aligned = align(having, [_COLUMN])
    best = having[int(aligned.column(_COLUMN).mean(axis=1).argmax())].label
    return compare_entries(having, aligned, LIKELIHOOD, "title", best)
