"""Comparable runs -> a leaderboard: its rows with metrics, costs and runs, tested against the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev

from recbench.artifacts.manifest import RunManifest, TuningRecord
from recbench.artifacts.store import StoredRun
from recbench.contracts.comparison import ComparedEntry
from recbench.contracts.leaderboard import Leaderboard, LeaderboardRow, LeaderboardRun
from recbench.evaluation.accuracy import TRUTHS, metric_column, parse_columns
from recbench.experiment.align import AlignedMetrics, align
from recbench.experiment.compare import compare_entries
from recbench.experiment.entries import Entry, depth_notes, shared_notes, tryout_notes

_SHOWN_CUTOFFS = (10, 5)


def make_leaderboard(entries: Sequence[Entry], backbone: str | None, runs_dir: Path) -> Leaderboard:
    """Return the leaderboard of labelled entries.

    Args:
        entries: all of one group.
        backbone: name of the group's language model, or None.
        runs_dir: the folder that paths of runs are given relative to.

    Raises:
        ArtifactError: metrics are damaged, or two runs were not measured on the same examples.
    """
    manifest = entries[0].manifest
    protocol = manifest.protocol
    aligned = align(entries, _shared_columns(entries))
    cutoffs = [k for k in _SHOWN_CUTOFFS if k in protocol.cutoffs] or [max(protocol.cutoffs)]
    shown = tuple(f"{name}@{k}" for k in cutoffs for name in ("NDCG", "HR"))
    means = aligned.column(metric_column("item", shown[0])).mean(axis=1)
    best = entries[int(means.argmax())].label
    comparison = compare_entries(entries, aligned, shown[0], "item", best)
    numbers = {entry.label: number for number, entry in enumerate(entries)}
    tryouts = tryout_notes(entries)
    notes = shared_notes(entries) + depth_notes(entries, max(protocol.cutoffs))
    return Leaderboard(
        dataset=manifest.dataset,
        backbone=backbone,
        protocol=protocol.model_dump(mode="json"),
        protocol_hash=manifest.protocol_hash,
        dataset_fingerprint=manifest.dataset_fingerprint,
        split_fingerprint=manifest.split_fingerprint,
        split_facts=manifest.split_facts,
        limited=manifest.limited,
        metrics=shown,
        rows=tuple(
            _row(compared, entries[numbers[compared.label]], aligned, numbers[compared.label], runs_dir)
            for compared in comparison.entries
        ),
        comparison=comparison,
        warnings=tuple(tryouts),
        notes=tuple(note for note in notes if note not in tryouts),
    )


def _shared_columns(entries: Sequence[Entry]) -> list[str]:
    """Return the metrics that all runs have: another version of recbench may have measured more or fewer.

    Raises:
        ArtifactError: a table of metrics cannot be read.
    """
    headers = [run.metrics_columns() for entry in entries for run in entry.runs]
    shared = set(headers[0]).intersection(*headers[1:])
    known = [metric_column(truth, name) for truth in TRUTHS for name in parse_columns(headers[0], truth)]
    return [column for column in known if column in shared]


def _row(compared: ComparedEntry, entry: Entry, aligned: AlignedMetrics, number: int, runs_dir: Path) -> LeaderboardRow:
    summaries = [run.summary() for run in entry.runs]
    means = aligned.values[number].mean(axis=0).tolist()
    backbone = entry.manifest.backbone
    popularity = [one["lists"]["average_popularity"] for one in summaries]
    known = [value for value in popularity if value is not None]
    return LeaderboardRow(
        entry=compared,
        metrics=dict(zip(aligned.columns, means, strict=True)),
        seed_sd=stdev(compared.seed_means) if len(compared.seed_means) > 1 else None,
        runs=tuple(
            _run(run, dict(zip(aligned.columns, values.tolist(), strict=True)), runs_dir)
            for run, values in zip(entry.runs, aligned.run_means[number], strict=True)
        ),
        config=entry.manifest.config,
        revision=backbone.revision if backbone else None,
        max_length=max(one["validity"]["max_length"] for one in summaries),
        tied_targets=sum(one["tie_rate"]["targets"] for one in summaries) / len(summaries),
        coverage=sum(one["lists"]["coverage"] for one in summaries) / len(summaries),
        average_popularity=sum(known) / len(known) if known else None,
    )


def _run(run: StoredRun, metrics: Mapping[str, float], runs_dir: Path) -> LeaderboardRun:
    manifest = run.manifest
    return LeaderboardRun(
        run_id=manifest.run_id,
        seed=manifest.seed,
        folder=run.paths.folder.relative_to(runs_dir).as_posix(),
        metrics=metrics,
        fit_s=training_s(manifest.timings_s),
        rank_s=manifest.timings_s.get("rank"),
        memory_bytes=manifest.peak_memory_bytes.get("host"),
        device=manifest.device,
        created=manifest.created,
        commit=_commit(manifest),
        metrics_sha256=manifest.files.get(run.paths.metrics.name, ""),
        reused=manifest.fit_reused_from or "",
        tuning=_tuning_text(manifest.tuning),
    )


def _commit(manifest: RunManifest) -> str:
    git = manifest.provenance.get("git") or {}
    return f"{git['commit'][:12]}{'+' if git.get('dirty') else ''}" if git.get("commit") else ""


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


def training_s(timings_s: Mapping[str, float]) -> float | None:
    """Return the seconds of fitting, without those of a preset backbone; None where no fit was recorded.

    Whichever run comes first pretrains the preset and all others find it cached; counting it would charge one method
    for what all of them use.
    """
    return timings_s["fit"] - timings_s.get("pretrain", 0.0) if "fit" in timings_s else None
