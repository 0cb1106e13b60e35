"""A document as the README.md of a report folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from recbench.report.document import Column, Document, Figure, Group, Row, Section, Table
from recbench.report.format import cell_text
from recbench.report.inline import render

_SPECIAL = re.compile(r"([\\`*\[\]<])")
_LEFT = ("text", "code")


def readme(document: Document, figures: str = "figures") -> str:
    """Return the text of README.md.

    Args:
        document: what to show.
        figures: folder of the figures, relative to the README.
    """
    parts = [f"# {_plain(document.title)}"]
    if document.overview:
        parts += _body(document.overview)
    parts += [f"## {_plain(document.introduction.title)}", *_body(document.introduction)]
    for group in document.groups:
        parts += [f'<a id="{group.slug}"></a>', f"## {_plain(group.title)}"]
        for section in group.sections:
            parts += [f"### {_plain(section.title)}", *_body(section, group, figures)]
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", *_body(section)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def page(section: Section) -> str:
    """Return one section, without its figures, as a page of its own."""
    return "\n\n".join(part.strip("\n") for part in (f"# {_plain(section.title)}", *_body(section))) + "\n"


def figure_file(group: Group, section: Section, figure: Figure) -> str:
    """Return the name of a figure's files, without their endings."""
    return f"{group.slug}-{section.slug}" + ("" if figure.slug == section.slug else f"-{figure.slug}")


def _body(section: Section, group: Group | None = None, figures: str = "") -> Iterator[str]:
    for warning in section.warnings:
        yield f"> **Warning.** {_sentence(warning)}"
    for paragraph in section.paragraphs:
        yield _sentence(paragraph)
    for table in section.tables:
        yield from _table(table, captioned=len(section.tables) > 1)
    if group is not None:
        for figure in section.figures:
            yield f"![{_plain(figure.alt)}]({figures}/{figure_file(group, section, figure)}.png)"
    if section.code:
        yield f"```\n{section.code.strip()}\n```"


def _table(table: Table, captioned: bool) -> Iterator[str]:
    columns = [column for column in table.columns if not column.detail]
    if captioned:
        yield f"**{_plain(table.title)}**"
    first = next((column for column in columns if column.kind in _LEFT), None)
    header = [_plain(column.title) for column in columns]
    yield markdown_table(
        header,
        [[_cell_markup(row, column, column is first) for column in columns] for row in table.rows],
        [column.kind in _LEFT for column in columns],
    )
    if table.notes:
        yield "\n".join(f"* {_sentence(note)}" for note in table.notes)


def _cell_markup(row: Row, column: Column, leads: bool) -> str:
    text = cell_text(row.values.get(column.key), column.kind)
    known = row.values.get(column.key) not in (None, "")
    text = f"`{text}`" if column.kind == "code" and known else _plain(text)
    text = f"**{text}**" if column.key in row.bold else text
    text = f"[{text}](#{row.link})" if row.link and leads else text
    return text + _plain((row.marks or {}).get(column.key, ""))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int | Sequence[bool] = 1) -> str:
    """Return a Markdown table of cells that are Markdown already.

    Args:
        header: titles of the columns.
        rows: cells.
        left: which columns are aligned left (the others right), or how many of the first ones.
    """
    flags = [column < left for column in range(len(header))] if isinstance(left, int) else left
    alignment = [":--" if flag else "--:" for flag in flags]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in [header, alignment, *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _sentence(text: str) -> str:
    return render(text, {"plain": _plain, "code": lambda piece: f"`{piece}`", "bold": lambda p: f"**{_plain(p)}**"})
