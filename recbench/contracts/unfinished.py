"""Runs that a report lists but never averages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is listed but never averaged.

    Attributes:
        name: method, with its backbone.
        dataset, run_id, seed: as in its manifest.
        status: as in its manifest, or "interrupted" where no process works on it any more.
        reason: first line of its error, or "".
        limited: rows were left out: a try-out even when it is complete.
    """

    name: str
    dataset: str
    run_id: str
    seed: int
    status: str
    reason: str
    limited: bool
