"""HR, NDCG and MRR at cutoffs for one relevant item, as expectations over the order of ties.

With one relevant item at place r the metrics at cutoff k are, for r <= k (and 0 otherwise):

* HR@k = 1,
* NDCG@k = 1 / log2(r + 1) (the ideal list has 1),
* MRR@k = 1 / r.

If the target is tied with others on places a..b (inclusive), every one of these places is equally likely under a
random order, so the metric is the mean of the above over r = a..b. That is exact; nothing is sampled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import numpy as np

from recbench.contracts.errors import UsageError, did_you_mean
from recbench.contracts.likelihood import LIKELIHOOD

Truth = Literal["item", "title"]
TRUTHS: tuple[Truth, ...] = get_args(Truth)

GAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "HR": lambda place: np.ones_like(place, dtype=np.float64),
    "NDCG": lambda place: 1.0 / np.log2(place + 1.0),
    "MRR": lambda place: 1.0 / place,
}
"""Metric name -> its value at each place (from 1) inside the cutoff. A new place-based metric is one line here."""


def metric_names(cutoffs: Iterable[int]) -> list[str]:
    """Return the printed names, ``HR@1`` ... ``MRR@20``."""
    return [f"{name}@{k}" for name in GAINS for k in cutoffs]


def metric_column(truth: Truth, metric: str) -> str:
    """Return the column of ``metrics.parquet`` that holds a metric, e.g. ``item/NDCG@10``."""
    return f"{truth}/{metric}"


def check_metric(metric: str, known: Iterable[str]) -> str:
    """Return the metric's name as it is written in tables; case does not matter.

    Raises:
        UsageError: the metric is not among the known ones.
    """
    names = list(known)
    for name in names:
        if name.lower() == metric.strip().lower():
            return name
    lower = {name.lower(): name for name in names}
    guess = did_you_mean(metric, lower)
    raise UsageError(
        f"Unknown metric '{metric}'.{guess} Known here: {', '.join(names)}.",
        "Every example has one target, so Recall@k and Hit@k are HR@k.",
    )


def cutoff_of(metric: str) -> int:
    """Return the cutoff of a printed name; 0 for a measure that looks at no list."""
    return int(metric.partition("@")[2] or 0)


def parse_columns(columns: Iterable[str], truth: Truth) -> list[str]:
    """Return the names of the metrics that a table of metrics holds for one truth, in its order."""
    pattern = re.compile(rf"{truth}/(\w+@\d+)")
    return [found.group(1) for column in columns if (found := pattern.fullmatch(column))]


def comparable_metrics(columns: Iterable[str], truth: Truth) -> list[str]:
    """Return :func:`parse_columns`, and behind them the likelihood of the true titles where a table has it.

    The likelihood is no metric of a list, so leaderboards have no place for it; differences of it can be tested.
    """
    columns = list(columns)
    likelihood = [LIKELIHOOD] if metric_column(truth, LIKELIHOOD) in columns else []
    return [*parse_columns(columns, truth), *likelihood]


def expected_metric(name: str, first: np.ndarray, last: np.ndarray, k: int) -> np.ndarray:
    """Return the expectation of one metric at one cutoff.

    Args:
        name: "HR", "NDCG" or "MRR".
        first: int (N,), first place of the target's tied group, from 1; 0 where the target is absent.
        last: int (N,), last place of that group, inclusive; 0 where the target is absent.
        k: cutoff.

    Returns:
        float64 (N,).
    """
    return _expected_gain(_cumulated_gain(name, k), first, last, k)


def expected_metrics(first: np.ndarray, last: np.ndarray, cutoffs: Iterable[int]) -> dict[str, np.ndarray]:
    """Return all metrics at all cutoffs: printed name -> float64 (N,). Arguments as in :func:`expected_metric`."""
    cutoffs = tuple(cutoffs)
    result = {}
    for name in GAINS:
        cumulated = _cumulated_gain(name, max(cutoffs))
        for k in cutoffs:
            result[f"{name}@{k}"] = _expected_gain(cumulated, first, last, k)
    return result


def _cumulated_gain(name: str, k: int) -> np.ndarray:
    """Return float64 (k+1,): the sum of gains over the first 0, 1, ..., k places."""
    return np.concatenate([[0.0], np.cumsum(GAINS[name](np.arange(1, k + 1)))])


def _expected_gain(cumulated: np.ndarray, first: np.ndarray, last: np.ndarray, k: int) -> np.ndarray:
    total = cumulated[np.minimum(last, k)] - cumulated[np.clip(first - 1, 0, k)]
    size = np.maximum(last - first + 1, 1)
    return np.where(first > 0, total / size, 0.0)
