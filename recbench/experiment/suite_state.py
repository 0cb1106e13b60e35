"""Where a suite stands: which of its runs are there, and what the others may cost. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from recbench.artifacts.paths import RunPaths
from recbench.artifacts.store import RunStore, StoredRun
from recbench.experiment.plan import RunPlan, make_plan, with_config, with_seed
from recbench.experiment.resources import DeviceChoice
from recbench.experiment.suite import Choices, Job, Suite
from recbench.experiment.tune import chosen_before, read_tuning
from recbench.methods.load import load_method_class

UNTUNED = "untuned"
MISSING = "missing"


class Planner:
    """Turns the jobs of a suite into plans. Data and splits are read once for each entry, data set and backbone.

    Args:
        suite: what is to be run.
        device: where torch computes.
    """

    def __init__(self, suite: Suite, device: DeviceChoice = "auto") -> None:
        self.suite = suite
        self._device = device
        self._plans: dict[tuple[str, str, str | None], RunPlan] = {}

    def jobs(self) -> list[Job]:
        """Return all runs of the suite, in order.

        Raises:
            ConfigError: a method is not known or cannot be loaded.
        """
        methods = {self.suite.method_of(entry.name) for entry in self.suite.declared.entries}
        return list(self.suite.jobs({name: load_method_class(name).capabilities.uses_backbone for name in methods}))

    def plan(self, job: Job, choices: Choices) -> RunPlan:
        """Return the plan of a job under what was chosen.

        Raises:
            RecbenchError: as :func:`~recbench.experiment.plan.make_plan`.
        """
        key = (job.entry, job.dataset, job.backbone)
        asked = self.suite.asked(job, choices)
        if key not in self._plans:
            self._plans[key] = make_plan(asked, self._device)
        return with_seed(with_config(self._plans[key], asked.config), job.seed)

    def tuning_plan(self, entry: str, job: Job, choices: Choices) -> RunPlan:
        """Return the plan that an entry's tuning starts from, on the job's data set and backbone."""
        first = Job(entry, job.dataset, job.backbone, self.suite.first_seed)
        return self.plan(first, {name: chosen for name, chosen in choices.items() if name != entry})

    def choices(self, job: Job, runs_dir: Path) -> tuple[Choices, tuple[str, ...]]:
        """Return what finished tunings chose for a job, and the entries whose tuning is still to be made."""
        choices: dict[str, dict[str, Any]] = {}
        names = self.suite.tuned_for(job.entry)
        for place, entry in enumerate(names):
            plan = self.tuning_plan(entry, job, choices)
            chosen = chosen_before(plan, self.suite.tune_file(entry), runs_dir)
            if chosen is None:
                return choices, tuple(names[place:])
            choices[entry] = chosen
        return choices, ()


@dataclass(frozen=True)
class JobState:
    """One run of a suite as it stands.

    Attributes:
        job: which one.
        state: of its run ("complete", "running", "interrupted", ...), "missing" where there is none yet, "untuned"
            where its settings are yet to be chosen.
        run: the run, if there is one.
        chosen: what was chosen on validation rows, as nested values by entry.
        to_tune: entries whose tuning must come first.
    """

    job: Job
    state: str
    run: StoredRun | None
    chosen: Choices
    to_tune: tuple[str, ...]


def job_states(planner: Planner, runs_dir: Path) -> list[JobState]:
    """Return where every run of a suite stands.

    Raises:
        RecbenchError: an entry cannot be planned: wrong settings, a data set or package that is not there.
    """
    return [_state(planner, job, runs_dir) for job in planner.jobs()]


def _state(planner: Planner, job: Job, runs_dir: Path) -> JobState:
    choices, to_tune = planner.choices(job, runs_dir)
    # Also for an untuned entry, so that wrong settings are told before anything runs.
    plan = planner.plan(job, choices)
    if to_tune:
        return JobState(job, UNTUNED, None, choices, to_tune)
    paths = RunPaths.of(runs_dir, plan.dataset.name, plan.asked.method, plan.run_id)
    if not paths.manifest.exists():
        return JobState(job, MISSING, None, choices, ())
    run = StoredRun.open(paths.folder)
    return JobState(job, run.state, run, choices, ())


@dataclass(frozen=True)
class EntryCost:
    """An entry on one data set with one backbone.

    Attributes:
        entry, method, dataset, backbone: which.
        runs, complete: how many runs it has, and how many of them are complete.
        trials: trials of a tuning that is yet to be made or finished; None for an unknown number.
        seconds_each: mean time of complete runs like it; None where there is none to go by.
        alike: what "like it" means: "same settings", "same method", or "".
        seconds_left: of all that is left, None where that is not known.
    """

    entry: str
    method: str
    dataset: str
    backbone: str | None
    runs: int
    complete: int
    trials: int | None
    seconds_each: float | None
    alike: str
    seconds_left: float | None


def costs(planner: Planner, states: Sequence[JobState], runs_dir: Path) -> list[EntryCost]:
    """Return what is left to do and how long it may take, by the runs that are there.

    A time is of the machine that the earlier run had, and of a fit where that one made its own.
    """
    known = RunStore(runs_dir).select(status="complete")
    groups: dict[tuple[str, str, str | None], list[JobState]] = {}
    for one in states:
        groups.setdefault((one.job.entry, one.job.dataset, one.job.backbone), []).append(one)
    return [_cost(planner, group, known) for group in groups.values()]


def _cost(planner: Planner, group: Sequence[JobState], known: Iterable[StoredRun]) -> EntryCost:
    first = group[0]
    plan = planner.plan(first.job, first.chosen)
    complete = sum(one.state == "complete" for one in group)
    trials = _trials_left(planner, first)
    each, alike = _seconds_each(plan, known)
    left = len(group) - complete
    n_fits = None if trials is None else left + trials
    return EntryCost(
        entry=first.job.entry,
        method=plan.asked.method,
        dataset=first.job.dataset,
        backbone=first.job.backbone,
        runs=len(group),
        complete=complete,
        trials=trials,
        seconds_each=each,
        alike=alike,
        seconds_left=0.0 if n_fits == 0 else None if n_fits is None or each is None else n_fits * each,
    )


def _trials_left(planner: Planner, one: JobState) -> int | None:
    """Return the trials of an entry's own tuning, 0 once it is finished."""
    if one.job.entry not in one.to_tune:
        return 0
    config = read_tuning(planner.plan(one.job, one.chosen), planner.suite.tune_file(one.job.entry))
    limits = [number for number in (config.n_points, config.budget.trials) if number is not None]
    return min(limits, default=None)


def _seconds_each(plan: RunPlan, known: Iterable[StoredRun]) -> tuple[float | None, str]:
    backbone = plan.backbone.name if plan.backbone else None
    alike = [
        run.manifest
        for run in known
        if (run.manifest.method, run.manifest.dataset) == (plan.asked.method, plan.dataset.name)
        and (run.manifest.backbone.name if run.manifest.backbone else None) == backbone
        and run.manifest.protocol_hash == plan.protocol.hash
    ]
    same = [one for one in alike if one.config == plan.method_config]
    chosen = same or alike
    if not chosen:
        return None, ""
    return mean(one.timings_s["total"] for one in chosen), "same settings" if same else "same method"
