"""What the audit of the data found: one line for under a leaderboard, and a table of all checks."""

from __future__ import annotations

import json

from recbench.contracts.audit import RATINGS, AuditReport, Finding, Plain
from recbench.report.document import Column, Row, Section, Table

_SHOWN_DANGERS = 5
# Titles of whole paragraphs occur; JSON has them in full.
_LONGEST = 80
_EXPLANATION = (
    "HR@10 and NDCG@10: what each finding can do to these metrics at most, as absolute differences of means over all "
    "test rows and for any method; `=` marks values that are exact. What each one is a difference of, and why it "
    "holds, stands in docs/audit.md and with the details of every check."
)


def audit_headline(report: AuditReport | None, command: str) -> str:
    """Return the sentence for under a leaderboard.

    Args:
        report: the audit of its data, or None where the data are not on this machine.
        command: the command that makes the audit.
    """
    if report is None:
        return (
            "Audit: not made, because the data set is not on this machine as the runs used it. Where it is, "
            f"`{command}` shows what in the data can move these numbers."
        )
    dangers, notes = report.rated("danger"), report.rated("note")
    shown = [finding.short for finding in dangers[:_SHOWN_DANGERS]]
    if len(dangers) > _SHOWN_DANGERS:
        shown.append(f"{len(dangers) - _SHOWN_DANGERS} more")
    text = _number(len(dangers), "danger") + (f" ({'; '.join(shown)})" if shown else "")
    text += ", " + _number(len(notes), "note")
    if report.not_checked:
        text += f", {len(report.not_checked)} not checked"
    return f"Audit: {text}; `{command}`."


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def audit_section(report: AuditReport | None, command: str, full: bool = False) -> Section:
    """Return the table of all checks.

    Args:
        report: the audit, or None where there is none.
        command: the command that makes it.
        full: tell notes in sentences too, not only dangers.
    """
    headline = audit_headline(report, command)
    title = "Audit of the lists" if report and report.kind == "lists" else "Audit of the data"
    if report is None:
        return Section("audit", title, (headline,))
    told = [finding for finding in report.findings if finding.rating == "danger" or (full and finding.rating == "note")]
    notes = [
        f"**{finding.code}** ({finding.rating}): {_unmarked(f'{finding.found} {finding.advice}')}" for finding in told
    ]
    notes += [f"**{one.code}** was not checked: {one.reason}" for one in report.not_checked]
    table = Table("audit", "Checks", _COLUMNS, tuple(_row(one) for one in report.findings), tuple(notes))
    return Section("audit", title, (headline, _EXPLANATION), tables=(table,))


_COLUMNS = (
    Column("rating", "Rating", "text", f"{', '.join(RATINGS)}"),
    Column("code", "Check", "code"),
    Column("check", "Looked for"),
    Column("count", "Found", "count", "test rows unless the check says otherwise"),
    Column("share", "Share", "share"),
    Column("effect_hr", "HR@10", "metric", "largest effect on the mean over all test rows; = marks exact values"),
    Column("effect_ndcg", "NDCG@10", "metric", "largest effect on the mean over all test rows; = marks exact values"),
    Column("out_of", "Of", "count", "among how many", True),
    Column("unit", "What is counted", "text", "", True),
    Column("effect", "Effect is", "text", "at most: a bound; exactly: a value; no bound: see its reason", True),
    Column("effect_says", "The effect of", "text", "", True),
    Column("found", "In words", "text", "", True),
    Column("advice", "What to do", "text", "", True),
    Column("rule", "How it is rated", "text", "", True),
    Column("facts", "More numbers", "text", "", True),
    Column("examples", "Examples", "text", "", True),
)


def effect_word(finding: Finding) -> str:
    """Return whether the effect of a finding is a value or a bound, or that there is none."""
    if finding.effect is None:
        return "no bound"
    return "exactly" if finding.effect.exact else "at most"


def example_text(finding: Finding) -> str:
    """Return the examples of a finding on one line."""
    return "; ".join(", ".join(f"{name} {_short(value)}" for name, value in one.items()) for one in finding.examples)


def _short(value: Plain) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _values(finding: Finding) -> dict[str, object]:
    effect = finding.effect
    return {
        "rating": finding.rating,
        "code": finding.code,
        "check": finding.title + ("" if finding.unit == "test rows" else f" ({finding.unit})"),
        "count": finding.count,
        "out_of": finding.out_of,
        "unit": finding.unit,
        "share": finding.share,
        "effect": effect_word(finding),
        "effect_hr": effect.hr if effect else None,
        "effect_ndcg": effect.ndcg if effect else None,
        "effect_says": effect.says if effect else finding.no_effect,
        "found": finding.found,
        "advice": finding.advice,
        "rule": finding.rule,
        "facts": json.dumps(finding.facts, ensure_ascii=False),
        "examples": example_text(finding),
    }


def _row(finding: Finding) -> Row:
    exact = finding.effect is not None and finding.effect.exact
    return Row(
        _values(finding),
        bold=frozenset({"rating"}) if finding.rating == "danger" else frozenset(),
        marks=dict.fromkeys(("effect_hr", "effect_ndcg"), " =") if exact else None,
    )


def _unmarked(text: str) -> str:
    """Return a text whose titles cannot be taken for marks."""
    return text.replace("`", "'").replace("**", "* *")
