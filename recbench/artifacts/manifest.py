"""The manifest of a run: what was run on what, with what outcome."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from recbench.artifacts.files import read_json, write_json
from recbench.contracts.config import StrictModel, describe_problems
from recbench.contracts.errors import ArtifactError
from recbench.contracts.method import BackboneSpec
from recbench.contracts.protocol import Protocol

SCHEMA_VERSION = 1

_RESTORE = "Restore it, or delete the folder and make the run again."

Status = Literal["pending", "running", "complete", "failed", "cancelled"]


def utc_now() -> str:
    """Return the present time as manifests write it: ISO 8601, UTC, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class TuningRecord(StrictModel):
    """How the settings of a run were chosen. It explains a run and is no part of its identity."""

    tune_id: str = Field(description="hash of everything that determines the sequence of trials")
    search: str = Field(description="grid, random or optuna")
    file_sha256: str = Field(description="of the file that declared the search")
    metric: str = Field(description="metric of the exact item on validation rows that the choice was made by")
    rows: int = Field(description="validation rows that every trial ranked")
    trials: int = Field(description="trials, failed ones counted")
    failed: int = Field(description="trials that failed")
    best_trial: int = Field(description="the chosen trial, from 1; the first of equals")
    best_value: float = Field(description="its metric on the validation rows")
    chosen: dict[str, Any] = Field(description="key of the method's configuration -> chosen value")
    seconds: float = Field(description="wall-clock seconds of all trials")


class RunManifest(StrictModel):
    """Everything that identifies and explains a run."""

    schema_version: int = SCHEMA_VERSION
    run_id: str = Field(description="hash of everything that determines the result")
    status: Status
    method: str
    dataset: str
    backbone: BackboneSpec | None = None
    seed: int
    config: dict[str, Any] = Field(description="the method's resolved configuration")
    protocol: Protocol
    protocol_hash: str
    dataset_fingerprint: str
    split_fingerprint: str
    split_facts: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = Field((), description="sentences that must stand under every table with this run")
    limited: bool = Field(False, description="rows were left out to save time: a try-out, not a result")
    device: str = "cpu"
    attempts: int = Field(1, description="how often the run was started, resumed attempts counted")
    created: str = Field(description="time of the first start, ISO 8601, UTC")
    finished: str | None = Field(None, description="time of completion, ISO 8601, UTC")
    timings_s: dict[str, float] = Field(default_factory=dict, description="seconds per stage of the attempts seen")
    peak_memory_bytes: dict[str, int] = Field(default_factory=dict, description="'host' and 'device', where known")
    fit_id: str | None = Field(None, description="hash of what determines the fitted model; null: it is not shared")
    fit_reused_from: str | None = Field(
        None, description="run or trial whose kept model was loaded; times and memory of the fit are then those of it"
    )
    fit_started_from: str | None = Field(
        None, description="run or trial whose kept model the fit went on from; times of the fit are with those of it"
    )
    provenance: dict[str, Any] = Field(default_factory=dict, description="git state, packages, hardware, command")
    tuning: TuningRecord | None = Field(None, description="how the settings were chosen, where they were tuned")
    files: dict[str, str] = Field(default_factory=dict, description="file name -> SHA-256, for complete runs")
    error: str | None = Field(None, description="what went wrong, for failed runs")

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> RunManifest:
        """Read a manifest.

        Raises:
            ArtifactError: missing, damaged, or written by a newer recbench.
        """
        values = read_json(path)
        if not isinstance(values, dict) or "schema_version" not in values:
            raise ArtifactError(f"{path} is not a run manifest: it lacks schema_version.", _RESTORE)
        version = values["schema_version"]
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has schema_version {version!r}; this recbench reads {SCHEMA_VERSION}.",
                "Use the recbench version that wrote it.",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = " ".join(describe_problems(cls, error))
            raise ArtifactError(f"{path} is not a run manifest: {problems}", _RESTORE) from None
