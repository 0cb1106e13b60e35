"""Metrics of several entries on exactly the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbench.artifacts.store import StoredRun
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.likelihood import LIKELIHOOD
from recbench.evaluation.accuracy import metric_column
from recbench.experiment.entries import Entry

_IDENTITY = ["example_id", "user_id", "target_item_id"]
# The only column without a number where there is nothing to measure: a target without title.
_HAS_GAPS = metric_column("title", LIKELIHOOD)


@dataclass(frozen=True)
class AlignedMetrics:
    """Metrics of E entries on N examples of U users.

    Attributes:
        columns: names of the C metric columns.
        values: float64 (E, N, C), averaged over the seeds of each entry; examples in order of their ids.
        run_means: one float64 (S, C) per entry, the mean over examples for each of its S runs.
        user: int (N,), the example's user, 0 to U-1 in order of the external ids.
        n_users: U.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    run_means: tuple[np.ndarray, ...]
    user: np.ndarray
    n_users: int

    def column(self, name: str) -> np.ndarray:
        """Return float64 (E, N): one metric."""
        return self.values[:, :, self.columns.index(name)]


def align(entries: Sequence[Entry], columns: Sequence[str]) -> AlignedMetrics:
    """Join the per-example metrics of all runs.

    Likelihoods are of titles, so with them examples whose target has no title are left out, in all columns.

    Raises:
        UsageError: likelihoods are asked for, and a run has none.
        ArtifactError: two runs do not have exactly the same examples, users and targets, or a column is missing.
    """
    reference_run = entries[0].runs[0]
    reference = _read(reference_run, columns)
    values, run_means = [], []
    for entry in entries:
        total = np.zeros((len(reference), len(columns)))
        means = []
        for run in entry.runs:
            table = reference if run is reference_run else _read(run, columns)
            _check_same_examples(run, table, reference_run, reference)
            numbers = table[list(columns)].to_numpy()
            total += numbers
            means.append(numbers.mean(axis=0))
        values.append(total / len(entry.runs))
        run_means.append(np.stack(means))
    names, user = np.unique(reference["user_id"].to_numpy().astype(str), return_inverse=True)
    return AlignedMetrics(tuple(columns), np.stack(values), tuple(run_means), user, len(names))


def _read(run: StoredRun, columns: Sequence[str]) -> pd.DataFrame:
    """Return a run's metrics by example id, after a look at what no rebuilt file has: gaps and repeated examples."""
    table = run.metrics([*_IDENTITY, *columns])
    hint = f"Rebuild it: recbench evaluate {run.manifest.run_id}."
    missing = [name for name in [*_IDENTITY, *columns] if name not in table.columns]
    if _HAS_GAPS in missing and not run.paths.likelihood.exists():
        raise UsageError(
            f"Run {run.manifest.run_id} ({run.manifest.method}) has no {LIKELIHOOD}: it kept no "
            "probabilities of titles.",
            "Compare methods that write titles, or take another metric.",
        )
    if missing or table.empty:
        what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise ArtifactError(f"{run.paths.metrics} {what}.", hint)
    table = table[[*_IDENTITY, *columns]]
    if not table["example_id"].is_monotonic_increasing:
        table = table.sort_values("example_id", ignore_index=True)
    ids = table["example_id"].to_numpy()
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
        raise ArtifactError(f"{run.paths.metrics} has example {ids[repeated[0]]} more than once.", hint)
    if _HAS_GAPS in columns:
        table = table[table[_HAS_GAPS].notna()].reset_index(drop=True)
        ids = table["example_id"].to_numpy()
    unknown = ~np.isfinite(table[list(columns)].to_numpy(dtype=np.float64))
    if unknown.any():
        column = int(np.argmax(unknown.any(axis=0)))
        example = ids[int(np.argmax(unknown[:, column]))]
        raise ArtifactError(f"{run.paths.metrics} has no number for {columns[column]} of example {example}.", hint)
    return table


def _check_same_examples(run: StoredRun, table: pd.DataFrame, other: StoredRun, reference: pd.DataFrame) -> None:
    """Refuse two runs that were not measured on the same examples, naming the first example they differ in."""
    ids, expected = table["example_id"].to_numpy(), reference["example_id"].to_numpy()
    if not np.array_equal(ids, expected):
        missing, surplus = np.setdiff1d(expected, ids), np.setdiff1d(ids, expected)
        found = [
            f"{len(some)} examples are {what}" + (f" (the first is {some[0]})" if len(some) else "")
            for what, some in (("missing", missing), ("surplus", surplus))
        ]
        raise ArtifactError(
            f"Run {run.manifest.run_id} does not have the examples of run {other.manifest.run_id}: {', '.join(found)}.",
            f"Rebuild its metrics: recbench evaluate {run.manifest.run_id}.",
        )
    for name in ("user_id", "target_item_id"):
        ours, theirs = table[name].astype(str).to_numpy(), reference[name].astype(str).to_numpy()
        differs = ours != theirs
        if differs.any():
            first = int(np.argmax(differs))
            raise ArtifactError(
                f"Runs {run.manifest.run_id} and {other.manifest.run_id} disagree on the {name} of "
                f"{int(differs.sum())} examples (the first is {expected[first]}: {ours[first]} against "
                f"{theirs[first]}).",
                "They were measured on different data; rebuild both with recbench evaluate.",
            )
