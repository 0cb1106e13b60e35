"""RecBole's atomic files: ``X.inter`` and ``X.item``, tab-separated, with typed headers such as ``user_id:token``.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.build import Remarks
from recbench.data.columns import guess_column
from recbench.data.sources.options import ImportOptions
from recbench.data.sources.table import dataset_from_tables
from recbench.data.tables import TableFile, open_table, table_suffix


def import_recbole(paths: Sequence[Path], options: ImportOptions, remarks: Remarks) -> Dataset:
    """Import a folder with one ``.inter`` and at most one ``.item`` file, or these files themselves.

    Raises:
        DataError: there is not exactly one ``.inter`` file, or one of the files is wrong.
    """
    inter, item = find_atomic_files(paths)
    events = open_table(inter, options.encoding)
    refuse_benchmark_file(events)
    items = open_table(item, options.encoding) if item else None
    return dataset_from_tables(events, items, options, remarks, source=f"RecBole atomic files {inter.name}")


def find_atomic_files(paths: Sequence[Path]) -> tuple[Path, Path | None]:
    """Return the ``.inter`` file and the ``.item`` file (None where there is none).

    Raises:
        DataError: there is none, or there are several to choose from.
    """
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    inter = [file for file in files if table_suffix(file) == ".inter"]
    item = [file for file in files if table_suffix(file) == ".item"]
    if len(inter) != 1 or len(item) > 1:
        found = ", ".join(file.name for file in [*inter, *item]) or "none of them"
        raise DataError(
            f"Expected one .inter file and at most one .item file in {', '.join(map(str, paths))}, found {found}.",
            "Give the two files themselves: recbench datasets import X.inter X.item --name NAME",
        )
    return inter[0], item[0] if item else None


def refuse_benchmark_file(events: TableFile) -> None:
    """Refuse files whose rows are ready-made examples (``item_id_list``), not events.

    Raises:
        DataError: the file is of that kind.
    """
    if guess_column(events, "items") and guess_column(events, "item"):
        raise DataError(
            f"{events.path} holds ready-made examples (a history per row), not events.",
            "Import the .inter file from which it was made.",
        )
