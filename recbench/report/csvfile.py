"""The leaderboards and comparisons as CSV, in full precision."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from recbench.report.model import LeaderboardGroup, Report


def leaderboard_csv(report: Report) -> str:
    """Return one line per entry of every group, with all metrics by both truths."""
    return _csv([row for group in report.groups for row in _entry_rows(group)])


def comparisons_csv(report: Report) -> str:
    """Return one line per tested pair of every group."""
    return _csv([row for group in report.groups for row in _pair_rows(group)])


def regret_csv(report: Report) -> str:
    """Return one line per method that was searched both ways."""
    return _csv([row for group in report.groups for row in _regret_rows(group)])


def _identity(group: LeaderboardGroup) -> dict[str, Any]:
    return {
        "dataset": group.dataset,
        "split": group.protocol["split"],
        "group": group.slug,
        "protocol_hash": group.protocol_hash,
        "split_fingerprint": group.split_fingerprint,
        "limited": group.limited,
        "n_examples": group.comparison.n_examples,
        "n_users": group.comparison.n_users,
    }


def _entry_rows(group: LeaderboardGroup) -> Iterable[dict[str, Any]]:
    ranking_metric = group.comparison.metric
    for row in group.rows:
        entry = row.entry
        yield {
            **_identity(group),
            "label": entry.label,
            "method": entry.method,
            "backbone": entry.backbone,
            "backbone_revision": row.revision,
            "n_seeds": len(entry.seeds),
            "seeds": " ".join(map(str, entry.seeds)),
            "run_ids": " ".join(entry.run_ids),
            "device": row.device,
            "fit_s": row.fit_s,
            "rank_s": row.rank_s,
            f"item/{ranking_metric} low": entry.interval.low,
            f"item/{ranking_metric} high": entry.interval.high,
            **row.metrics,
            "tied_targets": row.tied_targets,
            "max_length": row.max_length,
            "coverage": row.coverage,
            "average_popularity": row.average_popularity,
        }


def _pair_rows(group: LeaderboardGroup) -> Iterable[dict[str, Any]]:
    comparison = group.comparison
    for pair in comparison.pairs:
        yield {
            **_identity(group),
            "truth": comparison.truth,
            "metric": comparison.metric,
            "a": pair.a,
            "b": pair.b,
            "difference": pair.difference,
            "low": pair.interval.low,
            "high": pair.interval.high,
            "p_permutation": pair.p_permutation,
            "p_holm": pair.p_adjusted,
            "p_t": pair.p_t,
            "t": pair.t,
            "effect_d": pair.effect,
            "users_better": pair.wins,
            "users_equal": pair.ties,
            "users_worse": pair.losses,
            "verdict": pair.verdict,
        }


def _regret_rows(group: LeaderboardGroup) -> Iterable[dict[str, Any]]:
    for row in group.regret:
        yield {
            **_identity(group),
            "label": row.label,
            "length_penalty": row.length_penalty,
            "beams": row.beams,
            "seeds": " ".join(map(str, row.seeds)),
            "beam_runs": " ".join(row.beam_runs),
            "exact_runs": " ".join(row.exact_runs),
            "same_fit": row.same_fit,
            "proven_share": row.proven,
            **row.values,
        }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    header = list(dict.fromkeys(key for row in rows for key in row))
    stream = StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
