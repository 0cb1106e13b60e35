"""The protocol: everything that must be equal before two numbers may stand in one table."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from recbench.contracts.config import StrictModel
from recbench.contracts.hashing import hash_json

SplitStrategy = Literal["global-time", "leave-one-out", "provided"]

_Share = Annotated[int, Field(ge=0)]
_Cutoff = Annotated[int, Field(ge=1)]


class Protocol(StrictModel):
    """How a data set becomes train, validation and test rows, and how lists are measured.

    Its hash is part of every run; runs of different protocols are never compared.
    """

    version: int = Field(1, description="version of the protocol's rules")
    split: SplitStrategy = Field("global-time", description="how rows are divided")
    ratios: tuple[_Share, _Share, _Share] = Field(
        (8, 1, 1), description="train : validation : test, by rows (global-time)"
    )
    boundary: Literal["row", "time"] = Field(
        "row",
        description=(
            "global-time: 'row' cuts at exact row counts (the paper's rule; rows of one instant may fall on both "
            "sides); 'time' moves all rows of the boundary's instant to the later part"
        ),
    )
    max_history: int = Field(10, ge=1, description="items kept of each history, the most recent ones")
    mask_history: bool = Field(False, description="whether items of the history are taken out of the lists")
    depth: int = Field(50, ge=1, le=1000, description="places kept of each list (more where a tie runs on)")
    cutoffs: tuple[_Cutoff, ...] = Field(
        (1, 3, 5, 10, 20), min_length=1, description="cutoffs k of HR@k, NDCG@k and MRR@k"
    )
    tie_rule: Literal["expectation"] = Field("expectation", description="expected metric over the order of a tie")
    limit_train: int | None = Field(None, ge=1, description="users' rows kept for training, at most (try-outs only)")
    limit_test: int | None = Field(None, ge=1, description="test rows kept, drawn at random (try-outs only)")

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        if max(self.cutoffs) > self.depth:
            raise ValueError(
                f"depth {self.depth} keeps fewer places than the largest cutoff, {max(self.cutoffs)}, asks for; "
                "raise depth or leave out that cutoff"
            )
        if len(set(self.cutoffs)) < len(self.cutoffs):
            raise ValueError(f"cutoffs {list(self.cutoffs)} name a cutoff twice")
        if not self.ratios[0] or not self.ratios[2]:
            raise ValueError(f"ratios {list(self.ratios)} leave no training or no test rows; both need a share above 0")
        return self

    @cached_property
    def hash(self) -> str:
        """Hash of all fields."""
        return hash_json(self.model_dump(mode="json"))

    @property
    def limited(self) -> bool:
        """Whether rows were left out to save time; such runs are marked wherever they appear."""
        return self.limit_train is not None or self.limit_test is not None
