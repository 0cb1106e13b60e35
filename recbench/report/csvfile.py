"""Every table of a document as CSV, in full precision; one file for the tables with the same slugs of all groups."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from recbench.contracts.comparison import Interval
from recbench.report.document import Document, Group, Row, Section, Table
from recbench.report.format import is_missing


def csv_files(document: Document) -> dict[str, str]:
    """Return file name -> content.

    A table of section "slices" with slug "cold" is in ``slices-cold.csv``; the slug of a table that is called like its
    section is said once. The first columns name the group; ``bold`` and marks are not in the files.
    """
    lines: dict[str, list[dict[str, Any]]] = {}
    for group in document.groups:
        for section in group.sections:
            _add(lines, section, _identity(group))
    for section in (*([document.overview] if document.overview else []), *document.sections):
        _add(lines, section, {})
    return {name: _csv(rows) for name, rows in lines.items()}


def _add(lines: dict[str, list[dict[str, Any]]], section: Section, identity: Mapping[str, Any]) -> None:
    for table in section.tables:
        if table.in_csv:
            rows = lines.setdefault(f"{table_name(section, table)}.csv", [])
            rows += [{**identity, **plain_values(table, row)} for row in table.rows]


def table_name(section: Section, table: Table) -> str:
    """Return the name that a table has in files and anchors, unique within its group."""
    return section.slug if table.slug == section.slug else f"{section.slug}-{table.slug}"


def plain_values(table: Table, row: Row) -> dict[str, Any]:
    """Return the values of a row as plain numbers and texts, None where there is none; two for intervals and ranges."""
    values: dict[str, Any] = {}
    for column in table.columns:
        value = row.values.get(column.key)
        if column.kind in ("interval", "signed_interval", "change_interval"):
            ends = (value.low, value.high) if isinstance(value, Interval) and not is_missing(value) else (None, None)
            values[f"{column.key}_low"], values[f"{column.key}_high"] = ends
        elif column.kind == "range":
            values[f"{column.key}_first"], values[f"{column.key}_last"] = value or (None, None)
        else:
            values[column.key] = None if is_missing(value) else value
    return values


def _identity(group: Group) -> dict[str, Any]:
    plain = {key: value for key, value in group.facts.items() if isinstance(value, (str, int, float, type(None)))}
    return {"group": group.slug, **plain, "limited": group.limited}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    header: Iterable[str] = dict.fromkeys(key for row in rows for key in row)
    stream = StringIO()
    writer = csv.DictWriter(stream, list(header), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
