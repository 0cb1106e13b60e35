"""What a raw file must hold: its fields, and what is wrong with a value, once for Python and once for SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recbench.data.sources.amazon.engine import quoted

Kind = Literal["id", "text", "number", "seconds", "milliseconds"]

# Amazon's first reviews are of 1995. In seconds all times lie below the first bound, in milliseconds above it.
_FIRST_MILLISECOND, _LAST_MILLISECOND = 10**11, 10**14
_RANGES = {"seconds": (0, _FIRST_MILLISECOND), "milliseconds": (_FIRST_MILLISECOND, _LAST_MILLISECOND)}


@dataclass(frozen=True)
class Field:
    """One field of a raw file.

    Attributes:
        key: its name there.
        column: its name in the staged table.
        kind: "id": text, not empty; "text": text, may be missing; "number": finite; "seconds", "milliseconds": whole
            numbers since 1970, in a range that tells the two apart.
    """

    key: str
    column: str
    kind: Kind

    @property
    def sql_type(self) -> str:
        """Type in which it is read. Times are read as numbers with a fraction, so that one is seen."""
        return "VARCHAR" if self.kind in ("id", "text") else "DOUBLE"

    @property
    def sql_problem(self) -> str | None:
        """Condition on the staged column that is true where its value is wrong; None: it cannot be."""
        name = f'"{self.column}"'
        if self.kind == "text":
            return None
        if self.kind == "id":
            return f"{name} IS NULL OR {name} = ''"
        if self.kind == "number":
            return f"{name} IS NULL OR NOT isfinite({name})"
        low, high = _RANGES[self.kind]
        return (
            f"{name} IS NULL OR NOT isfinite({name}) OR {name} < {low} OR {name} >= {high} OR {name} != floor({name})"
        )


def sql_columns(fields: Sequence[Field]) -> str:
    """Return the ``columns`` argument of duckdb's readers."""
    return "{" + ", ".join(f"{quoted(field.key)}: {quoted(field.sql_type)}" for field in fields) + "}"


def sql_problems(fields: Sequence[Field]) -> str:
    """Return the condition that is true for rows with any wrong value."""
    return " OR ".join(f"({field.sql_problem})" for field in fields if field.sql_problem) or "false"


def read_values(record: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """Return the values of the fields.

    Raises:
        ValueError: one is missing or wrong; says which and how.
    """
    return {field.key: _value(record.get(field.key), field) for field in fields}


def _value(value: Any, field: Field) -> Any:
    if field.kind == "text":
        return value if value is None or isinstance(value, str) else str(value)
    if value is None or value == "":
        raise ValueError(f"the field '{field.key}' is missing")
    if field.kind == "id":
        return value if isinstance(value, str) else str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"'{field.key}' is {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise ValueError(f"'{field.key}' is {value!r}, expected a finite number")
    if field.kind != "number":
        _check_time(number, field)
    return number


def _check_time(number: float, field: Field) -> None:
    low, high = _RANGES[field.kind]
    what = f"'{field.key}' is {number:.15g}, expected whole {field.kind} since 1970"
    if number < 0:
        raise ValueError(f"{what}: it is negative")
    if not low <= number < high:
        other = "milliseconds" if field.kind == "seconds" and number < _LAST_MILLISECOND else "another unit"
        raise ValueError(f"{what}: it looks like {'seconds' if number < low else other}")
    if number != math.floor(number):
        raise ValueError(f"{what}: it has a fraction")
