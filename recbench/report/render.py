"""A document -> a folder: every format asked for, its figures, and report.json for machines."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbench.artifacts.files import cannot_write, read_json
from recbench.contracts.errors import UsageError, did_you_mean
from recbench.report.csvfile import csv_files
from recbench.report.document import Document, Figure
from recbench.report.drawing import draw_all
from recbench.report.figures import Drawn
from recbench.report.html import index_html
from recbench.report.jsonfile import json_document, json_text
from recbench.report.latex import latex_files
from recbench.report.markdown import figure_file, readme

MARKER = "report.json"
_FIGURES = "figures"


class FigureStore:
    """The figures of a document, all drawn when the first format asks for one.

    Args:
        document: the report.
    """

    def __init__(self, document: Document) -> None:
        sections = [section for group in document.groups for section in group.sections]
        self._figures = [figure for section in [*sections, *document.sections] for figure in section.figures]
        self._drawn: dict[int, Drawn] = {}

    def get(self, figure: Figure) -> Drawn:
        """Return a figure as PNG and SVG."""
        if not self._drawn:
            drawn = draw_all([figure.draw for figure in self._figures])
            self._drawn = {id(figure): one for figure, one in zip(self._figures, drawn, strict=True)}
        return self._drawn[id(figure)]


Files = Mapping[str, bytes]
"""Path relative to the report folder -> content."""


def _markdown(document: Document, figures: FigureStore) -> Files:
    return {"README.md": readme(document, _FIGURES).encode(), **dict(_figure_files(document, figures))}


def _html(document: Document, figures: FigureStore) -> Files:
    return {"index.html": index_html(document, figures.get).encode()}


def _latex(document: Document, figures: FigureStore) -> Files:
    tables = {f"latex/{name}": text.encode() for name, text in latex_files(document, f"../{_FIGURES}").items()}
    return {**tables, **dict(_figure_files(document, figures))}


def _csv(document: Document, figures: FigureStore) -> Files:
    return {f"csv/{name}": text.encode() for name, text in csv_files(document).items()}


FORMATS: Mapping[str, Callable[[Document, FigureStore], Files]] = {
    "md": _markdown,
    "html": _html,
    "latex": _latex,
    "csv": _csv,
}
"""Name of a format -> what makes its files. They write nothing, so a fault leaves an earlier report as it was."""


def _figure_files(document: Document, figures: FigureStore) -> Iterator[tuple[str, bytes]]:
    for group in document.groups:
        for section in group.sections:
            for figure in section.figures:
                drawn = figures.get(figure)
                name = f"{_FIGURES}/{figure_file(group, section, figure)}"
                yield f"{name}.png", drawn.png
                yield f"{name}.svg", drawn.svg.encode()


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats of a comma-separated list.

    Raises:
        UsageError: a format that is not known, or none at all.
    """
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in chosen:
        if name not in FORMATS:
            raise UsageError(
                f"The report format '{name}' does not exist.{did_you_mean(name, FORMATS)}",
                f"Known: {', '.join(FORMATS)}. Give one or more of them, separated by commas.",
            )
    if not chosen:
        raise UsageError("No report format is given.", f"Known: {', '.join(FORMATS)}.")
    return chosen


def check_target(folder: Path) -> None:
    """Check that a report may be written to ``folder``: it is new, empty, or holds an earlier report.

    Raises:
        UsageError: it holds something else, which would be mixed up or overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Give a folder as --out.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(
            f"{folder} is not empty and holds no earlier report, so nothing was written.",
            "Give a new folder as --out.",
        )


def write_report(document: Document, folder: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Write a report; files of an earlier report in the same folder that are no longer made are removed at the end.

    Args:
        document: what to show.
        folder: where to.
        formats: some of :data:`FORMATS`.

    Returns:
        The content of ``report.json``: groups with all tables, inputs, and the files written.

    Raises:
        UsageError: the folder holds something else than a report.
        ArtifactError: a file cannot be written; an earlier report is as it was.
    """
    check_target(folder)
    figures = FigureStore(document)
    files = {name: text.encode() for name, text in document.attachments.items()}
    files |= {name: content for format in formats for name, content in FORMATS[format](document, figures).items()}
    record = json_document(document, sorted(files))
    earlier = read_json(folder / MARKER).get("files", []) if (folder / MARKER).is_file() else []
    _write_all(folder, {**files, MARKER: json_text(record).encode()})
    for name in sorted(set(earlier) - set(files)):
        _remove(folder, name)
    return record


def _write_all(folder: Path, files: Files) -> None:
    """Write all files or none: first under other names, and when all are on disk each gets its own name."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".report.", suffix=".tmp", dir=folder))
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        for name, content in files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(folder / name)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _remove(folder: Path, name: str) -> None:
    """Remove one file of an earlier report, and its folder if that is empty now; nothing outside the report."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return
    path.unlink(missing_ok=True)
    if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
