"""All runs of a folder -> a report: which runs form a leaderboard, and what its rows say."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recbench.artifacts.manifest import TuningRecord
from recbench.artifacts.store import RunStore, StoredRun
from recbench.contracts.errors import ArtifactError
from recbench.evaluation.accuracy import TRUTHS, metric_column, parse_columns
from recbench.experiment.align import align
from recbench.experiment.compare import compare_entries
from recbench.experiment.curves import training_curves
from recbench.experiment.entries import (
    Entry,
    GroupKey,
    backbone_name,
    depth_notes,
    group_by_identity,
    group_key,
    label_entries,
    shared_notes,
)
from recbench.experiment.regret import regret_rows
from recbench.report.format import slug
from recbench.report.model import LeaderboardGroup, LeaderboardRow, Report, UnfinishedRun
from recbench.report.render import check_target, write_report

log = logging.getLogger(__name__)

_SHOWN_CUTOFFS = (10, 5)


def make_report(runs_dir: Path, out: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Collect all runs and write the report folder.

    Args:
        runs_dir: folder of the runs.
        out: folder of the report.
        formats: some of :data:`recbench.report.render.FORMATS`.

    Returns:
        The content of ``report.json``.

    Raises:
        UsageError: ``out`` holds something else than a report.
        ArtifactError: there is no folder of runs, or a file cannot be written.
    """
    if not runs_dir.is_dir():
        raise ArtifactError(f"There is no folder of runs at {runs_dir}.", "Say where they are with --runs-dir.")
    check_target(out)
    return write_report(collect(RunStore(runs_dir)), out, formats)


def collect(store: RunStore) -> Report:
    """Return everything a report on these runs shows; a run whose results were changed is left out and listed."""
    runs = store.all()
    damaged = [f"{folder.folder}: {folder.problem}" for folder in store.damaged()]
    groups: dict[GroupKey, list[StoredRun]] = {}
    for run in runs:
        if run.manifest.status == "complete":
            try:
                run.require_intact(run.paths.results)
            except ArtifactError as error:
                log.warning("Left out: %s", error)
                damaged.append(str(error))
            else:
                groups.setdefault(group_key(run.manifest), []).append(run)
    ordered = sorted(groups.items(), key=lambda item: (item[1][0].manifest.limited, item[0]))
    made = [
        _group(backbone, members, store.runs_dir, damaged)
        for _, comparable in ordered
        for backbone, members in _by_backbone(comparable)
    ]
    return Report(
        version=version("recbench"),
        runs_dir=str(store.runs_dir),
        groups=tuple(made),
        unfinished=tuple(_unfinished(run) for run in runs if run.manifest.status != "complete"),
        damaged=tuple(damaged),
        inputs={
            run.manifest.run_id: run.manifest.files.get(run.paths.metrics.name, "")
            for _, members in ordered
            for run in members
        },
    )


def _by_backbone(runs: Sequence[StoredRun]) -> list[tuple[str | None, list[StoredRun]]]:
    """Return one group per language model, each with all runs that use none: models never share a leaderboard."""
    without = [run for run in runs if run.manifest.backbone is None]
    using: dict[tuple[str, str], list[StoredRun]] = {}
    for run in runs:
        if run.manifest.backbone:
            using.setdefault((run.manifest.backbone.name, run.manifest.backbone.revision or ""), []).append(run)
    if not using:
        return [(None, without)]
    revisions = Counter(name for name, _ in using)
    return [
        (f"{backbone_name(own[0].manifest)}" + (f" {revision[:8]}" if revisions[name] > 1 else ""), [*without, *own])
        for (name, revision), own in sorted(using.items())
    ]


def _group(backbone: str | None, runs: Sequence[StoredRun], runs_dir: Path, damaged: list[str]) -> LeaderboardGroup:
    """Return one leaderboard; what had to be left out of it is added to ``damaged``."""
    entries = label_entries(group_by_identity(runs))
    manifest = runs[0].manifest
    protocol = manifest.protocol
    known = parse_columns(runs[0].metrics().columns, "item")
    aligned = align(entries, [metric_column(truth, name) for truth in TRUTHS for name in known])
    cutoffs = [k for k in _SHOWN_CUTOFFS if k in protocol.cutoffs] or [max(protocol.cutoffs)]
    shown = tuple(f"{name}@{k}" for k in cutoffs for name in ("NDCG", "HR"))
    means = aligned.column(metric_column("item", shown[0])).mean(axis=1)
    best = entries[int(means.argmax())].label
    comparison = compare_entries(entries, aligned, shown[0], "item", best)
    by_label = {entry.label: number for number, entry in enumerate(entries)}
    rows = []
    for compared in comparison.entries:
        number = by_label[compared.label]
        values = aligned.values[number].mean(axis=0)
        metrics = dict(zip(aligned.columns, values.tolist(), strict=True))
        rows.append(LeaderboardRow(entry=compared, metrics=metrics, **_row_facts(entries[number], runs_dir)))
    regret, problems = regret_rows(runs)
    damaged += problems
    name = [manifest.dataset, protocol.split, manifest.protocol_hash[:6], manifest.split_fingerprint[:6]]
    name += [backbone] if backbone else []
    return LeaderboardGroup(
        slug=slug("-".join(name + (["tryout"] if manifest.limited else []))),
        dataset=manifest.dataset,
        backbone=backbone,
        protocol=protocol.model_dump(mode="json"),
        protocol_hash=manifest.protocol_hash,
        split_fingerprint=manifest.split_fingerprint,
        split_facts=manifest.split_facts,
        limited=manifest.limited,
        metrics=shown,
        rows=tuple(rows),
        comparison=comparison,
        notes=tuple(shared_notes(entries) + depth_notes(entries, max(protocol.cutoffs))),
        curves=tuple(curve for entry in entries for run in entry.runs for curve in training_curves(run, entry.label)),
        regret=regret,
    )


def _row_facts(entry: Entry, runs_dir: Path) -> dict[str, Any]:
    """Return what a row says beside its metrics: costs and facts about the lists, as means over the runs."""
    summaries = [run.summary() for run in entry.runs]
    backbone = entry.manifest.backbone
    return {
        "fit_s": _mean(_training_s(run.manifest.timings_s) for run in entry.runs),
        "rank_s": _mean(run.manifest.timings_s.get("rank") for run in entry.runs),
        "max_length": max(one["validity"]["max_length"] for one in summaries),
        "tied_targets": _mean(one["tie_rate"]["targets"] for one in summaries),
        "coverage": _mean(one["lists"]["coverage"] for one in summaries),
        "average_popularity": _mean(one["lists"]["average_popularity"] for one in summaries),
        "device": "/".join(sorted({run.manifest.device for run in entry.runs})),
        "folders": tuple(run.paths.folder.relative_to(runs_dir).as_posix() for run in entry.runs),
        "revision": backbone.revision if backbone else None,
        "tuning": tuple(_tuning_text(run.manifest.tuning) for run in entry.runs),
    }


def _tuning_text(tuning: TuningRecord | None) -> str:
    """Say how many trials were tried on what; "" for a run whose settings were given."""
    if tuning is None:
        return ""
    chosen = ", ".join(f"{key}={value}" for key, value in tuning.chosen.items())
    failed = f" ({tuning.failed} failed)" if tuning.failed else ""
    return (
        f"{chosen}: the best of {tuning.trials} trials{failed} of a {tuning.search} search by {tuning.metric} on "
        f"{tuning.rows:,} validation rows ({tuning.best_value:.4f} there), which took {tuning.seconds:,.0f} s"
    )


def _training_s(timings_s: Mapping[str, float]) -> float | None:
    """Return the seconds of fitting, without those of a preset backbone.

    Whichever run comes first pretrains the preset and all others find it cached; counting it would charge one method
    for what all of them use.
    """
    return timings_s["fit"] - timings_s.get("pretrain", 0.0) if "fit" in timings_s else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, or None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _unfinished(run: StoredRun) -> UnfinishedRun:
    manifest = run.manifest
    backbone = backbone_name(manifest)
    return UnfinishedRun(
        name=manifest.method + (f" ({backbone})" if backbone else ""),
        dataset=manifest.dataset,
        run_id=manifest.run_id,
        seed=manifest.seed,
        status=run.state,
        reason=(manifest.error or "").strip().split("\n")[0],
    )
