"""Importing anybody's data: which format it is, what lies beside it, and the reader for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from recbench.artifacts.files import read_json
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ArtifactError, DataError, UsageError
from recbench.data.build import Remarks
from recbench.data.folders import check_name
from recbench.data.recipes import find_recipe
from recbench.data.sources.d3_csv import find_d3_files, import_d3_csv
from recbench.data.sources.options import ABOUT, ImportOptions
from recbench.data.sources.recbole_atomic import import_recbole
from recbench.data.sources.table import import_table
from recbench.data.tables import table_suffix

Format = Literal["table", "recbole", "d3-csv"]

_READERS: dict[Format, Callable[[Sequence[Path], ImportOptions, Remarks], Dataset]] = {
    "table": import_table,
    "recbole": import_recbole,
    "d3-csv": import_d3_csv,
}


def import_dataset(paths: Sequence[Path], options: ImportOptions, file_format: Format | None = None) -> Dataset:
    """Read a data set from a user's files. Nothing is written.

    Args:
        paths: one folder, or the files themselves.
        options: settings; what is left open is guessed and said.
        file_format: how the files are laid out; None: guessed from their names and said.

    Raises:
        DataError: a file is missing or wrong.
        UsageError: the name belongs to a built-in data set, or cannot be a folder's.
    """
    check_name(options.name)
    found = find_recipe(options.name)
    if found is not None and not found[0].needs:
        raise UsageError(
            f"'{options.name}' is the name of a built-in data set.",
            f"Choose another --name, or prepare it: recbench datasets prepare {options.name} --from-dir DIR",
        )
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist.", "Check the path.")
    remarks = Remarks()
    if file_format is None:
        file_format = guess_format(paths)
        remarks.say(f"format '{file_format}' guessed from the files (--format)")
    return _READERS[file_format](paths, _with_about(paths, options, remarks), remarks)


def guess_format(paths: Sequence[Path]) -> Format:
    """Return the format that the names of the files suggest: RecBole's, that of D3/R3, else plain tables."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    if any(table_suffix(file) == ".inter" for file in files):
        return "recbole"
    try:
        find_d3_files(paths)
    except DataError:
        return "table"
    return "d3-csv"


def _read_about(path: Path) -> dict[str, Any]:
    """Return what an export said about a data set; an ``about.json`` of anything else says nothing."""
    try:
        about = read_json(path)
    except ArtifactError as error:
        raise DataError(error.message, "Mend it, or move it out of the folder.") from error
    notes = about.get("notes", []) if isinstance(about, dict) else None
    if not isinstance(notes, list) or not isinstance(about.get("noun", ""), str):
        return {}
    return dict(about)


def _with_about(paths: Sequence[Path], options: ImportOptions, remarks: Remarks) -> ImportOptions:
    """Take over noun and notes that an export left beside its files."""
    for path in paths:
        about_file = (path if path.is_dir() else path.parent) / ABOUT
        if about_file.is_file():
            about = _read_about(about_file)
            remarks.notes.extend(note for note in about.get("notes", ()) if note not in remarks.notes)
            options = replace(options, noun=options.noun or about.get("noun"))
    return options
