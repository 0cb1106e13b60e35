"""What a latency measurement is about: a configuration or a stored run, and the fitted model that answers for it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbench.artifacts.latency import configuration_id
from recbench.artifacts.models import ModelStore
from recbench.artifacts.paths import FitPaths, LatencyPaths, models_folder
from recbench.artifacts.store import StoredRun
from recbench.artifacts.train_log import open_train_log
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.method import Method, RunContext
from recbench.experiment.config import build_experiment
from recbench.experiment.fit import Fitter
from recbench.experiment.logfile import log_file
from recbench.experiment.plan import RunPlan, make_plan
from recbench.experiment.resources import DeviceChoice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatencySubject:
    """A configured method with its data.

    Attributes:
        plan: as for `recbench run`.
        run_id: the run that the times belong to; it need not exist.
        fit_id: of the model that answers, None where the method has nothing to share.
        is_plan: whether the plan is that of the run in every respect; False for a run of another version, or on
            another device.
        software_changed: whether packages that can change results are others than those of the run.
    """

    plan: RunPlan
    run_id: str
    fit_id: str | None
    is_plan: bool = True
    software_changed: bool = False

    @classmethod
    def of_plan(cls, plan: RunPlan) -> LatencySubject:
        """Return the subject of a configuration."""
        return cls(plan, plan.run_id, plan.fit_id)

    @classmethod
    def of_run(cls, run: StoredRun, device: DeviceChoice | None) -> LatencySubject:
        """Return the subject of a stored run.

        Args:
            run: a run of any status.
            device: where to measure; None: the kind of device that the run was made on.

        Raises:
            UsageError: the run was imported, so there is no method to ask.
            ArtifactError: its data set has changed since, or its configuration is gone.
        """
        manifest = run.manifest
        if "imported" in manifest.provenance:
            raise UsageError(
                f"Run {run.run_id} was imported: there are lists and no model that could be timed.",
                "Measure where its model is, or name a run of a method that recbench fits.",
            )
        kind: Any = device or manifest.device.partition(":")[0]
        plan = make_plan(build_experiment(run.paths.config, {}, []), kind)
        then = (manifest.dataset_fingerprint, manifest.split_fingerprint)
        if then != (plan.dataset.fingerprint, plan.split.fingerprint):
            raise ArtifactError(
                f"The data set '{manifest.dataset}' or its split is not what run {run.run_id} was made on.",
                "Prepare the data set as it was then, or run the method again.",
            )
        is_plan = plan.run_id == configuration_id(run.run_id)
        packages = manifest.provenance.get("packages")
        return cls(
            plan,
            run.run_id,
            fit_id=manifest.fit_id or (plan.fit_id if is_plan else None),
            is_plan=is_plan,
            software_changed=packages is not None and packages != plan.packages,
        )

    @property
    def first_free_id(self) -> int:
        """An example id that no row of the split has, nor any greater one."""
        split = self.plan.split
        return 1 + max(int(part.example_id.max(initial=0)) for part in (split.train, split.valid, split.test))


def fitted_method(
    subject: LatencySubject, paths: LatencyPaths, runs_dir: Path, ctx: RunContext, command: Sequence[str]
) -> tuple[Method, Literal["kept", "fitted"]]:
    """Return the fitted method: the kept model, or one that is fitted now as `recbench run` would, and kept.

    Args:
        subject: what to fit.
        paths: an interrupted fit goes on from what it left there.
        runs_dir: folder of all runs, with the kept models.
        ctx: surroundings for the kept model.
        command: the command line, for the record of a fit.

    Raises:
        ArtifactError: the run's model is not kept and this version or device would fit another one.
    """
    plan, store = subject.plan, ModelStore(models_folder(runs_dir))
    kept = store.get(subject.fit_id) if subject.fit_id else None
    if kept is not None:
        log.info("The model that %s fitted is loaded from %s.", kept.record.fitted_by, kept.paths.folder)
        return type(plan.method).load(kept.paths.model, plan.method.config, ctx), "kept"
    if plan.fit_id is not None and not subject.is_plan:
        raise ArtifactError(
            f"The model of run {subject.run_id} is not kept in {store.root}, and what would be fitted now is another: "
            "its software or device differs.",
            "Measure what is installed here: recbench latency --config PATH_OF_THE_RUN/config.yaml.",
        )
    attempt = paths.fit(subject.run_id)
    (attempt.work / "method").mkdir(parents=True, exist_ok=True)
    what = "set up first; it has nothing to keep" if plan.fit_id is None else "fitted first, and kept"
    log.info("There is no kept model: %s is %s.", plan.asked.method, what)
    with log_file(attempt.log, plan.method), open_train_log(attempt.train_log) as train_log:
        fit_ctx = plan.fit.context(attempt.work / "method", train_log.write, ctx.progress)
        fitted_by = f"the latency measurement of {subject.run_id}"
        fit = FitPaths(attempt.work)
        method, record = Fitter([store], command).obtain(plan.fit, fit, fit_ctx, train_log, fitted_by, {})
    if record.fit_id is not None:
        # Loaded like any other: what training left in memory is no part of answering.
        method = type(plan.method).load(store.keep(fit).paths.model, plan.method.config, ctx)
    shutil.rmtree(attempt.folder, ignore_errors=True)
    return method, "fitted"
