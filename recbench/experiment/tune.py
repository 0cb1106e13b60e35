"""Settings chosen on validation rows: a declared search, every trial kept, test rows out of reach until the choice."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recbench.artifacts.files import cannot_write, read_json, write_json, write_text
from recbench.artifacts.lock import exclusive
from recbench.artifacts.manifest import TuningRecord, utc_now
from recbench.artifacts.models import ModelStore
from recbench.artifacts.paths import FitPaths, TunePaths
from recbench.artifacts.trials import TrialRecord
from recbench.contracts.config import StrictModel, build_config
from recbench.contracts.errors import ConfigError, TrainingError
from recbench.contracts.hashing import hash_file, hash_json
from recbench.contracts.likelihood import LIKELIHOOD
from recbench.contracts.progress import Progress
from recbench.contracts.seeding import numpy_rng
from recbench.evaluation.accuracy import check_metric, metric_names
from recbench.experiment.config import merge, nested
from recbench.experiment.entries import flatten
from recbench.experiment.fit import FIT_ID_LENGTH, Fitter
from recbench.experiment.plan import RunPlan, with_config, without_test
from recbench.experiment.trial import Questions, Trial, run_trial
from recbench.experiment.tune_space import (
    MAX_REPEATS,
    Budget,
    Choices,
    Point,
    Tried,
    TuneConfig,
    read_tune_file,
    searcher,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """The outcome of a tuning.

    Attributes:
        plan: the run with the chosen values.
        record: how they were chosen, for its manifest.
        trials: all trials that count under the budget, in their order.
        paths: where they are kept.
    """

    plan: RunPlan
    record: TuningRecord
    trials: tuple[TrialRecord, ...]
    paths: TunePaths

    @property
    def models(self) -> ModelStore:
        """Where the chosen trial's model waits for the run."""
        return ModelStore(self.paths.models)

    def forget_models(self) -> None:
        """Delete the chosen trial's model, once the run is complete."""
        shutil.rmtree(self.paths.models, ignore_errors=True)


def tune(plan: RunPlan, file: Path, runs_dir: Path, fitter: Fitter, progress: Progress) -> Tuned:
    """Try what ``file`` declares, going on where an interrupted tuning stopped, and choose.

    Args:
        plan: the run as it is without tuning. Values of the searched keys in it are overridden.
        file: a :class:`~recbench.experiment.tune_space.TuneConfig` as YAML.
        runs_dir: folder of all runs.
        fitter: how fits are obtained. Where it looks for kept models at all, trials with the same fit share it.
        progress: shows bars.

    Raises:
        ConfigError: the file or a value in it is not accepted, or there are no validation rows.
        MissingExtraError: the search needs a package that is not installed.
        TrainingError: every trial failed.
        ArtifactError: another process works on the same tuning, or nothing can be written.
    """
    config = read_tuning(plan, file)
    propose = searcher(config)
    blind = without_test(plan)
    for point in config.corners():
        _plan_at(blind, config, point)  # wrong values are told before anything runs
    paths = _paths(blind, config, runs_dir)
    work = _Work(blind, config, _questions(blind, config), paths, fitter, progress)
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(paths.folder, error) from error
    with exclusive(paths.lock):
        write_text(paths.config, yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False))
        work.announce()
        trials: list[TrialRecord] = []
        while (end := _why_over(config, trials)) is None:
            proposed = propose([Tried(trial.point, trial.value) for trial in trials])
            if proposed is None:
                end = f"all {config.n_points} combinations are tried"
                break
            trials.append(work.trial(proposed, trials))
            write_text(paths.trials, "".join(json.dumps(one.model_dump(mode="json")) + "\n" for one in trials))
        log.info("The search ends with trial %d: %s.", len(trials), end)
        best = _best(trials)
        work.keep_only({best.fit_id} if best else set())
    if best is None:
        raise TrainingError(
            f"All {len(trials)} trials of the tuning failed; the first: {trials[0].error}",
            f"Choose other values in {file}. The trials are in {paths.folder}.",
        )
    log.info("Chosen: trial %d, %s (%s %.4f).", best.number, _text(best.chosen), config.metric, best.value)
    record = TuningRecord(
        tune_id=paths.folder.name,
        search=config.search,
        file_sha256=hash_file(file),
        metric=config.metric,
        rows=len(work.questions.rows),
        trials=len(trials),
        failed=sum(trial.status == "failed" for trial in trials),
        best_trial=best.number,
        best_value=best.value,
        chosen=best.chosen,
        seconds=sum(trial.timings_s["total"] for trial in trials),
    )
    write_json(paths.record, _Finished(budget=config.budget, record=record).model_dump(mode="json"))
    return Tuned(_plan_at(plan, config, best.point), record, tuple(trials), paths)


class _Finished(StrictModel):
    """A search that came to an end under its budget; a larger budget goes on with it."""

    budget: Budget
    record: TuningRecord


def chosen_before(plan: RunPlan, file: Path, runs_dir: Path) -> dict[str, Any] | None:
    """Return what a finished tuning of this plan chose, as nested values; None if it was not made or not finished.

    Arguments and errors as for :func:`tune`. Nothing is run.
    """
    config = read_tuning(plan, file)
    path = _paths(without_test(plan), config, runs_dir).record
    if not path.exists():
        return None
    finished = build_config(_Finished, read_json(path), f"the finished tuning ({path})")
    return nested(finished.record.chosen) if finished.budget == config.budget else None


def tuning_lock(plan: RunPlan, file: Path, runs_dir: Path) -> Path:
    """Return the file that is held by the process that makes this tuning."""
    return _paths(without_test(plan), read_tuning(plan, file), runs_dir).lock


def _paths(blind: RunPlan, config: TuneConfig, runs_dir: Path) -> TunePaths:
    return TunePaths.of(runs_dir, blind.dataset.name, blind.asked.method, _tune_id(blind, config))


def read_tuning(plan: RunPlan, file: Path) -> TuneConfig:
    """Read the file of a tuning of this plan.

    Raises:
        ConfigError: it is not accepted.
        UsageError: its metric is not among those of the protocol.
    """
    config = read_tune_file(file)
    known = [*metric_names(plan.protocol.cutoffs), LIKELIHOOD]
    config = config.model_copy(update={"metric": check_metric(config.metric, known)})
    return _with_fits_together(plan, config) if config.search == "grid" else config


def _with_fits_together(plan: RunPlan, config: TuneConfig) -> TuneConfig:
    """Return a grid whose last keys, which change the fastest, are those that the fit does not depend on.

    So trials of one fit follow each other, and one kept model serves them all.
    """
    first, *others = config.corners()
    fit_id = _plan_at(plan, config, first).fit_id
    if fit_id is None:
        return config
    changed = [(next(key for key in corner if corner[key] != first[key]), corner) for corner in others]
    fit_keys = {key for key, corner in changed if _plan_at(plan, config, corner).fit_id != fit_id}
    ranking_keys = {key for key, _ in changed} - fit_keys
    order = sorted(config.space, key=lambda key: key in ranking_keys)
    return config.model_copy(update={"space": {key: config.space[key] for key in order}})


def _why_over(config: TuneConfig, trials: Sequence[TrialRecord]) -> str | None:
    """Return why no further trial is made, or None; one trial is always made."""
    budget = config.budget
    if budget.trials is not None and len(trials) >= budget.trials:
        return "the budget allows no more"
    minutes = sum(trial.timings_s["total"] for trial in trials) / 60
    if trials and budget.minutes is not None and minutes >= budget.minutes:
        return f"the {budget.minutes:g} minutes of the budget are over"
    # A grid ends by itself, and promises every combination. A search that draws may go on repeating itself.
    latest = trials[-MAX_REPEATS:]
    if config.search != "grid" and len(latest) == MAX_REPEATS and all(one.repeats is not None for one in latest):
        return f"the last {MAX_REPEATS} trials repeated settings tried before"
    return None


def _best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the trial with the largest value, the first of equals; None if all failed."""
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: trial.value, default=None)  # type: ignore[arg-type, return-value]


def _plan_at(plan: RunPlan, config: TuneConfig, point: Point) -> RunPlan:
    return with_config(plan, merge(plan.asked.config, nested(config.values(point))))


def _questions(base: RunPlan, config: TuneConfig) -> Questions:
    valid = base.split.valid
    if not len(valid):
        raise ConfigError("There are no validation rows to choose on.", "Give them a share in protocol.ratios.")
    if config.rows is not None and config.rows < len(valid):
        order = numpy_rng(config.seed, "tune", "rows").permutation(len(valid))
        valid = valid.take(np.sort(order[: config.rows]))
    return Questions(valid, base.dataset.users, base.protocol.depth, base.protocol.cutoffs, config.metric)


def _tune_id(base: RunPlan, config: TuneConfig) -> str:
    """Return a hash of everything that determines the sequence of trials. The budget only says where it ends."""
    fit = base.fit
    searched = tuple(config.space)
    identity = {
        "tune": config.identity,
        # Trials come in the order of the keys, which a hash does not see.
        **({"order": list(searched)} if list(searched) != sorted(searched) else {}),
        "method": fit.name,
        "config": {
            key: value
            for key, value in flatten(_plan_at(base, config, config.corners()[0]).method_config).items()
            if not any(key == name or key.startswith(f"{name}.") for name in searched)
        },
        "backbone": [fit.backbone.name, fit.backbone.revision] if fit.backbone else None,
        "rows": [fit.dataset_fingerprint, fit.train.fingerprint, fit.valid.fingerprint],
        "lists": [fit.mask_history, base.protocol.depth, base.protocol.cutoffs],
        "seed": fit.seed,
        "device": fit.device.partition(":")[0],
        "packages": dict(fit.packages) | ({"optuna": version("optuna")} if config.search == "optuna" else {}),
    }
    return hash_json(identity, FIT_ID_LENGTH)


@dataclass(frozen=True)
class _Work:
    """What all trials of one tuning have in common. ``base`` has no test rows."""

    base: RunPlan
    config: TuneConfig
    questions: Questions
    paths: TunePaths
    fitter: Fitter
    progress: Progress

    def announce(self) -> None:
        config, n_points = self.config, self.config.n_points
        axes = " x ".join(
            f"{key} ({len(one.choices)})" if isinstance(one, Choices) else f"{key} ({one.low:g} to {one.high:g})"
            for key, one in config.space.items()
        )
        limits = [
            f"{config.budget.trials} trials" if config.budget.trials else "",
            f"{n_points} combinations" if n_points else "",
            f"{config.budget.minutes:g} minutes" if config.budget.minutes else "",
        ]
        log.info(
            "Tuning %s of %s: %s search over %s, at most %s; chosen by %s on %d of %d validation rows.",
            self.paths.folder.name, self.base.asked.method, config.search, axes,
            " or ".join(filter(None, limits)), config.metric, len(self.questions.rows), len(self.base.split.valid),
        )  # fmt: skip
        log.info("Trials: %s", self.paths.folder)

    def trial(self, point: Point, earlier: Sequence[TrialRecord]) -> TrialRecord:
        """Return the record of the next trial: as an earlier attempt wrote it, or after making the trial."""
        number = len(earlier) + 1
        paths = self.paths.trial(number)
        if paths.record.exists():
            shutil.rmtree(paths.work, ignore_errors=True)  # of an attempt that was killed right before it went
            return TrialRecord.read(paths.record)
        plan = _plan_at(self.base, self.config, point)
        trial = Trial(
            number=number,
            point=point,
            chosen=_chosen(plan, self.config.values(point)),
            fit=plan.fit,
            resolved=plan.resolved,
            name=f"tuning {self.paths.folder.name}, trial {number}",
        )
        same = next((one for one in earlier if one.chosen == trial.chosen), None)
        if same:
            changes = {"number": number, "point": point, "repeats": same.repeats or same.number, "finished": utc_now()}
            record = same.model_copy(update=changes | {"timings_s": {"total": 0.0}})
        else:
            log.info("Trial %d: %s", number, _text(trial.chosen))
            record = run_trial(trial, self.questions, paths, self._sharing, self.progress)
            self._keep(FitPaths(paths.work), record.fit_id, _best([*earlier, record]))
        record.write(paths.record)
        shutil.rmtree(paths.work, ignore_errors=True)
        if record.value is not None:
            log.info("Trial %d: %s %.4f on validation rows.", number, self.config.metric, record.value)
        return record

    @property
    def _store(self) -> ModelStore:
        return ModelStore(self.paths.models)

    @property
    def _sharing(self) -> Fitter:
        """How trials get their fits: also from earlier trials, unless all are fitted afresh (``--no-reuse``)."""
        stores = self.fitter.stores
        return replace(self.fitter, stores=[*stores, self._store]) if stores else self.fitter

    def _keep(self, fit: FitPaths, fit_id: str | None, best: TrialRecord | None) -> None:
        """Keep a finished fit for the trials to come, beside that of the best trial so far, and no other."""
        if fit_id is not None and fit.model.is_dir():
            self._store.keep(fit)
            self.keep_only({fit_id, best.fit_id if best else None})

    def keep_only(self, fit_ids: Collection[str | None]) -> None:
        """Delete the models of all other fits."""
        for other in self._store.fit_ids():
            if other not in fit_ids:
                self._store.remove(other)


def _chosen(plan: RunPlan, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the configuration reads them (text "1e-3" of a YAML file is the number 0.001)."""
    result = {}
    for key, value in values.items():
        found: Any = plan.method_config
        for part in key.split("."):
            found = found.get(part, value) if isinstance(found, Mapping) else value
        result[key] = found
    return result


def _text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
