"""A document as one HTML page without any external request: style, script and figures are inside."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from recbench.contracts.comparison import Interval
from recbench.report.csvfile import table_name
from recbench.report.document import Column, Document, Figure, Row, Section, Table
from recbench.report.figures import COLOURS, GREY, GRID, INK, PAPER, Drawn
from recbench.report.format import cell_text, is_missing
from recbench.report.inline import render

_TEMPLATES = Path(__file__).parent / "templates"
_LEFT = ("text", "code")
# Longer texts are wrapped, where a cell is otherwise one line.
_LONG = 44
_ROWS_TO_FILTER = 12
_THEMED = {INK: "currentColor", GREY: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"} | {
    colour.lower(): f"var(--colour-{number})" for number, colour in enumerate(COLOURS)
}

Show = Callable[[Figure], Markup]


def index_html(document: Document, draw: Callable[[Figure], Drawn]) -> str:
    """Return the page.

    Args:
        document: what to show.
        draw: gives a figure as SVG.
    """
    numbers = count(1)

    def show(figure: Figure) -> Markup:
        return themed_svg(draw(figure).svg, f"f{next(numbers)}", figure.alt)

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    groups = [
        {
            "id": f"g-{group.slug}",
            "title": group.title,
            "limited": group.limited,
            "sections": [_section(section, f"g-{group.slug}-{section.slug}", show) for section in group.sections],
        }
        for group in document.groups
    ]
    n = len(groups)
    # Both are our own files and not data, so they are put in as they are.
    css, script = (Markup((_TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.j2").render(
        title=document.title,
        version=document.version,
        count=f"{n} leaderboard{'' if n == 1 else 's'}" if n else "no complete run yet",
        overview=_section(document.overview, "overview", show) if document.overview else None,
        introduction=_section(document.introduction, "introduction", show),
        groups=groups,
        sections=[_section(section, f"s-{section.slug}", show) for section in document.sections],
        css=css,
        script=script,
    )
    # Indents of the template, which would be a third of a page with many tables.
    return re.sub(r"\n\s+<", "\n<", page)


def _section(section: Section, anchor: str, show: Show) -> dict[str, Any]:
    return {
        "id": anchor,
        "title": section.title,
        "warnings": [_sentence(text) for text in section.warnings],
        "paragraphs": [_sentence(text) for text in section.paragraphs],
        "tables": [_table(table, f"{anchor}-t-{table_name(section, table)}", show) for table in section.tables],
        "figures": [{"title": figure.title, "svg": show(figure)} for figure in section.figures],
        "code": section.code.strip(),
    }


@dataclass(frozen=True)
class _Cell:
    text: str
    sort: str | None
    classes: str
    bold: bool
    code: bool
    mark: str
    header: bool
    panel: str
    link: str


@dataclass
class _TableView:
    id: str
    title: str
    headline: bool
    filterable: bool
    has_more: bool
    columns: list[dict[str, str]]
    notes: list[Markup]
    rows: list[list[_Cell]] = field(default_factory=list)
    panels: list[dict[str, Any]] = field(default_factory=list)


def _table(table: Table, anchor: str, show: Show) -> _TableView:
    header = next((column.key for column in table.columns if column.kind in _LEFT), None)
    view = _TableView(
        id=anchor,
        title=table.title,
        headline=table.headline,
        filterable=table.searched or len(table.rows) >= _ROWS_TO_FILTER,
        has_more=any(column.detail for column in table.columns),
        columns=[
            {"title": column.title, "help": _plain(column.help), "classes": _classes(table, column, header)}
            for column in table.columns
        ],
        notes=[_sentence(note) for note in table.notes],
    )
    for number, row in enumerate(table.rows):
        panel = f"{anchor}-p{number}" if row.details else ""
        view.rows.append([_cell(table, row, column, header, panel) for column in table.columns])
        if row.details:
            view.panels.append({"id": panel, "section": _section(row.details, panel, show)})
    return view


def _classes(table: Table, column: Column, header: str | None) -> str:
    names = ["number"] if column.kind not in _LEFT else []
    names += ["header"] if column.key == header else []
    names += ["more"] if column.detail else []
    names += ["marked"] if any((row.marks or {}).get(column.key) for row in table.rows) else []
    return " ".join(names)


def _cell(table: Table, row: Row, column: Column, header: str | None, panel: str) -> _Cell:
    value = row.values.get(column.key)
    text = cell_text(value, column.kind)
    is_header = column.key == header
    long = " long" if column.kind in _LEFT and len(text) > _LONG else ""
    return _Cell(
        text=text,
        sort=_sort_value(value, column),
        classes=(_classes(table, column, header) + long).strip(),
        bold=column.key in row.bold,
        code=column.kind == "code" and not is_missing(value),
        mark=(row.marks or {}).get(column.key, ""),
        header=is_header,
        panel=panel if is_header else "",
        link=f"g-{row.link}" if is_header and row.link else "",
    )


def _sort_value(value: Any, column: Column) -> str | None:
    """Return what a cell is sorted by, in full precision; None where it has no value."""
    if is_missing(value):
        return None
    if isinstance(value, Interval):
        value = (value.low + value.high) / 2
    if isinstance(value, tuple):
        value = value[0] + value[1] / 1e6
    if column.kind in _LEFT:
        return str(value)
    return repr(float(value)) if isfinite(value) else None


def _plain(text: str) -> str:
    return render(text, {"plain": str, "code": str, "bold": str})


def _sentence(text: str) -> Markup:
    return Markup(
        render(
            text,
            {
                "plain": lambda piece: str(escape(piece)),
                "code": lambda piece: f"<code>{escape(piece)}</code>",
                "bold": lambda piece: f"<strong>{escape(piece)}</strong>",
            },
        )
    )


def themed_svg(svg: str, name: str, alt: str) -> Markup:
    """Return a figure for the page: in the page's colours, with ids of its own, described for who cannot see it.

    Args:
        svg: as matplotlib writes it; the texts inside are escaped by it.
        name: unique within the page.
        alt: description.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    # Ids are unique within one figure only.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    opening, rest = svg.split(">", 1)
    return Markup(f"{_svg_tag(opening, alt)}>{rest}")


def _svg_tag(opening: str, alt: str) -> str:
    """Return the first tag without a fixed size: the page decides, the shape stays, no figure grows beyond its own."""
    width = re.search(r'\bwidth="([\d.]+)pt"', opening)
    most = f' style="max-width: {float(width.group(1)) * 1.5:.0f}px"' if width else ""
    view_box = re.search(r'viewBox="[^"]+"', opening)
    if view_box is None:
        raise ValueError(f"a figure without viewBox: {opening}")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view_box.group()} role="img" aria-label="{escape(alt)}"{most}'
