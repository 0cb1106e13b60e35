"""Numbers as text. The only place where results are rounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import Any

from recbench.contracts.comparison import Interval
from recbench.report.document import Kind

MISSING = "–"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def metric_text(value: float) -> str:
    """Return a metric with four places."""
    return f"{value:.4f}"


def interval_text(interval: Interval) -> str:
    """Return "0.0123 to 0.0456"."""
    return f"{interval.low:.4f} to {interval.high:.4f}"


def signed_interval_text(interval: Interval) -> str:
    """Return "-0.0123 to +0.0045"."""
    return f"{interval.low:+.4f} to {interval.high:+.4f}"


def p_text(p: float | None) -> str:
    """Return a p-value with four places, as fine as 10,000 flips can tell, or "<0.0001"."""
    if p is None:
        return MISSING
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def effect_text(effect: float | None) -> str:
    """Return an effect size with two places and its sign."""
    return MISSING if effect is None else f"{effect:+.2f}"


def share_text(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.1f}%"


def seconds_text(seconds: float | None) -> str:
    """Return a duration in the unit that suits it: "<0.01 s", "0.42 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return MISSING
    if seconds < 0.005:
        return "<0.01 s"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(size: float) -> str:
    """Return a size in the unit that suits it: "512 B", "1.4 GiB"."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def number_text(value: float) -> str:
    """Return a number with three significant digits and thousands separators: "0.0123", "4.57", "12,346"."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def range_text(value: tuple[int, int]) -> str:
    """Return "2", or "2–4"."""
    first, last = value
    return str(first) if first == last else f"{first}–{last}"


_TEXT: Mapping[Kind, Callable[[Any], str]] = {
    "text": str,
    "code": str,
    "metric": metric_text,
    "signed": lambda value: f"{value:+.4f}",
    "interval": interval_text,
    "signed_interval": signed_interval_text,
    "change_interval": lambda value: f"{100 * value.low:+.1f}% to {100 * value.high:+.1f}%",
    "share": share_text,
    "change": lambda value: f"{100 * value:+.1f}%",
    "p": p_text,
    "effect": effect_text,
    "seconds": seconds_text,
    "bytes": bytes_text,
    "count": lambda value: f"{value:,}",
    "range": range_text,
    "number": number_text,
}


def is_missing(value: Any) -> bool:
    """Say whether a cell has no value: None, NaN, an interval of NaN, or an empty text."""
    if isinstance(value, Interval):
        return isnan(value.low) or isnan(value.high)
    return value is None or value == "" or (isinstance(value, float) and isnan(value))


def cell_text(value: Any, kind: Kind) -> str:
    """Return the value of a cell as text, or a dash where there is none."""
    return MISSING if is_missing(value) else _TEXT[kind](value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first ``left`` columns are aligned left, the others right."""
    alignment = [":--" if column < left else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in [header, alignment, *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def slug(text: str) -> str:
    """Return a text as part of a file name: letters, digits, dots, dashes and underscores only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "group"
