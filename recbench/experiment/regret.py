"""Runs that differ in the search alone -> what the beam search lost: the beam regret of a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from recbench.artifacts.manifest import RunManifest
from recbench.artifacts.store import StoredRun
from recbench.artifacts.tables import read_generations
from recbench.contracts.errors import ArtifactError
from recbench.contracts.rankings import Rankings
from recbench.contracts.regret import RegretRow
from recbench.evaluation.accuracy import TRUTHS, metric_column
from recbench.evaluation.regret import beam_regret
from recbench.experiment.entries import backbone_name, group_key

_METRICS = ("HR", "NDCG")


@dataclass(frozen=True)
class _Pair:
    """One fitted model's lists by both searches."""

    beam: StoredRun
    exact: StoredRun


def regret_rows(runs: Iterable[StoredRun]) -> tuple[tuple[RegretRow, ...], tuple[str, ...]]:
    """Return one row for every method, configuration and backbone that was searched both ways, over its seeds.

    Args:
        runs: complete runs of one group.

    Returns:
        The rows, and one text for each run that had to be left out because its generations were changed.

    Raises:
        ArtifactError: two runs of one group answer different queries.
    """
    rows, problems = [], []
    for members in _by_identity(runs).values():
        sound = []
        for pair in _pairs(members):
            found = [
                f"Run {run.run_id}, left out of the beam regret: {problem}."
                for run in (pair.beam, pair.exact)
                for problem in run.verify([run.paths.generations])
            ]
            problems += found
            sound += [] if found else [pair]
        if sound:
            rows.append(_row(sound))
    return tuple(rows), tuple(problems)


def _by_identity(runs: Iterable[StoredRun]) -> dict[str, list[StoredRun]]:
    """Group the runs that search for titles by everything but their seed and the search."""
    bags: dict[str, list[StoredRun]] = {}
    for run in runs:
        manifest = run.manifest
        decoding = manifest.config.get("decoding")
        if not isinstance(decoding, Mapping) or "search" not in decoding or decoding.get("mode") == "grounding":
            continue
        others = {name: value for name, value in decoding.items() if name not in ("search", "exact", "batch_size")}
        backbone = manifest.backbone
        identity = [
            manifest.method,
            {**manifest.config, "decoding": others},
            [backbone.name, backbone.revision] if backbone else None,
            *group_key(manifest),
        ]
        bags.setdefault(json.dumps(identity, sort_keys=True), []).append(run)
    return bags


def _search(run: StoredRun) -> str:
    return str(run.manifest.config["decoding"]["search"])


def _pairs(runs: Sequence[StoredRun]) -> list[_Pair]:
    """Return a pair for every seed that has both searches.

    Lists of one fit come first, then the exact search that was allowed most, then the newest runs.
    """

    def preference(pair: _Pair) -> tuple[Any, ...]:
        allowed = pair.exact.manifest.config["decoding"].get("exact", {}).get("max_expansions", 0)
        ages = [(run.manifest.created, run.run_id) for run in (pair.exact, pair.beam)]
        return (_same_fit(pair.beam.manifest, pair.exact.manifest), allowed, *ages)

    pairs = []
    for seed in sorted({run.manifest.seed for run in runs}):
        of_seed = [run for run in runs if run.manifest.seed == seed]
        beams, exact = ([run for run in of_seed if _search(run) == search] for search in ("beam", "exact"))
        if beams and exact:
            pairs.append(max((_Pair(*both) for both in product(beams, exact)), key=preference))
    return pairs


def _same_fit(a: RunManifest, b: RunManifest) -> bool:
    return a.fit_id is not None and a.fit_id == b.fit_id


def _row(pairs: Sequence[_Pair]) -> RegretRow:
    """Average one row over its seeds."""
    measured = [_measure(pair) for pair in pairs]
    manifest = pairs[0].exact.manifest
    decoding = manifest.config["decoding"]
    shares = [one.pop("proven") for one in measured]
    means = {name: _mean([one[name] for one in measured]) for name in measured[0]}
    backbone = backbone_name(manifest)
    return RegretRow(
        label=manifest.method + (f" ({backbone})" if backbone else ""),
        length_penalty=float(decoding["length_penalty"]),
        beams=int(decoding["beams"]),
        seeds=tuple(pair.exact.manifest.seed for pair in pairs),
        beam_runs=tuple(pair.beam.run_id for pair in pairs),
        exact_runs=tuple(pair.exact.run_id for pair in pairs),
        same_fit=all(_same_fit(pair.beam.manifest, pair.exact.manifest) for pair in pairs),
        n_examples=len(shares[0]),
        proven=float(np.mean([share.mean() for share in shares])),
        values=means,
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the seeds that have a value; NaN if none has."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _measure(pair: _Pair) -> dict[str, Any]:
    """Return the means over the proven examples of one pair, and which examples are proven."""
    beam, exact = read_generations(pair.beam.paths.generations), read_generations(pair.exact.paths.generations)
    proven = np.array([bool(record.get("proven", False)) for record in exact])
    k = int(pair.exact.manifest.config["decoding"]["beams"])
    lists = _title_lists([beam, exact])
    regret = beam_regret(lists[0], lists[1], k)
    values: dict[str, Any] = {
        "proven": proven,
        "missed": _over(proven, regret.missed),
        "wanted": _over(proven, regret.wanted),
        "first_differs": _over(proven, regret.first_differs),
        "gap_first": _over(proven, regret.gap_first),
        "gap_mean": _over(proven, regret.gap_mean),
    }
    proven_ids = lists[1].example_id[proven]
    for name, run in (("beam", pair.beam), ("exact", pair.exact)):
        table = run.metrics().set_index("example_id")
        if not set(proven_ids.tolist()) <= set(table.index):
            raise ArtifactError(
                f"{run.paths.metrics} lacks examples of {run.paths.generations}.", "Make the run again."
            )
        columns = [metric_column(truth, f"{metric}@10") for truth in TRUTHS for metric in _METRICS]
        for column in columns:
            if column in table.columns:
                values[f"{name} {column}"] = float(table.loc[proven_ids, column].mean()) if len(proven_ids) else np.nan
    return values


def _over(proven: np.ndarray, values: np.ndarray) -> float:
    known = proven & ~np.isnan(values.astype(np.float64))
    return float(values[known].mean()) if known.any() else float("nan")


def _title_lists(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[Rankings]:
    """Return the written titles of several runs as rankings; one number stands for one title in all of them."""
    numbers: dict[str, int] = {}
    lists = []
    for records in runs:
        titles = [numbers.setdefault(title, len(numbers)) for record in records for title in record["titles"]]
        scores = [score for record in records for score in record["scores"]]
        lengths = [len(record["titles"]) for record in records]
        lists.append(
            Rankings(
                np.array([record["example_id"] for record in records], dtype=np.int64),
                np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                np.array(titles, dtype=np.int32),
                np.array(scores, dtype=np.float64),
            )
        )
    return lists
