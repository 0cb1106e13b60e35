"""From counts to findings: the rating, the share and the words that all checks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recbench.contracts.audit import Effect, Finding, Plain, Rating


@dataclass(frozen=True)
class Limits:
    """From where on a finding is a note, and from where on a danger.

    Attributes:
        note: the least number for a note.
        danger: the least number for a danger; None: it is never one.
        what: which number is held against them.
    """

    note: float
    danger: float | None
    what: str = "its share"

    def rate(self, number: float, count: int) -> Rating:
        """Return the rating of a finding; what was not found once is fine."""
        if not count:
            return "fine"
        if self.danger is not None and number >= self.danger:
            return "danger"
        return "note" if number >= self.note else "fine"

    @property
    def rule(self) -> str:
        """The limits in words."""
        note = "when there is one" if self.note == 0 else f"from {self.note:.4g}"
        if self.danger is None:
            return f"by {self.what}: a note {note}, never a danger"
        if self.danger == 0:
            return "a danger when there is one"
        return f"by {self.what}: a note {note}, a danger from {self.danger:.4g}"


#: One row in a thousand moves the third digit of a metric; one in twenty moves it by more than methods that are
#: published side by side differ.
ROWS = Limits(0.001, 0.05)
#: The same for numbers that are effects and not shares of rows.
EFFECT = Limits(0.001, 0.05, "its effect")
#: Answers that are known before the question: one in a hundred is too many.
LEAK = Limits(0.0, 0.01)
#: What makes a file of lists unusable wherever it occurs.
BROKEN = Limits(0.0, 0.0)


def make_finding(
    code: str,
    title: str,
    *,
    count: int,
    out_of: int,
    unit: str = "test rows",
    limits: Limits = ROWS,
    effect: Effect | str,
    short: str,
    found: str,
    advice: str,
    facts: Mapping[str, Plain] | None = None,
    examples: Sequence[Mapping[str, Plain]] = (),
    rated: float | None = None,
    blocks_import: bool = False,
) -> Finding:
    """Return a finding.

    Args:
        code, title, count, out_of, unit, short, found, advice, facts, examples, blocks_import: as in
            :class:`~recbench.contracts.audit.Finding`.
        limits: how it is rated.
        effect: its effect on the metrics, or why none can be given.
        rated: the number that ``limits`` rate; by default the share.
    """
    share = count / out_of if out_of else 0.0
    return Finding(
        code=code,
        title=title,
        count=int(count),
        out_of=int(out_of),
        share=share,
        unit=unit,
        rating=limits.rate(share if rated is None else rated, count),
        rule=limits.rule,
        effect=None if isinstance(effect, str) else effect,
        no_effect=effect if isinstance(effect, str) else "",
        short=short,
        found=found,
        advice=advice,
        facts=dict(facts or {}),
        examples=tuple(dict(example) for example in examples),
        blocks_import=blocks_import,
    )


def at_most(bound: float, says: str, ndcg: float | None = None) -> Effect:
    """Return a bound on the effect; on NDCG@10 the same as on HR@10 unless given."""
    return Effect(hr=float(bound), ndcg=float(bound if ndcg is None else ndcg), exact=False, says=says)


def exactly(hr: float, ndcg: float, says: str) -> Effect:
    """Return an effect that is known exactly."""
    return Effect(hr=float(hr), ndcg=float(ndcg), exact=True, says=says)


def change_of_rows(n_rows: int, leaving: int, joining: int) -> float:
    """Return how much a mean of values in 0..1 over ``n_rows`` can change when rows leave and others join.

    With c rows that stay the extreme cases are: all rows that leave have 1 and all others 0, which changes the mean by
    ``leaving / (c + leaving)``; or all that join have 0 and all others 1, ``joining / (c + joining)``; and the same
    with 0 and 1 exchanged. The change is linear in the values, so no other case is larger.
    """
    stay = n_rows - leaving
    return max(part / (stay + part) if part else 0.0 for part in (leaving, joining))


def percent(share: float) -> str:
    """Return a share as a percentage for sentences."""
    return f"{100 * share:.1f}%" if share >= 0.001 or share == 0 else f"{100 * share:.2g}%"


def of(count: int, out_of: int, unit: str) -> str:
    """Return "846 of 6,157 test rows (13.7%)"."""
    return f"{count:,} of {out_of:,} {unit} ({percent(count / out_of if out_of else 0.0)})"
