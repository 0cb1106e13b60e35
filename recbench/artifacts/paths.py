"""Where things lie: the only place that knows the names of files and folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def home() -> Path:
    """Return the folder of all caches: ``RECBENCH_HOME`` or ``~/.cache/recbench``."""
    return Path(os.environ.get("RECBENCH_HOME") or Path.home() / ".cache" / "recbench").expanduser()


def datasets_folder() -> Path:
    """Return the folder of prepared data sets, one sub-folder each."""
    return home() / "datasets"


def downloads_folder() -> Path:
    """Return the folder of raw files of public data sets."""
    return home() / "downloads"


def scratch_folder() -> Path:
    """Return the folder of half-done preparations, which go on from there."""
    return home() / "scratch"


def locks_folder() -> Path:
    """Return the folder of lock files that lie beside nothing else."""
    return home() / "locks"


def backbones_folder() -> Path:
    """Return the folder of pretrained preset backbones, one sub-folder per content hash."""
    return home() / "backbones"


def audits_folder() -> Path:
    """Return the folder of kept audits of data sets, one file each."""
    return home() / "audits"


def safe_name(name: str) -> str:
    """Return a method or data set name as a folder name (``recbole:NARM`` -> ``recbole-NARM``)."""
    return name.replace(":", "-").replace("/", "-")


def models_folder(runs_dir: Path) -> Path:
    """Return the folder of kept models below a folder of runs, one sub-folder per fit."""
    return runs_dir / ".models"


@dataclass(frozen=True)
class FitPaths:
    """The files of one fit: in the scratch folder of the run that made it, or kept for others."""

    folder: Path

    @property
    def record(self) -> Path:
        """What was fitted by whom, and what it cost."""
        return self.folder / "fit.json"

    @property
    def model(self) -> Path:
        """What the method saved. It appears last: where it is, the fit is whole."""
        return self.folder / "model"

    @property
    def train_log(self) -> Path:
        """The lines of ``train.jsonl`` up to the end of the fit."""
        return self.folder / "train.jsonl"


@dataclass(frozen=True)
class AttemptPaths:
    """What a run and a trial of a tuning have in common: settings, logs and a place to work in."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, ready for ``recbench run --config``."""
        return self.folder / "config.yaml"

    @property
    def train_log(self) -> Path:
        """One JSON line per logged training step."""
        return self.folder / "train.jsonl"

    @property
    def log(self) -> Path:
        """The full text log."""
        return self.folder / "log.txt"

    @property
    def work(self) -> Path:
        """Scratch folder with checkpoints; gone when the run or trial has ended."""
        return self.folder / "work"


@dataclass(frozen=True)
class RunPaths(AttemptPaths):
    """The files of one run folder ``RUNS/<dataset>/<method>/<run_id>/``."""

    @classmethod
    def of(cls, runs_dir: Path, dataset: str, method: str, run_id: str) -> RunPaths:
        """Return the paths of a run."""
        return cls(runs_dir / safe_name(dataset) / safe_name(method) / run_id)

    @property
    def manifest(self) -> Path:
        """What the run is, its status and its files."""
        return self.folder / "manifest.json"

    @property
    def rankings(self) -> Path:
        """The ranked lists."""
        return self.folder / "rankings.parquet"

    @property
    def metrics(self) -> Path:
        """One row of metrics per example."""
        return self.folder / "metrics.parquet"

    @property
    def summary(self) -> Path:
        """Means over all examples and facts about the lists."""
        return self.folder / "summary.json"

    @property
    def results(self) -> tuple[Path, ...]:
        """The files that every table is made from."""
        return self.rankings, self.metrics, self.summary

    @property
    def generations(self) -> Path:
        """Raw texts of methods that write text."""
        return self.folder / "generations.jsonl"

    @property
    def likelihood(self) -> Path:
        """How likely the true titles are to a method that has probabilities of titles."""
        return self.folder / "likelihood.parquet"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.folder / ".lock"

    @property
    def fit(self) -> FitPaths:
        """The finished fit, while the run is not complete."""
        return FitPaths(self.work)


@dataclass(frozen=True)
class TrialPaths(AttemptPaths):
    """The files of one trial of a tuning."""

    @property
    def record(self) -> Path:
        """What was tried and what came of it; written last."""
        return self.folder / "trial.json"


@dataclass(frozen=True)
class TunePaths:
    """The files of one tuning ``RUNS/<dataset>/<method>/.tune/<tune_id>/``."""

    folder: Path

    @classmethod
    def of(cls, runs_dir: Path, dataset: str, method: str, tune_id: str) -> TunePaths:
        """Return the paths of a tuning."""
        return cls(runs_dir / safe_name(dataset) / safe_name(method) / ".tune" / tune_id)

    @property
    def config(self) -> Path:
        """What was searched, with every default filled in."""
        return self.folder / "tune.yaml"

    @property
    def trials(self) -> Path:
        """One JSON line per trial that has ended, in their order."""
        return self.folder / "trials.jsonl"

    @property
    def record(self) -> Path:
        """What was chosen, once the search has come to an end."""
        return self.folder / "tuning.json"

    @property
    def models(self) -> Path:
        """The models of the best and of the latest trial, until the chosen run has the best."""
        return self.folder / "models"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the tuning."""
        return self.folder / ".lock"

    def trial(self, number: int) -> TrialPaths:
        """Return the paths of one trial, numbered from 1."""
        return TrialPaths(self.folder / "trials" / f"{number:04d}")


def suite_lock(runs_dir: Path, suite: str, part: str) -> Path:
    """Return the file that the process holds which works on one part of a suite."""
    return runs_dir / ".suites" / safe_name(suite) / f"{safe_name(part)}.lock"


@dataclass(frozen=True)
class LatencyPaths:
    """Measured latencies of one method's runs on one data set, ``RUNS/<dataset>/<method>/.latency/``.

    They lie beside the run folders: a complete run is never written again, and a run need not exist to be measured.
    """

    folder: Path

    @classmethod
    def of(cls, runs_dir: Path, dataset: str, method: str) -> LatencyPaths:
        """Return the paths for the runs of a method."""
        return cls(runs_dir / safe_name(dataset) / safe_name(method) / ".latency")

    def record(self, run_id: str, setting: str) -> Path:
        """Return the file of one measurement; the setting is a hash of how it was measured."""
        return self.folder / f"{run_id}-{setting}.json"

    def fit(self, run_id: str) -> AttemptPaths:
        """Return where the model of a run is fitted that has none; gone when it is kept."""
        return AttemptPaths(self.folder / f"{run_id}.fit")

    def lock(self, run_id: str) -> Path:
        """Return the lock that is held while a run is fitted and measured."""
        return self.folder / f".{run_id}.lock"
