"""One plan -> one run folder, in steps that a crash can fall between: fit, rank, evaluate, complete."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from recbench.artifacts.files import cannot_write, read_json, write_json, write_text
from recbench.artifacts.lock import exclusive
from recbench.artifacts.manifest import RunManifest, Status, utc_now
from recbench.artifacts.models import ModelStore
from recbench.artifacts.paths import RunPaths, models_folder
from recbench.artifacts.provenance import collect_provenance
from recbench.artifacts.store import StoredRun, hash_run_files
from recbench.artifacts.tables import read_rankings, write_generations, write_likelihood, write_rankings
from recbench.artifacts.train_log import TrainLog, open_train_log, plain
from recbench.contracts.errors import ArtifactError, RecbenchError
from recbench.contracts.method import Method, RunContext
from recbench.contracts.progress import Progress, SilentProgress
from recbench.contracts.rankings import Rankings
from recbench.experiment.evaluate import write_evaluation
from recbench.experiment.fit import Fitter, add_times, other_times
from recbench.experiment.inputs import data_fields
from recbench.experiment.logfile import log_file
from recbench.experiment.plan import RunPlan
from recbench.experiment.resources import peak_memory_bytes
from recbench.experiment.tune import Tuned

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What became of a plan.

    Attributes:
        run: the complete run.
        fresh: whether this call completed it (False: it already was complete).
    """

    run: StoredRun
    fresh: bool


def run_plan(
    plan: RunPlan,
    runs_dir: Path,
    *,
    again: bool = False,
    keep_model: bool = False,
    fitter: Fitter | None = None,
    progress: Progress | None = None,
    tuned: Tuned | None = None,
) -> RunResult:
    """Complete one run, going on where an interrupted attempt stopped; a complete one is only returned.

    Args:
        plan: what to run.
        runs_dir: folder of all runs.
        again: make one more run, with a fit of its own, even if a complete one exists.
        keep_model: keep the fitted model for other runs with the same fit.
        fitter: how the fit is obtained; None: from a kept model below ``runs_dir`` where there is one.
        progress: shows bars; None shows none.
        tuned: the tuning that chose this plan, for the manifest; its model is used and then forgotten.

    Raises:
        ArtifactError: another process works on the same run, or the complete run was changed, or nothing can be
            written.
        RecbenchError: whatever the method raises; the run is then marked as failed and can be resumed.
    """
    paths = _choose_folder(plan, runs_dir, again)
    store = ModelStore(models_folder(runs_dir))
    run = _completed(paths)
    fresh = run is None
    if run is None:
        try:
            paths.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(paths.folder, error) from error
        fitter = fitter or Fitter([store])
        stores = [*fitter.stores, *([tuned.models] if tuned else [])]
        fitter = replace(fitter, stores=() if again else stores)
        with exclusive(paths.lock):
            run = _completed(paths)  # by a process that held the lock until now
            fresh = run is None
            if run is None:
                manifest = _first_manifest(plan, paths, fitter.command, tuned)
                attempt = _Attempt(plan, paths, manifest, fitter, store if keep_model else None)
                run = attempt.run(progress or SilentProgress())
    if not fresh:
        _explain_what_stays(run, keep_model and not (plan.fit_id and store.get(plan.fit_id)), tuned)
    if tuned:
        tuned.forget_models()
    return RunResult(run, fresh)


def _explain_what_stays(run: StoredRun, lacks_model: bool, tuned: Tuned | None) -> None:
    """Say what a run that was complete already does not get: it is never written again."""
    if lacks_model:
        log.warning("The run was complete already and its model is gone; --again --keep-model fits it once more.")
    if tuned and run.manifest.tuning != tuned.record:
        log.warning(
            "The chosen run %s was complete already, so its manifest does not tell of this tuning; --again makes one "
            "that does.",
            run.run_id,
        )


def _choose_folder(plan: RunPlan, runs_dir: Path, again: bool) -> RunPaths:
    """Return the folder of the run; with ``again`` the first one, numbered from 2, that is not complete."""
    run_id = plan.run_id
    number = 1
    while True:
        name = run_id if number == 1 else f"{run_id}-{number}"
        paths = RunPaths.of(runs_dir, plan.dataset.name, plan.asked.method, name)
        if not again or not _is_complete(paths):
            return paths
        number += 1


def _is_complete(paths: RunPaths) -> bool:
    return paths.manifest.exists() and RunManifest.read(paths.manifest).status == "complete"


def _completed(paths: RunPaths) -> StoredRun | None:
    """Return the run if it is complete and nobody changed it."""
    if not _is_complete(paths):
        return None
    run = StoredRun.open(paths.folder)
    run.require_intact()
    # A kill between the last two steps of a run leaves its scratch folder.
    discard(paths.work)
    return run


@dataclass
class _Attempt:
    """One attempt at a run: holds the manifest as it changes on disk."""

    plan: RunPlan
    paths: RunPaths
    manifest: RunManifest
    fitter: Fitter
    keep_in: ModelStore | None
    start_s: float = field(default_factory=time.perf_counter)
    earlier_s: dict[str, float] = field(default_factory=dict)

    def run(self, progress: Progress) -> StoredRun:
        """Go from whatever earlier attempts left to a complete run."""
        plan, paths = self.plan, self.paths
        _remove_leftovers(paths)
        try:
            with log_file(paths.log, plan.method), open_train_log(paths.train_log) as train_log:
                self.start()
                self.work(plan.fit.context(_method_work(paths), train_log.write, progress), train_log)
            return self.complete()
        except KeyboardInterrupt:
            self.stop("cancelled", "cancelled by the user")
            raise
        except Exception as error:
            self.stop("failed", str(error) if isinstance(error, RecbenchError) else f"{type(error).__name__}: {error}")
            error.run_folder = paths.folder  # type: ignore[attr-defined]  # shown by the command line for bugs
            raise

    def update(self, **changes: Any) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        self.manifest.write(self.paths.manifest)

    def start(self) -> None:
        self.earlier_s = dict(self.manifest.timings_s)
        _method_work(self.paths).mkdir(parents=True, exist_ok=True)
        write_text(self.paths.config, yaml.safe_dump(self.plan.resolved, sort_keys=False, allow_unicode=True))
        self.update(status="running", error=None)
        log.info(
            "Run %s: %s%s on %s, seed %d, on %s%s.",
            self.manifest.run_id,
            self.manifest.method,
            f" ({self.manifest.backbone.name})" if self.manifest.backbone else "",
            self.manifest.dataset,
            self.manifest.seed,
            self.manifest.device,
            f", attempt {self.manifest.attempts}" if self.manifest.attempts > 1 else "",
        )
        log.info("Folder: %s", self.paths.folder)
        for note in self.manifest.notes:
            log.debug("Note: %s", note)

    def work(self, ctx: RunContext, train_log: TrainLog) -> None:
        """Fit, rank and evaluate, each step only if no earlier attempt finished it."""
        plan, paths = self.plan, self.paths
        ctx.timings_s["prepare"] = plan.prepare_s
        try:
            method = None if paths.rankings.exists() else self._fitted(ctx, train_log)
            # Before anything else can fail: a corrected command finds the fit even if this run never ends.
            self._keep_model()
            if method is not None:
                self._rank(method, ctx)
            rankings = read_rankings(paths.rankings, plan.dataset.catalog)
            with ctx.stage("evaluate"):
                summary = read_json(_method_summary(paths))
                write_evaluation(paths, rankings, plan.dataset, plan.split, plan.protocol, summary)
        finally:
            self._save_timings(ctx)
        log.info("Everything is written.")

    def _fitted(self, ctx: RunContext, train_log: TrainLog) -> Method:
        was_there = self.paths.fit.model.is_dir()
        method, record = self.fitter.obtain(
            self.plan.fit, self.paths.fit, ctx, train_log, self.manifest.run_id, self.earlier_s
        )
        if record.is_kept and not was_there:
            self.earlier_s = other_times(self.earlier_s)  # what an attempt spent on a fit that is not used
        if "fit" not in self.earlier_s | ctx.timings_s:
            self.earlier_s = add_times(self.earlier_s, record.timings_s)
        self.update(
            fit_reused_from=record.fitted_by if record.is_kept else None,
            fit_started_from=record.started_from,
            peak_memory_bytes=_largest(self.manifest.peak_memory_bytes, record.peak_memory_bytes),
        )
        self._save_timings(ctx)
        return method

    def _keep_model(self) -> None:
        """Keep the finished fit for other runs, if that was asked for."""
        if self.keep_in and self.plan.fit_id is None:
            log.warning("%s has nothing to share, so its model is not kept.", self.plan.asked.method)
        elif self.keep_in:
            log.info("The fitted model is kept in %s.", self.keep_in.keep(self.paths.fit).paths.folder)

    def _rank(self, method: Method, ctx: RunContext) -> None:
        queries = self.plan.split.test.queries()
        catalog = self.plan.dataset.catalog
        with ctx.stage("rank"):
            rankings: Rankings = method.rank(queries, self.plan.protocol.depth, ctx)
        rankings.check(queries.example_id, len(catalog))
        # Only now, with the lists final, the method meets the targets.
        likelihood = method.likelihood(self.plan.split.test, ctx)
        if likelihood is not None:
            likelihood.check(len(queries))
            write_likelihood(self.paths.likelihood, likelihood, queries.example_id)
        write_json(_method_summary(self.paths), plain(method.summary()))
        if rankings.generations is not None:
            write_generations(self.paths.generations, rankings.generations)
        # Last, because an attempt that finds it takes everything before it as done.
        write_rankings(self.paths.rankings, rankings, catalog)
        self._save_timings(ctx)

    def _save_timings(self, ctx: RunContext) -> None:
        """Keep times and memory of all attempts: stages that several of them worked on add up."""
        timings = add_times(self.earlier_s, ctx.timings_s)
        timings["total"] = self.earlier_s.get("total", 0.0) + time.perf_counter() - self.start_s + self.plan.prepare_s
        peak = _largest(self.manifest.peak_memory_bytes, peak_memory_bytes(self.plan.device))
        self.update(timings_s=timings, peak_memory_bytes=peak)

    def complete(self) -> StoredRun:
        """Mark the run as complete: from here on its files never change. Only then the scratch folder goes."""
        self.update(status="complete", finished=utc_now(), files=hash_run_files(self.paths))
        discard(self.paths.work)
        return StoredRun(self.paths, self.manifest)

    def stop(self, status: Status, reason: str) -> None:
        """Mark the run as failed or cancelled, if there is still room to write that; a complete one stays complete."""
        if self.manifest.status == "complete":
            return
        try:
            self.update(status=status, error=reason)
        except ArtifactError as error:
            log.warning("The run in %s could not be marked as %s: %s", self.paths.folder, status, error.message)


def _first_manifest(plan: RunPlan, paths: RunPaths, command: Sequence[str], tuned: Tuned | None) -> RunManifest:
    """Return the manifest this attempt starts from: an earlier attempt's times and count, the present surroundings."""
    earlier = RunManifest.read(paths.manifest) if paths.manifest.exists() else None
    return RunManifest(
        run_id=paths.folder.name,
        status="pending",
        method=plan.asked.method,
        backbone=plan.backbone,
        seed=plan.asked.seed,
        config=plan.method_config,
        device=plan.device,
        attempts=earlier.attempts + 1 if earlier else 1,
        created=earlier.created if earlier else utc_now(),
        timings_s=earlier.timings_s if earlier else {},
        peak_memory_bytes=earlier.peak_memory_bytes if earlier else {},
        fit_id=plan.fit_id,
        tuning=tuned.record if tuned else earlier.tuning if earlier else None,
        provenance=collect_provenance(command, plan.packages, plan.device),
        **data_fields(plan.dataset, plan.split, plan.protocol),
    )


def _largest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _method_work(paths: RunPaths) -> Path:
    # A folder of the method's own, so that no name it chooses can be mistaken for the runner's.
    return paths.work / "method"


def _method_summary(paths: RunPaths) -> Path:
    return paths.work / "method_summary.json"


def discard(folder: Path) -> None:
    """Delete a scratch folder; what cannot be deleted now goes when the run is next asked for."""
    shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(paths: RunPaths) -> None:
    """Remove temporary files that a killed attempt was writing."""
    for leftover in paths.folder.glob(".*.tmp"):
        leftover.unlink()
