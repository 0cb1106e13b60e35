"""One trial of a tuning: fit on training rows, rank validation rows, measure. No test row gets here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from recbench.artifacts.files import write_text
from recbench.artifacts.manifest import utc_now
from recbench.artifacts.paths import FitPaths, TrialPaths
from recbench.artifacts.train_log import open_train_log, plain
from recbench.artifacts.trials import TrialRecord
from recbench.contracts.errors import ArtifactError, ConfigError, TrainingError, UsageError
from recbench.contracts.examples import Examples
from recbench.contracts.likelihood import LIKELIHOOD
from recbench.contracts.method import Method, RunContext
from recbench.contracts.progress import Progress
from recbench.evaluation.accuracy import metric_column, metric_names
from recbench.evaluation.evaluate import evaluate
from recbench.experiment.fit import FitPlan, Fitter, add_times
from recbench.experiment.logfile import log_file
from recbench.experiment.resources import peak_memory_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """What every trial of a tuning has to answer.

    Attributes:
        rows: validation rows.
        users: external user ids.
        depth: places of each list.
        cutoffs: of the metrics.
        metric: the one that counts: of lists, or the likelihood of the true titles, for which no list is made.
    """

    rows: Examples
    users: Sequence[str]
    depth: int
    cutoffs: Sequence[int]
    metric: str


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes:
        number: from 1.
        point: what the search proposed.
        chosen: the values it stands for.
        fit: the method configured with them.
        resolved: content of its ``config.yaml``.
        name: what it is called in records ("tuning 0123456789ab, trial 3").
    """

    number: int
    point: dict[str, Any]
    chosen: dict[str, Any]
    fit: FitPlan
    resolved: dict[str, Any]
    name: str


def run_trial(trial: Trial, questions: Questions, paths: TrialPaths, fitter: Fitter, progress: Progress) -> TrialRecord:
    """Try one configuration, going on where an interrupted attempt stopped.

    The fit is taken from the stores of ``fitter`` where they have it: trials that differ in ranking alone share one.

    A failure that is due to the tried values (training cannot go on, values that do not fit together, no memory,
    scores that are not finite) is a record with status "failed". Everything else is raised: no other trial would do
    better.

    Returns:
        The record, not yet written. The fit, if it was finished, lies in ``paths.work``, also of a failed trial.
    """
    start = time.perf_counter()
    # A folder of the method's own, so that no name it chooses can be mistaken for ours.
    work = paths.work / "method"
    work.mkdir(parents=True, exist_ok=True)
    write_text(paths.config, yaml.safe_dump(trial.resolved, sort_keys=False, allow_unicode=True))
    common: dict[str, Any] = {
        "number": trial.number, "point": trial.point, "chosen": trial.chosen, "fit_id": trial.fit.fit_id,
    }  # fmt: skip
    with log_file(paths.log, trial.fit.method), open_train_log(paths.train_log) as train_log:
        ctx = trial.fit.context(work, train_log.write, progress)
        try:
            method, fitted = fitter.obtain(trial.fit, FitPaths(paths.work), ctx, train_log, trial.name, {})
            measure = _likelihood_only if questions.metric == LIKELIHOOD else _list_metrics
            metrics = measure(method, questions, trial.fit, ctx)
        except Exception as error:
            if not _is_due_to_values(error):
                raise
            log.warning("%s failed: %s", trial.name, str(error).partition("\n")[0])
            seconds = {**ctx.timings_s, "total": time.perf_counter() - start}
            return TrialRecord(
                **common, status="failed", error=f"{type(error).__name__}: {error}", timings_s=seconds,
                finished=utc_now(),
            )  # fmt: skip
    timings = ctx.timings_s if "fit" in ctx.timings_s else add_times(fitted.timings_s, ctx.timings_s)
    return TrialRecord(
        **common,
        status="complete",
        value=metrics[questions.metric],
        metrics=metrics,
        timings_s={**timings, "total": time.perf_counter() - start},
        peak_memory_bytes=peak_memory_bytes(trial.fit.device),
        summary=plain(method.summary()),
        finished=utc_now(),
    )


def _list_metrics(method: Method, questions: Questions, fit: FitPlan, ctx: RunContext) -> dict[str, float]:
    """Return the metrics of the lists that the method makes, and the likelihood of the true titles if it has one."""
    with ctx.stage("rank"):
        rankings = method.rank(questions.rows.queries(), questions.depth, ctx)
    with _due_to_values("lists"):
        rankings.check(questions.rows.example_id, len(fit.catalog))
    table = evaluate(rankings, questions.rows, fit.catalog, questions.users, questions.cutoffs)
    metrics = {name: float(table[metric_column("item", name)].mean()) for name in metric_names(questions.cutoffs)}
    likelihood = _mean_likelihood(method, questions, ctx)
    return metrics if likelihood is None else {**metrics, LIKELIHOOD: likelihood}


def _likelihood_only(method: Method, questions: Questions, fit: FitPlan, ctx: RunContext) -> dict[str, float]:
    """Return the likelihood of the true titles; no list is made."""
    likelihood = _mean_likelihood(method, questions, ctx)
    if likelihood is None:
        raise UsageError(
            f"{fit.name} has no probabilities of these titles, so it cannot be tuned by {LIKELIHOOD}.",
            "Choose a metric of its lists in the tuning file, such as NDCG@10.",
        )
    return {LIKELIHOOD: likelihood}


def _mean_likelihood(method: Method, questions: Questions, ctx: RunContext) -> float | None:
    """Return the mean log-probability of the true titles; None where there is none."""
    likelihood = method.likelihood(questions.rows, ctx)
    if likelihood is None:
        return None
    with _due_to_values("likelihoods"):
        likelihood.check(len(questions.rows))
    return float(np.nanmean(likelihood.logprob)) if (likelihood.tokens > 0).any() else None


@contextmanager
def _due_to_values(what: str) -> Iterator[None]:
    """Inside, what cannot be used is a failure of the tried values."""
    try:
        yield
    except ArtifactError as error:
        raise TrainingError(f"The {what} cannot be used: {error.message}") from error


def _is_due_to_values(error: Exception) -> bool:
    """Tell whether other values may do better (torch's error for a full device is known by its name: no import)."""
    return isinstance(error, (TrainingError, ConfigError, MemoryError)) or type(error).__name__ == "OutOfMemoryError"
