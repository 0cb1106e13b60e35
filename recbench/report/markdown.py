"""The README.md of a report folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from recbench.report.format import (
    MISSING,
    interval_text,
    known_text,
    markdown_table,
    metric_text,
    pair_explanation,
    pair_table,
    seconds_text,
    share_text,
)
from recbench.report.model import LeaderboardGroup, Report, UnfinishedRun

_READING = """\
Every method got the same examples and returned one ranked list of exact items per example; all numbers are computed \
from those stored lists.

* **item**: the exact item must be listed (the headline). **title**: any item with the target's title counts; the \
list is read as a list of distinct titles. The published LLM code measures the second.
* **HR@k**: share of examples whose target is among the first k. **NDCG@k**: 1 / log2(place + 1) if it is, else 0. If \
the target is tied with other items, the value is the expectation over their random order.
* **Interval**: from a bootstrap over users. **Seeds**: runs averaged per example. The best value of a column is \
bold; that alone does not make it better (see the comparisons).
* **Training**, **ranking**: wall-clock seconds, mean over seeds, without the pretraining of a shared preset backbone.
* Only runs on the same data, split and protocol share a table, and no two language models do.
"""


def readme(report: Report, figures: Mapping[str, Sequence[str]]) -> str:
    """Return the text of README.md.

    Args:
        report: what to show.
        figures: slug of a group -> paths of its figures relative to the README.
    """
    parts = ["# Leaderboards", f"Made by recbench {report.version} from the runs in `{report.runs_dir}`.", _READING]
    if len(report.groups) > 1:
        parts.append("\n".join(f"* [{group.title}](#{group.slug})" for group in report.groups))
    for group in report.groups:
        parts += _group(group, figures.get(group.slug, ()), report.runs_dir)
    if not report.groups:
        parts.append("There is no complete run yet.")
    parts += _unfinished(report.unfinished)
    if report.damaged:
        parts += ["## Folders that could not be read", "\n".join(f"* {reason}" for reason in report.damaged)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _group(group: LeaderboardGroup, figures: Sequence[str], runs_dir: str) -> list[str]:
    parts = [f'<a id="{group.slug}"></a>', f"## {group.title}", _facts(group)]
    if group.limited:
        parts.append("> **Try-out.** Rows were left out to save time. These numbers say nothing about the methods.")
    parts.append(_leaderboard(group))
    if group.notes:
        parts.append("\n".join(f"* {note}" for note in group.notes))
    parts += [f"![{_alt(path, group)}]({path})" for path in figures]
    parts += _comparison(group)
    parts += _regret(group)
    parts += ["### What the lists look like", _lists_table(group)]
    parts += ["### Where the numbers come from", _rebuild(group, runs_dir)]
    return parts


def _facts(group: LeaderboardGroup) -> str:
    protocol = group.protocol
    comparison = group.comparison
    masked = "taken out of" if protocol["mask_history"] else "kept in"
    facts = [
        f"{comparison.n_examples:,} test examples of {comparison.n_users:,} users.",
        f"Histories of up to {protocol['max_history']} items; items of the history are {masked} the lists; "
        "the whole catalogue is ranked.",
        f"Protocol `{group.protocol_hash}`, split `{group.split_fingerprint}`.",
    ]
    return " ".join(facts)


def _leaderboard(group: LeaderboardGroup) -> str:
    ranking_metric = group.metrics[0]
    columns = [(metric, truth) for truth in ("item", "title") for metric in group.metrics]
    names = [f"{metric} {truth}" for metric, truth in columns]
    values = [[row.metrics[f"{truth}/{metric}"] for row in group.rows] for metric, truth in columns]
    texts = [[_bold_if(number == max(column), metric_text(number)) for number in column] for column in values]
    header = ["Method", names[0], f"{group.comparison.level:.0%} interval", *names[1:]]
    header += ["Seeds", "Training", "Ranking", "Device"]
    rows = [
        [
            row.entry.label,
            texts[0][number],
            interval_text(row.entry.interval),
            *(column[number] for column in texts[1:]),
            str(len(row.entry.seeds)),
            seconds_text(row.fit_s),
            seconds_text(row.rank_s),
            row.device,
        ]
        for number, row in enumerate(group.rows)
    ]
    return f"Ranked by {ranking_metric} of the exact item.\n\n" + markdown_table(header, rows)


def _bold_if(best: bool, text: str) -> str:
    return f"**{text}**" if best else text


def _comparison(group: LeaderboardGroup) -> list[str]:
    comparison = group.comparison
    if not comparison.pairs:
        return []
    chosen = (
        f"B is the best of the table, {comparison.baseline}. It was chosen on these same examples, so its lead over "
        "the next ones is a little flattered."
    )
    table = markdown_table(*pair_table(comparison), left=2)
    return ["### Is the best one better?", chosen, table, pair_explanation(comparison)]


_REGRET = """\
The same fitted model and score, searched two ways: the beam search of the tables above, and a search that finds the \
true best titles of the catalogue. All columns but "Proven" are over the examples whose true list is proven. A gain of \
the beam over the true list means that its errors hide what the score really prefers. Score gap: mean difference of \
the scores, place by place. HR and NDCG are by exact item."""


def _regret(group: LeaderboardGroup) -> list[str]:
    if not group.regret:
        return []
    header = ["Method", "Length penalty", "Seeds", "Proven", "True top titles missed", "Best title differs"]
    header += ["Score gap", "HR@10 beam", "HR@10 exact", "NDCG@10 beam", "NDCG@10 exact"]
    rows = [
        [
            row.label,
            f"{row.length_penalty:g}",
            str(len(row.seeds)),
            share_text(row.proven),
            f"{known_text(row.values['missed'], '.2f')} of {known_text(row.values['wanted'], '.3g')}",
            MISSING if isnan(row.values["first_differs"]) else share_text(row.values["first_differs"]),
            known_text(row.values["gap_mean"], ".3f"),
            *(
                known_text(row.values.get(f"{search} item/{metric}@10"), ".4f")
                for metric in ("HR", "NDCG")
                for search in ("beam", "exact")
            ),
        ]
        for row in group.regret
    ]
    parts = ["### Beam regret", _REGRET, markdown_table(header, rows)]
    refitted = [row.label for row in group.regret if not row.same_fit]
    if refitted:
        names = ", ".join(dict.fromkeys(refitted))
        parts.append(
            f"* {names}: the two runs of a pair have equal configuration and seed, but are not recorded as lists of "
            "one stored model, so small differences may come from fitting twice."
        )
    return parts


def _lists_table(group: LeaderboardGroup) -> str:
    header = ["Method", "Catalogue in some top 10", "Mean popularity in top 10", "Longest list", "Targets tied"]
    rows = [
        [
            row.entry.label,
            share_text(row.coverage),
            "–" if row.average_popularity is None else f"{row.average_popularity:.1f}",
            str(row.max_length),
            share_text(row.tied_targets),
        ]
        for row in group.rows
    ]
    return markdown_table(header, rows)


def _rebuild(group: LeaderboardGroup, runs_dir: str) -> str:
    header = ["Method", "Seed", "Run", "Folder"]
    rows = [
        [row.entry.label, str(seed), f"`{run_id}`", f"`{folder}`"]
        for row in group.rows
        for seed, run_id, folder in zip(row.entry.seeds, row.entry.run_ids, row.folders, strict=True)
    ]
    run_ids = [run_id for row in group.rows for run_id in row.entry.run_ids]
    metric = group.comparison.metric
    commands = [
        "# one run again, from its own configuration (folder as in the table)",
        f"recbench run --config {runs_dir}/{group.rows[0].folders[0]}/config.yaml --again --runs-dir {runs_dir}",
        "# its metrics again, from the stored lists",
        f"recbench evaluate {group.rows[0].entry.run_ids[0]} --runs-dir {runs_dir}",
        "# this report",
        f"recbench report --runs-dir {runs_dir} --out DIR",
    ]
    if len(run_ids) > 1:
        commands += [
            "# the best run against every other, each run for itself",
            f"recbench compare {' '.join(run_ids)} --metric {metric} --baseline {run_ids[0]} --runs-dir {runs_dir}",
        ]
    tuned = [
        f"* {row.entry.label}, seed {seed}: {text}."
        for row in group.rows
        for seed, text in zip(row.entry.seeds, row.tuning, strict=False)
        if text
    ]
    chosen = ["Settings chosen on validation rows; all others were given:", "\n".join(tuned)] if tuned else []
    code = "```\n" + "\n".join(commands) + "\n```"
    return "\n\n".join([markdown_table(header, rows, left=4), *chosen, code])


def _alt(path: str, group: LeaderboardGroup) -> str:
    kind = path.rsplit("-", 1)[-1].removesuffix(".png")
    words: dict[str, str] = {
        "leaderboard": f"{group.metrics[0]} of every method with its interval",
        "cost": f"{group.metrics[0]} against training and ranking time",
        "training": "Training curves",
    }
    return words.get(kind, kind)


def _unfinished(runs: Sequence[UnfinishedRun]) -> list[Any]:
    if not runs:
        return []
    rows = [[run.name, run.dataset, str(run.seed), f"`{run.run_id}`", run.status, run.reason] for run in runs]
    table = markdown_table(["Method", "Data set", "Seed", "Run", "Status", "Reason"], rows, left=6)
    return ["## Runs that are not complete", "They are in none of the tables above.", table]
