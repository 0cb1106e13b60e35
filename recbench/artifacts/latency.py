"""Latency measurements on disk: one JSON file for each run and setting, with the time of every single batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from recbench.artifacts.files import read_json, write_json
from recbench.artifacts.paths import LatencyPaths
from recbench.contracts.config import StrictModel, describe_problems
from recbench.contracts.errors import ArtifactError
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import BackboneSpec

log = logging.getLogger(__name__)

LATENCY_SCHEMA_VERSION = 1
_SETTING_LENGTH = 8


class BatchTimes(StrictModel):
    """What was timed in one pass over all rows."""

    call_s: tuple[float, ...] = Field(description="seconds of each batch, the whole call")
    stages_s: tuple[dict[str, float], ...] = Field(
        description="seconds of each batch in the stages that the method times itself"
    )

    cpu_s: float = Field(description="processor seconds of this process and its workers in the pass, all threads")

    @model_validator(mode="after")
    def _one_entry_per_batch(self) -> BatchTimes:
        if len(self.call_s) != len(self.stages_s):
            raise ValueError(f"{len(self.call_s)} times of calls and {len(self.stages_s)} of stages")
        return self


class MachineLoad(StrictModel):
    """What else the machine did while the clock ran."""

    load_average: float | None = Field(description="processes that ran or waited, one minute's mean, at the start")
    others: float | None = Field(description="share of all processor time that other processes used, 0 to 1")


class LatencyRecord(StrictModel):
    """One measurement of one run in one setting."""

    schema_version: int = LATENCY_SCHEMA_VERSION
    run_id: str = Field(description="run whose method, configuration, data and seed were measured")
    fit_id: str | None = Field(description="the fit; null: the method has nothing to share")
    model_from: Literal["kept", "fitted"] = Field(description="kept: the fit existed; fitted: it was made for this")
    method: str
    dataset: str
    backbone: BackboneSpec | None = None
    seed: int
    config: dict[str, Any] = Field(description="the method's resolved configuration")
    protocol_hash: str
    dataset_fingerprint: str
    split_fingerprint: str
    rows: int = Field(description="test rows asked")
    batch_size: int = Field(description="rows of one call")
    repeats: int = Field(description="passes over all rows")
    warm_up: int = Field(description="batches before them that are not timed")
    depth: int = Field(description="places asked for")
    sample: str = Field(description="hash of the rows' example ids")
    batch_rows: tuple[int, ...] = Field(description="rows of each batch")
    times: tuple[BatchTimes, ...] = Field(description="one per repeat")
    inside: dict[str, str] = Field(description="clock -> what lies inside it, in words")
    steps: float | None = Field(None, description="model steps in a row that a batch takes to write its titles")
    reasoning_tokens: float | None = Field(None, description="tokens of reasoning per request")
    dtype: str | None = Field(None, description="of the weights, where known")
    device: str
    hardware: str = Field(description="name of the processor or GPU")
    threads: int = Field(description="threads of torch")
    scratch: Literal["memory", "disk"] = Field(description="where the method's scratch folder lay")
    peak_memory_bytes: dict[str, int] = Field(description="'host' (with worker processes) and 'device'")
    peak_memory_of: Literal["ranking", "process"] = Field(description="since when the peak counts")
    load: MachineLoad
    warnings: tuple[str, ...] = Field((), description="what makes the times doubtful")
    created: str = Field(description="end of the measurement, ISO 8601, UTC")
    provenance: dict[str, Any] = Field(description="git state, packages, hardware, command")

    @model_validator(mode="after")
    def _times_fit_batches(self) -> LatencyRecord:
        if len(self.times) != self.repeats or not all(len(t.call_s) == len(self.batch_rows) for t in self.times):
            raise ValueError(f"the times are not those of {self.repeats} passes over {len(self.batch_rows)} batches")
        return self

    @property
    def setting_hash(self) -> str:
        """Hash of how it was measured: a later measurement of the run in the same setting takes its place."""
        names = ("rows", "batch_size", "repeats", "warm_up", "depth", "sample", "device", "hardware", "threads")
        return hash_json([getattr(self, name) for name in names], _SETTING_LENGTH)

    @classmethod
    def read(cls, path: Path) -> LatencyRecord:
        """Read a record.

        Raises:
            ArtifactError: missing, damaged, or written by another version.
        """
        values = read_json(path)
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != LATENCY_SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has schema_version {version!r}; this recbench reads {LATENCY_SCHEMA_VERSION}.",
                "Delete it and measure again with recbench latency.",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = " ".join(describe_problems(cls, error))
            raise ArtifactError(
                f"{path} is not a latency record: {problems}", "Delete it and measure again with recbench latency."
            ) from None


def configuration_id(run_id: str) -> str:
    """Return the id that a run shares with its repetitions by ``--again`` (``3f2a91c07b1d-2`` -> ``3f2a91c07b1d``)."""
    return run_id.partition("-")[0]


def write_latency(paths: LatencyPaths, record: LatencyRecord) -> Path:
    """Write a record atomically, in place of an earlier one in the same setting, and return its file."""
    path = paths.record(configuration_id(record.run_id), record.setting_hash)
    write_json(path, record.model_dump(mode="json"))
    return path


def read_latencies(run_folder: Path) -> list[LatencyRecord]:
    """Return the measurements of a run and its repetitions, oldest first; a damaged one is a warning in the log."""
    paths = LatencyPaths(run_folder.parent / ".latency")
    found = []
    for file in sorted(paths.folder.glob(f"{configuration_id(run_folder.name)}-*.json")):
        try:
            found.append(LatencyRecord.read(file))
        except (ArtifactError, OSError) as error:
            log.warning("A latency measurement is left out: %s", error)
    return sorted(found, key=lambda record: record.created)
