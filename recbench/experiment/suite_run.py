"""Run a suite: all of its runs, one after the other, going on where an interrupted attempt stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

from recbench.artifacts.files import cannot_write
from recbench.artifacts.lock import exclusive, is_held
from recbench.artifacts.models import ModelStore
from recbench.artifacts.paths import models_folder, suite_lock
from recbench.contracts.errors import RecbenchError
from recbench.contracts.progress import Progress
from recbench.experiment.config import nested
from recbench.experiment.fit import Fitter
from recbench.experiment.run import run_plan
from recbench.experiment.suite import Job
from recbench.experiment.suite_state import Planner
from recbench.experiment.tune import Tuned, tune, tuning_lock

log = logging.getLogger(__name__)

_POLL_S = 5.0

Outcome = Literal["run", "was there", "failed", "elsewhere"]


@dataclass(frozen=True)
class JobOutcome:
    """What became of one run of a suite.

    Attributes:
        job: which one.
        outcome: "run" now; "was there" already; "failed"; "elsewhere": another process works on its part of the suite.
        run_id: of the complete run.
        error: why it failed.
        exit_code: what a command that failed for this reason ends with.
    """

    job: Job
    outcome: Outcome
    run_id: str | None = None
    error: str | None = None
    exit_code: int = 0


@dataclass
class SuiteRunner:
    """Works through a suite.

    The runs of one data set, backbone and seed are one part, done by one process in order, so that entries which go on
    from the model of an entry above find it. Several processes (also on several machines with one folder of runs) may
    work on one suite at once: each takes the parts that nobody works on.

    Attributes:
        planner: of the suite.
        runs_dir: folder of all runs.
        command: the command line, for the record.
        progress: shows bars.
        poll_s: seconds between looks at a tuning that another process makes.
    """

    planner: Planner
    runs_dir: Path
    command: Sequence[str]
    progress: Progress
    poll_s: float = _POLL_S
    _tuned: dict[tuple[str, str, str | None], Tuned] = field(default_factory=dict)

    def run(self) -> list[JobOutcome]:
        """Complete all runs that no other process works on; a failed one does not keep the others from running.

        Raises:
            ConfigError: a method is not known or cannot be loaded.
        """
        jobs = self.planner.jobs()
        number = {job: place for place, job in enumerate(jobs, 1)}
        outcomes: list[JobOutcome] = []
        for (dataset, backbone, seed), part in groupby(jobs, lambda job: (job.dataset, job.backbone, job.seed)):
            mine = list(part)
            with self._part(f"{dataset} {backbone} {seed}") as free:
                for job in mine:
                    if not free:
                        outcomes.append(JobOutcome(job, "elsewhere"))
                        continue
                    log.info("[%d of %d] %s", number[job], len(jobs), job)
                    outcomes.append(self._outcome(job))
        return outcomes

    @contextmanager
    def _part(self, name: str) -> Iterator[bool]:
        """Hold a part of the suite; yields whether it could be had."""
        lock = suite_lock(self.runs_dir, self.planner.suite.declared.name, name)
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(lock.parent, error) from error
        if is_held(lock):
            log.info("Another process works on %s.", name)
            yield False
            return
        with exclusive(lock):
            yield True

    def _outcome(self, job: Job) -> JobOutcome:
        try:
            return self._complete(job)
        except RecbenchError as error:
            log.error("%s failed: %s", job, error)
            return JobOutcome(job, "failed", error=error.message, exit_code=error.exit_code)
        except Exception as error:
            log.exception("%s failed: this is a bug of recbench or of the method.", job)
            return JobOutcome(job, "failed", error=f"{type(error).__name__}: {error}", exit_code=1)

    def _complete(self, job: Job) -> JobOutcome:
        suite = self.planner.suite
        choices: dict[str, dict[str, object]] = {}
        tuned = None
        for entry in suite.tuned_for(job.entry):
            tuned = self._tune(entry, job, choices)
            choices[entry] = nested(tuned.record.chosen)
        result = run_plan(
            self.planner.plan(job, choices),
            self.runs_dir,
            keep_model=suite.entry(job.entry).keep_model,
            fitter=self._fitter,
            progress=self.progress,
            tuned=tuned,
        )
        return JobOutcome(job, "run" if result.fresh else "was there", result.run.run_id)

    def _tune(self, entry: str, job: Job, choices: dict[str, dict[str, object]]) -> Tuned:
        """Return the tuning of an entry, made now unless it was made before; wait where another process makes it."""
        key = (entry, job.dataset, job.backbone)
        if key not in self._tuned:
            plan = self.planner.tuning_plan(entry, job, choices)
            file = self.planner.suite.tune_file(entry)
            lock = tuning_lock(plan, file, self.runs_dir)
            if is_held(lock):
                log.info("Waiting for the process that tunes %s.", entry)
            while is_held(lock):
                time.sleep(self.poll_s)
            self._tuned[key] = tune(plan, file, self.runs_dir, self._fitter, self.progress)
        return self._tuned[key]

    @property
    def _fitter(self) -> Fitter:
        return Fitter([ModelStore(models_folder(self.runs_dir))], self.command)
