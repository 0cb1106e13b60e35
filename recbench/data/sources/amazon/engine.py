"""A duckdb connection with bounded memory that spills to a scratch folder, and its errors in our words."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from recbench.artifacts.files import cannot_write
from recbench.contracts.errors import ArtifactError


@dataclass(frozen=True)
class Resources:
    """What a preparation may use.

    Attributes:
        memory_bytes: memory of the engine; what does not fit goes to the scratch folder. Arrays of the events that
            may matter come on top (about 60 bytes each).
        threads: of the engine; None: all cores.
    """

    memory_bytes: int = 2 << 30
    threads: int | None = None


@contextmanager
def open_engine(scratch: Path, resources: Resources) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection of its own; its temporary files are gone when the block ends.

    Raises:
        ArtifactError: memory or disk is full, or the scratch folder cannot be written.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        spill = Path(tempfile.mkdtemp(prefix=".spill.", dir=scratch))
    except OSError as error:
        raise cannot_write(scratch, error) from error
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{resources.memory_bytes}B",
        "temp_directory": str(spill),
        "preserve_insertion_order": True,
        # Everything needed is built in: nothing is ever fetched.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if resources.threads is not None:
        settings["threads"] = resources.threads
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise ArtifactError(
            f"Preparing a data set ran out of the {resources.memory_bytes / 2**30:.1f} GiB of memory it may use, or of "
            f"disk in {scratch}: {_first_line(error)}",
            "Allow more memory, or free some disk space there.",
        ) from error
    except duckdb.IOException as error:
        raise ArtifactError(
            f"Cannot work in {scratch}: {_first_line(error)}",
            "Free some disk space or mend the permissions; nothing half-written is used.",
        ) from error
    except (duckdb.InterruptException, RuntimeError) as error:
        # Ctrl-C within a query reaches us under these names.
        if "interrupt" not in str(error).lower():
            raise
        raise KeyboardInterrupt from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_path(path: Path) -> str:
    """Return a path to read as an SQL literal that means this very file, wildcard characters in its name or not."""
    return quoted("".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path)))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
