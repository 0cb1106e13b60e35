"""What an audit of a data set, or of ranked lists, has found: what `audit` prints, keeps and hands to reports.

Nothing is rounded but in the sentences.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recbench.contracts.config import StrictModel

#: Raised whenever a check, a threshold or a sentence changes: kept audits of older versions are then made anew.
AUDIT_VERSION = 3

#: Effects are told for HR and NDCG at this cutoff.
EFFECT_CUTOFF = 10

Rating = Literal["fine", "note", "danger"]
RATINGS: tuple[Rating, ...] = ("danger", "note", "fine")

Plain = int | float | str | None


class Effect(StrictModel):
    """What a finding can do to the means of HR@10 and NDCG@10 over the test rows, as absolute differences."""

    hr: float = Field(ge=0, description="on HR@10")
    ndcg: float = Field(ge=0, description="on NDCG@10")
    exact: bool = Field(description="true: it is exactly this; false: it is this at most")
    says: str = Field(description="the difference between what and what, and for which methods it holds")


class Finding(StrictModel):
    """One check and its outcome."""

    code: str = Field(description="stable name of the check: titles-shared")
    title: str = Field(description="what was looked for, short")
    count: int = Field(ge=0, description="how many were found")
    out_of: int = Field(ge=0, description="among how many")
    share: float = Field(ge=0, le=1, description="count / out_of; 0 where out_of is 0")
    unit: str = Field(description="what is counted: test rows, events, lists, lines")
    rating: Rating
    rule: str = Field(description="how the rating follows from the numbers")
    effect: Effect | None = Field(None, description="null: no bound can be given, see no_effect")
    no_effect: str = Field("", description="why there is no bound; empty where there is one")
    short: str = Field(description="the finding in one clause, for the line under a leaderboard")
    found: str = Field(description="the finding in sentences")
    advice: str = Field(description="what to do about it")
    facts: dict[str, Plain] = Field(default_factory=dict, description="more numbers, by name")
    examples: tuple[dict[str, Plain], ...] = Field((), description="up to five cases, with their ids")
    blocks_import: bool = Field(False, description="lists with this fault cannot become a run")


class NotChecked(StrictModel):
    """A check that could not be made."""

    code: str
    title: str
    reason: str


class AuditReport(StrictModel):
    """All findings about one data set under one protocol, or about one set of lists."""

    version: int = AUDIT_VERSION
    kind: Literal["data", "lists"] = Field(description="whether a data set or ranked lists were audited")
    dataset: str = Field(description="name of the data set")
    source: str = Field("", description="lists: the file or the run they come from")
    command: str = Field("", description="the command that prints this audit")
    dataset_fingerprint: str
    split_fingerprint: str
    protocol_hash: str
    strategy: str = Field(description="how the rows are divided")
    limited: bool = Field(False, description="rows were left out to save time: a try-out")
    n_train: int
    n_valid: int
    n_test: int
    n_users: int = Field(description="users of the test rows")
    findings: tuple[Finding, ...] = Field(description="dangers first, then notes; the largest effect first")
    not_checked: tuple[NotChecked, ...] = ()

    def rated(self, rating: Rating) -> tuple[Finding, ...]:
        """Return the findings of one rating."""
        return tuple(finding for finding in self.findings if finding.rating == rating)

    @property
    def blocks_import(self) -> bool:
        """Whether something was found for which lists cannot become a run."""
        return any(finding.blocks_import and finding.count for finding in self.findings)
