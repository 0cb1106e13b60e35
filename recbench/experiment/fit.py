"""A fitted method, by the shortest way: from an earlier attempt, from a kept model, or by fitting."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recbench.artifacts.files import atomic_folder
from recbench.artifacts.manifest import utc_now
from recbench.artifacts.models import FitRecord, KeptModel, ModelStore
from recbench.artifacts.paths import FitPaths, home
from recbench.artifacts.provenance import collect_provenance
from recbench.artifacts.train_log import TrainLog
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import BackboneSpec, Method, RunContext
from recbench.contracts.progress import Progress
from recbench.experiment.resources import peak_memory_bytes

log = logging.getLogger(__name__)

FIT_ID_LENGTH = 12

# Stages of a run that are no part of its fit.
_NOT_FIT = ("prepare", "total")


@dataclass(frozen=True)
class FitPlan:
    """Everything that a fit depends on. There is no test row in it.

    Attributes:
        name: registered name of the method.
        method: configured, not fitted.
        dataset, dataset_fingerprint: the data set.
        catalog: its items.
        train, valid: the rows.
        mask_history: whether items of the history are taken out of lists (choices on validation rows depend on it).
        backbone: the language model, or None.
        seed: of everything random.
        device: "cpu", "cuda" or "cuda:N".
        packages: versions of the packages that can change the result.
    """

    name: str
    method: Method
    dataset: str
    dataset_fingerprint: str
    catalog: ItemCatalog
    train: Examples
    valid: Examples
    mask_history: bool
    backbone: BackboneSpec | None
    seed: int
    device: str
    packages: Mapping[str, str]

    @cached_property
    def fit_id(self) -> str | None:
        """Hash of everything that determines the fitted model; None where the method has nothing to share."""
        identity = self.method.fit_identity()
        if identity is None:
            return None
        backbone = self.backbone
        return hash_json(
            {
                "fit": identity,
                "backbone": [backbone.name, backbone.revision] if backbone else None,
                "dataset": self.dataset_fingerprint,
                "rows": [self.train.fingerprint, self.valid.fingerprint],
                "mask_history": self.mask_history,
                "seed": self.seed,
                "device": self.device.partition(":")[0],
                "packages": dict(self.packages),
            },
            FIT_ID_LENGTH,
        )

    def context(self, work_dir: Path, log: Callable[[Mapping[str, Any]], None], progress: Progress) -> RunContext:
        """Return the surroundings that the method works in."""
        return RunContext(
            catalog=self.catalog,
            seed=self.seed,
            device=self.device,
            work_dir=work_dir,
            cache_dir=home(),
            backbone=self.backbone,
            mask_history=self.mask_history,
            log=log,
            progress=progress,
        )


@dataclass(frozen=True)
class Fitter:
    """How fits are obtained.

    Attributes:
        stores: where kept models are looked for, in this order; none: everything is fitted afresh.
        command: the command line, for the record.
        announce: called with the method and its scratch folder right before it is fitted here.
    """

    stores: Sequence[ModelStore] = ()
    command: Sequence[str] = ()
    announce: Callable[[Method, Path], None] | None = None

    def obtain(
        self,
        plan: FitPlan,
        paths: FitPaths,
        ctx: RunContext,
        train_log: TrainLog,
        fitted_by: str,
        earlier_s: Mapping[str, float],
    ) -> tuple[Method, FitRecord]:
        """Return the fitted method and the record of its fit, which then also lie in ``paths``.

        Args:
            plan: what to fit.
            paths: where the finished fit is put, and where an earlier attempt may have left it.
            ctx: surroundings; its ``timings_s`` get the stages of a fit made now.
            train_log: the log that ``ctx`` writes; the lines of a kept model take the place of those in it.
            fitted_by: who fits, for the record.
            earlier_s: seconds per stage of earlier attempts.
        """
        if paths.model.is_dir():
            log.info("An earlier attempt has finished the fit: it is loaded.")
        elif self._take_kept(plan, paths):
            train_log.replace(paths.train_log.read_text(encoding="utf-8"))
        else:
            return self._fit(plan, paths, ctx, train_log.path, fitted_by, earlier_s)
        method = type(plan.method).load(paths.model, plan.method.config, ctx)
        return method, FitRecord.read(paths.record)

    def _take_kept(self, plan: FitPlan, paths: FitPaths) -> bool:
        """Copy the kept model of the plan's fit to ``paths``, if there is one."""
        kept = self._kept(plan)
        if kept is None:
            return False
        log.info(
            "Not fitted again: the model that %s fitted is loaded from %s (--no-reuse fits afresh).",
            kept.record.fitted_by,
            kept.paths.folder,
        )
        kept.copy_to(paths)
        return True

    def _kept(self, plan: FitPlan) -> KeptModel | None:
        return next((kept for store in self.stores if plan.fit_id and (kept := store.get(plan.fit_id))), None)

    def _take_start(self, plan: FitPlan, paths: FitPaths) -> FitRecord | None:
        """Copy the kept model that the plan's fit goes on from to ``paths``; return its record, None if none was kept.

        What an earlier attempt began with stays.
        """
        start = plan.method.starts_from()
        if start is not None and not paths.model.is_dir():
            kept = self._kept(replace(plan, method=start))
            if kept is not None:
                log.info(
                    "The fit goes on from the model that %s fitted, in %s (--no-reuse makes it afresh).",
                    kept.record.fitted_by,
                    kept.paths.folder,
                )
                kept.copy_to(paths)
        return FitRecord.read(paths.record) if paths.record.exists() else None

    def _fit(
        self,
        plan: FitPlan,
        paths: FitPaths,
        ctx: RunContext,
        train_log: Path,
        fitted_by: str,
        earlier_s: Mapping[str, float],
    ) -> tuple[Method, FitRecord]:
        start = self._take_start(plan, FitPaths(ctx.start_model.parent))
        with ctx.stage("fit"):
            if self.announce:
                self.announce(plan.method, ctx.work_dir)
            plan.method.fit(plan.train, plan.valid, ctx)
        if start is not None:
            ctx.timings_s.update(add_times(ctx.timings_s, start.timings_s))
        record = FitRecord(
            fit_id=plan.fit_id,
            fitted_by=fitted_by,
            started_from=start.fitted_by if start else None,
            method=plan.name,
            dataset=plan.dataset,
            backbone=plan.backbone,
            seed=plan.seed,
            created=utc_now(),
            timings_s=fit_times(add_times(earlier_s, ctx.timings_s)),
            peak_memory_bytes=peak_memory_bytes(plan.device),
            provenance=collect_provenance(self.command, plan.packages, plan.device),
        )
        record.write(paths.record)
        shutil.copyfile(train_log, paths.train_log)
        with atomic_folder(paths.model) as temporary:
            plan.method.save(temporary)
        return plan.method, record


def add_times(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds per stage of both together, the stages of ``one`` first."""
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in dict.fromkeys([*one, *other])}


def fit_times(timings_s: Mapping[str, float]) -> dict[str, float]:
    """Return the stages of the fit alone, of times taken before anything was ranked."""
    return {name: seconds for name, seconds in timings_s.items() if name not in _NOT_FIT}


def other_times(timings_s: Mapping[str, float]) -> dict[str, float]:
    """Return what :func:`fit_times` leaves out."""
    return {name: seconds for name, seconds in timings_s.items() if name in _NOT_FIT}
