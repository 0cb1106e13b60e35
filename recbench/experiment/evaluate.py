"""The step from stored rankings to metrics.parquet and summary.json, shared by `run` and `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbench.artifacts.files import atomic_path, read_json, write_json
from recbench.artifacts.paths import RunPaths
from recbench.contracts.dataset import Dataset
from recbench.contracts.protocol import Protocol
from recbench.contracts.rankings import Rankings
from recbench.contracts.split import Split
from recbench.evaluation.evaluate import evaluate, summarise


def write_evaluation(
    paths: RunPaths,
    rankings: Rankings,
    dataset: Dataset,
    split: Split,
    protocol: Protocol,
    method_summary: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure rankings on the test part and write both files, each atomically.

    Args:
        paths: the run folder.
        rankings: one list per test example, in their order.
        dataset: the data set.
        split: its split under ``protocol``.
        protocol: gives the cutoffs.
        method_summary: what the method says about itself, kept under ``method``.

    Returns:
        The content of ``summary.json`` (see :func:`recbench.evaluation.evaluate.summarise`).

    Raises:
        ArtifactError: the rankings do not belong to the test part, or a file cannot be written.
    """
    table = evaluate(rankings, split.test, dataset.catalog, dataset.users, protocol.cutoffs)
    summary = summarise(table, rankings, dataset.catalog, split.train) | {"method": dict(method_summary)}
    with atomic_path(paths.metrics) as temporary:
        table.to_parquet(temporary, index=False)
    write_json(paths.summary, summary)
    return summary


def stored_method_summary(paths: RunPaths) -> dict[str, Any]:
    """Return what the method once said about itself; empty if the run has no summary yet."""
    if not paths.summary.exists():
        return {}
    return dict(read_json(paths.summary).get("method", {}))
