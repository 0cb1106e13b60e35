"""A document as JSON, in full precision: what scripts read, and what marks a folder as a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from recbench.report.csvfile import plain_values
from recbench.report.document import Document, Section


def json_document(document: Document, files: Sequence[str]) -> dict[str, Any]:
    """Return a document as plain values.

    Args:
        document: what to show.
        files: paths of the files that were made, relative to the report folder.

    Returns:
        ``groups``, each with its facts and ``sections`` by slug, with their ``tables`` by slug as lists of rows;
        ``sections`` that belong to no group; ``inputs``; ``files``.
    """
    return {
        "recbench": document.version,
        "title": document.title,
        "overview": _section(document.overview)["tables"] if document.overview else {},
        "groups": [
            {
                "slug": group.slug,
                "title": group.title,
                "limited": group.limited,
                **group.facts,
                "sections": {section.slug: _section(section) for section in group.sections},
            }
            for group in document.groups
        ],
        "sections": {section.slug: _section(section) for section in document.sections},
        "inputs": dict(document.inputs),
        "files": list(files),
    }


def json_text(record: dict[str, Any]) -> str:
    """Return the text of report.json. NaN is refused: JSON has no word for it."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "warnings": list(section.warnings),
        "tables": {table.slug: [plain_values(table, row) for row in table.rows] for table in section.tables},
        "notes": [note for table in section.tables for note in table.notes],
    }
