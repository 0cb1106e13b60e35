"""A suite: a named set of methods x data sets x backbones x seeds, written down before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from recbench.contracts.config import StrictModel, build_config
from recbench.contracts.errors import ConfigError, UsageError, did_you_mean
from recbench.experiment.config import DEFAULT_SEED, ExperimentConfig, merge, nested, read_config_file, read_yaml


class SuiteEntry(StrictModel):
    """One method of a suite with its settings. Paths are relative to the suite's file."""

    name: str = Field(min_length=1, description="what the entry is called in this suite")
    method: str | None = Field(None, description="name of a method; unset: that of 'file' or 'like'")
    file: Path | None = Field(None, description="settings to start from, as for recbench run --config")
    like: str | None = Field(None, description="an entry above: its settings, what was chosen for it included")
    config: dict[str, Any] = Field(default_factory=dict, description="settings on top, nested or as a.b: value")
    tune: Path | None = Field(
        None,
        description="search as for recbench run --tune, made once per data set and backbone, on the first seed; all "
        "seeds run with what it chose",
    )
    keep_model: bool = Field(False, description="keep fitted models for entries that go on from them or only decode")
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="seeds of this entry; unset: the suite's")


class SuiteData(StrictModel):
    """What a suite does with one data set."""

    protocol: dict[str, Any] = Field(default_factory=dict, description="fields of the protocol, on top of the suite's")


def _by_name(value: Any) -> Any:
    """Read a list of names as names without settings."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {name: {} for name in value}
    return {name: below or {} for name, below in value.items()} if isinstance(value, Mapping) else value


class SuiteFile(StrictModel):
    """A suite as its YAML file says it."""

    name: str = Field(min_length=1, description="name of the suite, as its file is called")
    why: str = Field("", description="what it is to show, in a sentence")
    datasets: Annotated[dict[str, SuiteData], BeforeValidator(_by_name)] = Field(
        min_length=1, description="data sets, as a list of names or with settings below each"
    )
    backbones: tuple[str, ...] = Field(("auto",), min_length=1, description="for methods that use a language model")
    seeds: tuple[int, ...] = Field((DEFAULT_SEED,), min_length=1, description="seeds of every entry")
    protocol: dict[str, Any] = Field(default_factory=dict, description="fields of the protocol that are not defaults")
    entries: tuple[SuiteEntry, ...] = Field(min_length=1, description="methods with their settings, in this order")

    @model_validator(mode="after")
    def _names_fit(self) -> SuiteFile:
        above: list[str] = []
        for entry in self.entries:
            if entry.name in above:
                raise ValueError(f"entries: there are two called '{entry.name}'")
            if entry.like is not None and entry.like not in above:
                raise ValueError(
                    f"entries: '{entry.name}' is like '{entry.like}', which is no entry above it."
                    f"{did_you_mean(entry.like, above)}"
                )
            if entry.like is not None and entry.file is not None:
                raise ValueError(f"entries: '{entry.name}' starts from both 'file' and 'like'; give one")
            above.append(entry.name)
        for what, values in (("seeds", self.seeds), ("backbones", self.backbones)):
            if len(set(values)) < len(values):
                raise ValueError(f"{what}: one is named twice")
        return self


@dataclass(frozen=True)
class Job:
    """One run of a suite.

    Attributes:
        entry: name of the entry.
        dataset: name of the data set.
        backbone: language model as the suite names it; None for methods without one.
        seed: its seed.
    """

    entry: str
    dataset: str
    backbone: str | None
    seed: int

    def __str__(self) -> str:
        backbone = f" ({self.backbone})" if self.backbone else ""
        return f"{self.entry}{backbone} on {self.dataset}, seed {self.seed}"


Choices = Mapping[str, Mapping[str, Any]]
"""Entry -> what its tuning chose (nested values of the configuration), on one data set with one backbone."""


@dataclass(frozen=True)
class Suite:
    """A suite with the files it names.

    Attributes:
        declared: what its file says.
        folder: where the file lies, and the files it names beside it.
        starts: entry -> content of its ``file``.
    """

    declared: SuiteFile
    folder: Path
    starts: Mapping[str, Mapping[str, Any]]

    @property
    def first_seed(self) -> int:
        """The seed that tuning is done with."""
        return self.declared.seeds[0]

    def entry(self, name: str) -> SuiteEntry:
        """Return the entry of a name."""
        return next(entry for entry in self.declared.entries if entry.name == name)

    def lineage(self, name: str) -> list[SuiteEntry]:
        """Return an entry behind those that it is like, the first ancestor first."""
        entry = self.entry(name)
        return [*(self.lineage(entry.like) if entry.like else []), entry]

    def tuned_for(self, name: str) -> list[str]:
        """Return the entries whose tuning an entry's settings depend on, in the order in which they are tuned."""
        return [entry.name for entry in self.lineage(name) if entry.tune]

    def tune_file(self, name: str) -> Path:
        """Return the file with an entry's search."""
        tune = self.entry(name).tune
        if tune is None:
            raise ValueError(f"The entry '{name}' is not tuned.")
        return self.folder / tune

    def method_of(self, name: str) -> str:
        """Return the name of an entry's method."""
        return str(self._settings(name, {})["method"])

    def asked(self, job: Job, choices: Choices) -> ExperimentConfig:
        """Return the run that a job asks for.

        An entry's settings: those of the entry it is like, then its own, then what its own tuning chose.

        Args:
            job: the run.
            choices: what was chosen so far; an entry that is missing has not been tuned, or is about to be.
        """
        protocol = merge(self.declared.protocol, self.declared.datasets[job.dataset].protocol)
        settings = self._settings(job.entry, choices)
        values = {
            "method": settings["method"],
            "dataset": job.dataset,
            "seed": job.seed,
            "protocol": merge(settings.get("protocol", {}), protocol),
            "config": settings.get("config", {}),
        }
        if job.backbone is not None:
            values["backbone"] = job.backbone
        return build_config(ExperimentConfig, values, f"the entry '{job.entry}'")

    def _settings(self, name: str, choices: Choices) -> dict[str, Any]:
        entry = self.entry(name)
        settings = self._settings(entry.like, choices) if entry.like else dict(self.starts.get(name, {}))
        if entry.method is not None:
            settings["method"] = entry.method
        for values in (nested(entry.config), choices.get(name, {})):
            settings = merge(settings, {"config": values})
        return settings

    def jobs(self, uses_backbone: Mapping[str, bool]) -> Iterator[Job]:
        """Yield all runs: data set by data set, backbone by backbone, seed by seed, entries in their order.

        Args:
            uses_backbone: method -> whether it builds on a language model. Others run once, before the first backbone.
        """
        for dataset in self.declared.datasets:
            for backbone in (None, *self.declared.backbones):
                for seed in self._all_seeds:
                    for entry in self.declared.entries:
                        fits = uses_backbone[self.method_of(entry.name)] == (backbone is not None)
                        if fits and seed in (entry.seeds or self.declared.seeds):
                            yield Job(entry.name, dataset, backbone, seed)

    @property
    def _all_seeds(self) -> list[int]:
        own = (seed for entry in self.declared.entries for seed in entry.seeds or ())
        return list(dict.fromkeys([*self.declared.seeds, *own]))


def read_suite(path: Path) -> Suite:
    """Read a suite and the files of settings that it names.

    Raises:
        ConfigError: a file cannot be read, or names every wrong key and value.
    """
    declared = build_config(SuiteFile, read_yaml(path, SuiteFile), f"the suite ({path})")
    starts = {entry.name: read_config_file(path.parent / entry.file) for entry in declared.entries if entry.file}
    suite = Suite(declared, path.parent, starts)
    for entry in declared.entries:
        if suite._settings(entry.name, {}).get("method") is None:
            raise ConfigError(
                f"The entry '{entry.name}' of the suite {path} has no method.", "Give it method:, or a file: with one."
            )
        if entry.tune and not suite.tune_file(entry.name).is_file():
            raise ConfigError(
                f"The entry '{entry.name}' of the suite {path} is tuned by {suite.tune_file(entry.name)}, which does "
                "not exist.",
                "Paths in a suite are relative to its file.",
            )
    return suite


def find_suite(name: str, folder: Path) -> Path:
    """Return the file of a suite: ``name`` itself if it is a file, else ``folder/name.yaml``.

    Raises:
        UsageError: there is none.
    """
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = [path.stem for path in suite_files(folder)]
    raise UsageError(
        f"There is no suite '{name}' in {folder}.{did_you_mean(name, known)} There: {', '.join(known) or 'none'}.",
        "Give the name of one, or the path of its file; 'recbench suite list' shows them.",
    )


def suite_files(folder: Path) -> list[Path]:
    """Return the files of the suites in a folder, by name."""
    return sorted(folder.glob("*.yaml"))
