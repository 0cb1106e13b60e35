"""A split: train, validation and test rows of one data set under one protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_json


@dataclass(frozen=True)
class Split:
    """Rows for one protocol.

    Attributes:
        train, valid, test: the rows; example ids are unique over all three.
        facts: what a reader should know about the cut (boundary times, ties at the boundary, rows left out), as
            plain values for reports.
        warnings: sentences about what may make numbers misleading (the leak of leave-one-out, say).
    """

    train: Examples
    valid: Examples
    test: Examples
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all rows."""
        return hash_json([self.train.fingerprint, self.valid.fingerprint, self.test.fingerprint])
