"""``trial.json``: what one trial of a tuning tried, and what came of it on validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from recbench.artifacts.files import read_json, write_json
from recbench.contracts.config import StrictModel, describe_problems
from recbench.contracts.errors import ArtifactError


class TrialRecord(StrictModel):
    """One trial that has ended."""

    number: int = Field(description="from 1, in the order of the search")
    status: Literal["complete", "failed"]
    point: dict[str, Any] = Field(description="key -> index of the choice, or number: what the search proposed")
    chosen: dict[str, Any] = Field(description="key of the method's configuration -> value")
    value: float | None = Field(None, description="the metric that the tuning goes by; null: failed")
    metrics: dict[str, float] = Field(
        default_factory=dict, description="metrics of the exact item and LL, validation rows"
    )
    fit_id: str | None = Field(None, description="the fit, as in the manifest of a run")
    timings_s: dict[str, float] = Field(default_factory=dict, description="seconds per stage")
    peak_memory_bytes: dict[str, int] = Field(default_factory=dict, description="'host' and 'device', where known")
    summary: dict[str, Any] = Field(default_factory=dict, description="what the method says about its fit and lists")
    error: str | None = Field(None, description="why it failed")
    repeats: int | None = Field(None, description="earlier trial with the same values, whose outcome this is")
    finished: str = Field(description="end of the trial, ISO 8601, UTC")

    @classmethod
    def read(cls, path: Path) -> TrialRecord:
        """Read a record.

        Raises:
            ArtifactError: missing or damaged.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            problems = " ".join(describe_problems(cls, error))
            raise ArtifactError(
                f"{path} is not the record of a trial: {problems}", "Delete it: the trial is then made again."
            ) from None

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_json(path, self.model_dump(mode="json"))
