"""Cluster bootstrap: users are drawn with replacement, each with all of their rows.

The rows of one user are not independent, so resampling rows would make intervals too narrow (Cameron, Gelbach and
Miller 2008, "Bootstrap-based improvements for inference with clustered errors"). The mean over rows is a ratio of
two sums over users, and so it stays in every resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 10_000
LEVEL = 0.95
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class BootstrapMeans:
    """Resampled means of several columns, drawn together.

    Attributes:
        means: float64 (R, C); row r holds the mean over rows of every column in resample r. Columns share their
            resamples, so the difference of two of them is the bootstrap distribution of a paired difference.
        seed: seed of the draws.
    """

    means: np.ndarray
    seed: int


def cluster_totals(values: np.ndarray, cluster: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return float64 (U, C): the sum over each cluster's rows.

    Args:
        values: float (N, C), one row per example.
        cluster: int (N,), cluster (user) of each row, 0 to U-1.
        n_clusters: U.
    """
    columns = [np.bincount(cluster, weights=column, minlength=n_clusters) for column in np.asarray(values).T]
    return np.stack(columns, axis=1)


def bootstrap_means(
    totals: np.ndarray, sizes: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> BootstrapMeans:
    """Draw clusters with replacement and return the mean over rows of every column in every resample.

    Args:
        totals: float64 (U, C), sums over the rows of each cluster (:func:`cluster_totals`).
        sizes: int (U,), rows of each cluster, at least 1.
        n_resamples: R.
        seed: seed of the draws; equal input and seed give equal output.
    """
    rng = np.random.default_rng(seed)
    columns = np.column_stack([totals, sizes]).astype(np.float64)
    n_clusters = len(columns)
    at_once = max(1, _CELLS_AT_ONCE // n_clusters)
    parts = []
    for begin in range(0, n_resamples, at_once):
        n = min(at_once, n_resamples - begin)
        drawn = rng.integers(0, n_clusters, size=(n, n_clusters)) + np.arange(n)[:, None] * n_clusters
        times_drawn = np.bincount(drawn.ravel(), minlength=n * n_clusters).reshape(n, n_clusters)
        parts.append(times_drawn.astype(np.float64) @ columns)
    resampled = np.concatenate(parts)
    return BootstrapMeans(resampled[:, :-1] / resampled[:, -1:], seed)
