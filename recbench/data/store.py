"""Data sets by name. Loading one that is prepared needs none of what preparing needs (network, query engine)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from recbench.artifacts.paths import datasets_folder
from recbench.contracts.dataset import Dataset
from recbench.data.folders import RECORD, DatasetRecord, read_dataset, read_record, save_dataset, stored_records

__all__ = ["DatasetRecord", "load_dataset", "load_record", "save_dataset", "stored_records"]


def load_dataset(name: str) -> Dataset:
    """Load a prepared data set and check it.

    Args:
        name: a name (one that needs no download is prepared on first use), or the path of a prepared folder.

    Raises:
        DataError: there is none of that name (says how to get it), or its folder is damaged.
        ArtifactError: a first preparation cannot be written.
    """
    dataset = read_dataset(_find(name))
    return dataset if _is_path(name) else replace(dataset, name=name)


def load_record(name: str) -> DatasetRecord:
    """Read what is recorded of a prepared data set: its sizes, its files, and what it was made from.

    Raises:
        DataError: as for :func:`load_dataset`.
    """
    return read_record(_find(name))


def _find(name: str) -> Path:
    """Return the folder of a data set, which is prepared if that takes no download.

    Raises:
        DataError: it is not prepared, and needs a download or is not known.
    """
    if _is_path(name):
        return Path(name).expanduser()
    folder = datasets_folder() / name
    if name and folder.is_dir():
        return folder
    # Only here: what prepares data sets is slow to import, and most of the time nobody needs it.
    from recbench.data.prepare import missing, prepare
    from recbench.data.recipes import find_recipe

    found = find_recipe(name)
    if found is None or found[0].needs:
        raise missing(name)
    return prepare(name)


def _is_path(name: str) -> bool:
    return os.sep in name or name.startswith(("~", ".")) or (Path(name) / RECORD).is_file()
