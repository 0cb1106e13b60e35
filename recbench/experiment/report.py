"""All runs of a folder -> a report: which runs may stand in one table, and the sections about them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recbench.artifacts.store import RunStore, StoredRun
from recbench.contracts.audit import AuditReport
from recbench.contracts.errors import ArtifactError, RecbenchError
from recbench.contracts.leaderboard import Leaderboard
from recbench.contracts.unfinished import UnfinishedRun
from recbench.experiment.audit import audit_command, audit_of_group
from recbench.experiment.beyond import beyond_of_group
from recbench.experiment.curves import training_curves
from recbench.experiment.entries import (
    Entry,
    GroupKey,
    backbone_name,
    group_by_identity,
    group_key,
    label_entries,
)
from recbench.experiment.latency import latency_of_group
from recbench.experiment.leaderboard import make_leaderboard
from recbench.experiment.likelihood import likelihood_of_group
from recbench.experiment.regret import regret_rows
from recbench.experiment.slices import slices_of_group
from recbench.report.document import Document, Group, Section
from recbench.report.format import slug
from recbench.report.render import check_target, write_report
from recbench.report.sections.audit import audit_headline, audit_section
from recbench.report.sections.beyond import beyond_section
from recbench.report.sections.comparison import comparison_section
from recbench.report.sections.curves import curves_section
from recbench.report.sections.introduction import introduction, overview
from recbench.report.sections.latency import latency_section
from recbench.report.sections.leaderboard import leaderboard_section
from recbench.report.sections.likelihood import likelihood_section
from recbench.report.sections.paper import paper_section
from recbench.report.sections.rebuild import rebuild_section, settings_files
from recbench.report.sections.regret import regret_section
from recbench.report.sections.runs import damaged_section, unfinished_section
from recbench.report.sections.significance import significance_section
from recbench.report.sections.slices import slices_section

log = logging.getLogger(__name__)


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


def collect(store: RunStore) -> Document:
    """Return the report on these runs; a run whose results were changed is left out and listed."""
    runs = store.all()
    problems = [f"{folder.folder}: {folder.problem}" for folder in store.damaged()]
    by_key: dict[GroupKey, list[StoredRun]] = {}
    for run in runs:
        if run.manifest.status == "complete":
            try:
                run.require_intact(run.paths.results)
            except ArtifactError as error:
                log.warning("Left out: %s", error)
                problems.append(str(error))
            else:
                by_key.setdefault(group_key(run.manifest), []).append(run)
    boards: dict[str, Leaderboard] = {}
    groups = []
    for _, comparable in sorted(by_key.items(), key=lambda item: (item[1][0].manifest.limited, item[0])):
        for backbone, members in _by_backbone(comparable):
            try:
                board, group = _group(backbone, members, store.runs_dir, problems)
                boards[group.slug] = board
                groups.append(group)
            except ArtifactError as error:
                log.warning("A group is left out: %s", error)
                problems.append(f"All runs on {members[0].manifest.dataset} with it were left out: {error}")
    unfinished = [_unfinished(run) for run in runs if run.manifest.status != "complete"]
    sections = [unfinished_section(unfinished), damaged_section(problems)]
    return Document(
        title="Leaderboards",
        introduction=introduction(version("recbench"), str(store.runs_dir), n_groups=len(groups)),
        overview=overview(boards),
        groups=tuple(groups),
        sections=tuple(section for section in sections if section),
        version=version("recbench"),
        inputs={
            run.run_id: run.manifest.files.get(run.paths.metrics.name, "")
            for comparable in by_key.values()
            for run in comparable
        },
        attachments={name: text for board in boards.values() for name, text in settings_files(board).items()},
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


@dataclass(frozen=True)
class _Gathered:
    """What the sections of one group are made from.

    Attributes:
        board: the leaderboard.
        entries: its entries, in the order of the board.
        runs: all complete runs of the group, also those that repeat a seed.
        runs_dir: folder of the runs, as it was given.
        problems: texts about runs that a section had to leave out are added here.
    """

    board: Leaderboard
    entries: Sequence[Entry]
    runs: Sequence[StoredRun]
    runs_dir: Path
    problems: list[str]

    @cached_property
    def audit(self) -> tuple[AuditReport | None, str]:
        """The audit of the data, None where they are not here, and the command that makes it."""
        manifest = self.runs[0].manifest
        return audit_of_group(manifest), audit_command(manifest.dataset, manifest.protocol)


@dataclass(frozen=True)
class _Part:
    """One section to be: ``build`` gathers and builds it, or returns None where there is nothing to show."""

    slug: str
    title: str
    build: Callable[[], Section | None]


def _parts(group: _Gathered) -> Iterable[_Part]:
    """Return the sections of a group in their order. A NEW SECTION IS ONE LINE HERE: gather function, then builder."""
    runs_dir = str(group.runs_dir)
    return (
        _Part("leaderboard", "Leaderboard", lambda: _leaderboard(group)),
        _Part("audit", "Audit of the data", lambda: audit_section(*group.audit)),
        _Part("comparison", "Which differences are real?", lambda: comparison_section(group.board.comparison)),
        _Part("significance", "Who is better than whom", lambda: significance_section(group.board.comparison)),
        _Part("paper", "Beside the paper", lambda: paper_section(group.board)),
        _Part("slices", "Slices", lambda: slices_section(slices_of_group(group.entries, group.board.metrics[0]))),
        _Part("likelihood", "Likelihood of the true titles", lambda: _likelihood(group)),
        _Part("beyond", "Beyond accuracy", lambda: beyond_section(beyond_of_group(group.entries))),
        _Part("latency", "Cost and quality", lambda: latency_section(latency_of_group(group.entries))),
        _Part("regret", "Beam regret", lambda: _regret(group)),
        _Part("curves", "Training curves", lambda: _curves(group)),
        _Part("rebuild", "Where the numbers come from", lambda: rebuild_section(group.board, runs_dir)),
    )


def _section(part: _Part) -> Section | None:
    """Build one section; what cannot be gathered is said in its place and spoils no other section."""
    try:
        return part.build()
    except RecbenchError as error:
        log.warning("The section '%s' could not be made: %s", part.title, error)
        return Section(part.slug, part.title, warnings=(f"This could not be made: {error.message}", error.hint or ""))


def _group(
    backbone: str | None, runs: Sequence[StoredRun], runs_dir: Path, problems: list[str]
) -> tuple[Leaderboard, Group]:
    """Return one group and its leaderboard; what had to be left out of it is added to ``problems``."""
    entries = label_entries(group_by_identity(runs))
    board = make_leaderboard(entries, backbone, runs_dir)
    order = {row.entry.label: place for place, row in enumerate(board.rows)}
    gathered = _Gathered(board, sorted(entries, key=lambda entry: order[entry.label]), runs, runs_dir, problems)
    manifest = runs[0].manifest
    split = manifest.protocol.split
    name = [manifest.dataset, split, manifest.protocol_hash[:6], manifest.split_fingerprint[:6]]
    name += [backbone] if backbone else []
    group = Group(
        slug=slug("-".join(name + (["tryout"] if manifest.limited else []))),
        title=board.title,
        limited=manifest.limited,
        sections=tuple(section for part in _parts(gathered) if (section := _section(part))),
        facts={
            "dataset": manifest.dataset,
            "split": split,
            "backbone_of_group": backbone,
            "protocol_hash": manifest.protocol_hash,
            "dataset_fingerprint": manifest.dataset_fingerprint,
            "split_fingerprint": manifest.split_fingerprint,
            "n_examples": board.comparison.n_examples,
            "n_users": board.comparison.n_users,
            "protocol": board.protocol,
        },
    )
    return board, group


def _leaderboard(group: _Gathered) -> Section:
    try:
        audit = audit_headline(*group.audit)
    except RecbenchError as error:
        audit = f"The data could not be audited: {error.message}"
    return leaderboard_section(group.board, facts=(audit,), runs_dir=str(group.runs_dir))


def _likelihood(group: _Gathered) -> Section | None:
    n_items = group.entries[0].runs[0].summary()["n_items"]
    return likelihood_section(likelihood_of_group(group.entries), n_items)


def _regret(group: _Gathered) -> Section | None:
    rows, problems = regret_rows(group.runs)
    group.problems.extend(problems)
    return regret_section(rows)


def _curves(group: _Gathered) -> Section | None:
    found = (training_curves(run, entry.label) for entry in group.entries for run in entry.runs)
    return curves_section([curve for curves in found for curve in curves], [entry.label for entry in group.entries])


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
        limited=manifest.limited,
    )
