"""From rankings to metrics.parquet and summary.json: the last step of a run, and what `evaluate` does again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from recbench.artifacts.files import atomic_path, write_json
from recbench.artifacts.paths import RunPaths
from recbench.artifacts.store import StoredRun
from recbench.artifacts.tables import read_generations, read_likelihood
from recbench.artifacts.train_log import plain
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.hashing import hash_file
from recbench.contracts.protocol import Protocol
from recbench.contracts.rankings import Rankings
from recbench.contracts.split import Split
from recbench.evaluation.evaluate import evaluate, summarise
from recbench.evaluation.facts import example_facts
from recbench.experiment.inputs import load_inputs


def write_evaluation(
    paths: RunPaths,
    rankings: Rankings,
    dataset: Dataset,
    split: Split,
    protocol: Protocol,
    method_summary: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure rankings on the test part and write both files, each atomically.

    The facts that slices are cut by (:mod:`recbench.evaluation.facts`) stand beside the metrics of each example.

    Args:
        paths: the run folder; what its ``generations.jsonl`` and ``likelihood.parquet`` hold, if there are any, is
            described too.
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
    likelihood = read_likelihood(paths.likelihood, split.test.example_id) if paths.likelihood.exists() else None
    table = evaluate(rankings, split.test, dataset.catalog, dataset.users, protocol.cutoffs, likelihood)
    generations = read_generations(paths.generations) if paths.generations.exists() else None
    summary = summarise(table, rankings, dataset.catalog, split.train, generations)
    summary["method"] = plain(method_summary)
    table = pd.concat([table, example_facts(split.test, split.train, dataset)], axis=1)
    with atomic_path(paths.metrics) as temporary:
        table.to_parquet(temporary, index=False)
    write_json(paths.summary, summary)
    return summary


def reevaluate(run: StoredRun) -> dict[str, Any]:
    """Rebuild metrics.parquet and summary.json of a complete run from its rankings, and record their new hashes.

    Returns:
        ``run_id``, ``path``, ``method``, ``dataset``, ``seed``, ``changed`` (whether the summary differs from the one
        before), ``n_test``, ``metrics``, ``metrics_title``, and the whole new ``summary``.

    Raises:
        UsageError: the run is not complete.
        ArtifactError: its rankings, generations or likelihoods are damaged, were changed, or were made on another
            split than the data set now has.
        DataError: the data set is not there.
    """
    manifest, paths = run.manifest, run.paths
    if manifest.status != "complete":
        raise UsageError(
            f"Run {manifest.run_id} is {manifest.status}; only complete runs are evaluated.",
            "Give its command again to complete it.",
        )
    for file in (paths.rankings, paths.generations, paths.likelihood):
        if file.is_file() and manifest.files.get(file.name) != hash_file(file):
            raise ArtifactError(
                f"{file} has changed since the run was complete.",
                "Restore the file, or run the method again with --again.",
            )
    dataset, split = load_inputs(manifest)
    rankings = run.rankings(dataset.catalog)
    rankings.check(split.test.example_id, len(dataset.catalog))
    before = run.summary() if paths.summary.exists() else {}
    summary = write_evaluation(paths, rankings, dataset, split, manifest.protocol, before.get("method", {}))
    run.update_hashes([paths.metrics, paths.summary])
    return {
        "run_id": manifest.run_id,
        "path": str(paths.folder),
        "method": manifest.method,
        "dataset": manifest.dataset,
        "seed": manifest.seed,
        "changed": summary != before,
        "n_test": summary["n_test"],
        "metrics": summary["metrics"],
        "metrics_title": summary["metrics_title"],
        "summary": summary,
    }
