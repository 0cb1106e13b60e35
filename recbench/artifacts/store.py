"""All runs below one folder: finding them, reading them, checking that nobody changed them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbench.artifacts.files import read_json
from recbench.artifacts.lock import is_held
from recbench.artifacts.manifest import RunManifest, Status
from recbench.artifacts.paths import RunPaths
from recbench.contracts.errors import ArtifactError, UsageError, did_you_mean
from recbench.contracts.hashing import hash_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.parquet as pq

    from recbench.contracts.dataset import ItemCatalog
    from recbench.contracts.rankings import Rankings

log = logging.getLogger(__name__)

# Shorter beginnings of a run id are more likely a slip than an id.
_SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class StoredRun:
    """One run folder.

    Attributes:
        paths: its files.
        manifest: what it is.
    """

    paths: RunPaths
    manifest: RunManifest

    @classmethod
    def open(cls, folder: Path) -> StoredRun:
        """Open a run folder.

        Raises:
            ArtifactError: it has no readable manifest.
        """
        paths = RunPaths(folder)
        return cls(paths, RunManifest.read(paths.manifest))

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.manifest.run_id

    @property
    def state(self) -> str:
        """The status, but "interrupted" for a run that no process works on and that nobody could mark (a kill)."""
        status = self.manifest.status
        return "interrupted" if status in ("pending", "running") and not is_held(self.paths.lock) else status

    def summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json``.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        return dict(read_json(self.paths.summary))

    def metrics(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one row of metrics per example.

        Args:
            columns: columns to read, of those that the file has; None: all.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        with self._metrics_file() as file:
            wanted = None if columns is None else set(columns)
            names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
            return file.read(columns=names).to_pandas()

    def metrics_columns(self) -> list[str]:
        """Return the names of the columns of :meth:`metrics`, without reading them.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        with self._metrics_file() as file:
            return list(file.schema_arrow.names)

    @contextmanager
    def _metrics_file(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.paths.metrics) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"{self.paths.metrics} cannot be read: {error}.", f"Rebuild it: recbench evaluate {self.run_id}."
            ) from error

    def rankings(self, catalog: ItemCatalog) -> Rankings:
        """Return the ranked lists.

        Raises:
            ArtifactError: the file is missing, damaged, or of another catalogue.
        """
        from recbench.artifacts.tables import read_rankings

        return read_rankings(self.paths.rankings, catalog)

    def verify(self, files: Iterable[Path] | None = None) -> list[str]:
        """Return what has changed since the run was complete, one sentence per file; empty if nothing has.

        Args:
            files: the files to check; None: all that the manifest records.

        Raises:
            ArtifactError: the run is not complete, so there is nothing to hold it against.
        """
        if self.manifest.status != "complete":
            raise ArtifactError(
                f"Run {self.run_id} is {self.manifest.status}: only complete runs have files to rely on.",
                "Give its command again to complete it.",
            )
        problems = []
        recorded = self.manifest.files
        for name in recorded if files is None else [file.name for file in files]:
            file = self.paths.folder / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif hash_file(file) != recorded.get(name):
                problems.append(f"{name} has changed")
        return problems

    def require_intact(self, files: Iterable[Path] | None = None) -> None:
        """Check that nobody changed the run since it was complete; arguments as for :meth:`verify`.

        Raises:
            ArtifactError: names the files that have changed or are missing, or the run is not complete.
        """
        problems = self.verify(files)
        if problems:
            raise ArtifactError(
                f"The complete run {self.run_id} in {self.paths.folder} was changed: {'; '.join(problems)}.",
                f"Restore the files; if only metrics or summary changed, 'recbench evaluate {self.run_id}' rebuilds "
                "them. Or make another run with --again.",
            )

    def update_hashes(self, files: Iterable[Path]) -> StoredRun:
        """Record the present content of these files in the manifest (after metrics were computed anew).

        All other recorded hashes stay, so a change of any other file is still found by :meth:`verify`.
        """
        hashes = self.manifest.files | {file.name: hash_file(file) for file in files}
        manifest = self.manifest.model_copy(update={"files": hashes})
        manifest.write(self.paths.manifest)
        return StoredRun(self.paths, manifest)


def hash_run_files(paths: RunPaths) -> dict[str, str]:
    """Return the SHA-256 of every file of a run by name, but for its manifest, which holds them."""
    files = sorted(file for file in paths.folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return {file.name: hash_file(file) for file in files if file != paths.manifest}


@dataclass(frozen=True)
class DamagedRun:
    """A folder that holds a manifest which cannot be read.

    Attributes:
        folder: the run folder.
        problem: what is wrong.
    """

    folder: Path
    problem: str


class RunStore:
    """The runs below one folder, as they were when they were first asked for.

    Args:
        runs_dir: the folder; it need not exist.
    """

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir

    def all(self) -> list[StoredRun]:
        """Return all readable runs, ordered by data set, method and start; a damaged one is a warning in the log."""
        return list(self._scan[0])

    def damaged(self) -> list[DamagedRun]:
        """Return the folders whose manifest cannot be read."""
        return list(self._scan[1])

    @cached_property
    def _scan(self) -> tuple[list[StoredRun], list[DamagedRun]]:
        runs, damaged = [], []
        for manifest in sorted(self.runs_dir.glob("[!.]*/[!.]*/[!.]*/manifest.json")):
            try:
                runs.append(StoredRun.open(manifest.parent))
            except (ArtifactError, OSError) as error:
                damaged.append(DamagedRun(manifest.parent, str(error)))
                log.warning("The run folder %s is damaged and left out: %s", manifest.parent, error)
        runs.sort(key=lambda run: (run.manifest.dataset, run.manifest.method, run.manifest.created, run.run_id))
        return runs, damaged

    def select(
        self, *, dataset: str | None = None, method: str | None = None, status: Status | None = None
    ) -> list[StoredRun]:
        """Return the runs with all of the given properties."""
        return [
            run
            for run in self.all()
            if dataset in (None, run.manifest.dataset)
            and method in (None, run.manifest.method)
            and status in (None, run.manifest.status)
        ]

    def find(self, reference: str, *, dataset: str | None = None, status: Status | None = None) -> list[StoredRun]:
        """Return what a reference stands for: one run for a folder or an id, all of its runs for a method's name.

        Args:
            reference: path of a run folder (anywhere), run id, beginning of one (4 characters or more), or method.
            dataset: for a method's name, takes only runs on this data set.
            status: for a method's name, takes only runs with this status.

        Raises:
            UsageError: the beginning of an id fits several runs.
            ArtifactError: nothing fits, or the run folder is damaged.
        """
        folder = Path(reference)
        if (folder / "manifest.json").is_file():
            return [StoredRun.open(folder)]
        runs = self.all()
        by_id = self._by_id(reference, runs)
        if by_id:
            return [by_id]
        found = [run for run in runs if run.manifest.method == reference]
        fitting = [
            run for run in found if dataset in (None, run.manifest.dataset) and status in (None, run.manifest.status)
        ]
        if not fitting:
            raise self._nothing_fits(reference, runs, found, dataset, status)
        return fitting

    def get(self, reference: str) -> StoredRun:
        """Return the one run that a reference stands for.

        Raises:
            UsageError: it stands for several.
            ArtifactError: it stands for none, or its folder is damaged.
        """
        found = self.find(reference)
        if len(found) > 1:
            raise UsageError(f"'{reference}' stands for {len(found)} runs: {_list(found)}.", "Give one run id.")
        return found[0]

    def _by_id(self, reference: str, runs: Sequence[StoredRun]) -> StoredRun | None:
        exact = [run for run in runs if run.run_id == reference]
        if exact:
            return exact[0]
        begins = [run for run in runs if run.run_id.startswith(reference)] if len(reference) >= _SHORTEST_PREFIX else []
        if len(begins) > 1:
            raise UsageError(
                f"{len(begins)} run ids begin with '{reference}': {_list(begins)}.", "Give more characters of the id."
            )
        return begins[0] if begins else None

    def _nothing_fits(
        self,
        reference: str,
        runs: Sequence[StoredRun],
        found: Sequence[StoredRun],
        dataset: str | None,
        status: Status | None,
    ) -> ArtifactError:
        if found:
            wanted = " ".join(word for word in (status, f"on {dataset}" if dataset else None) if word)
            return ArtifactError(
                f"None of the {len(found)} runs of '{reference}' in {self.runs_dir} is {wanted}: {_list(found)}.",
                "See 'recbench runs list', and 'recbench run --help' for making one.",
            )
        methods = sorted({run.manifest.method for run in runs})
        return ArtifactError(
            f"No run in {self.runs_dir} fits '{reference}' ({len(runs)} runs there)."
            + did_you_mean(reference, [*methods, *(run.run_id for run in runs)]),
            "Give a run id, a run folder, or a method's name; 'recbench runs list' shows them. "
            "Runs elsewhere: --runs-dir.",
        )


def _list(runs: Sequence[StoredRun], at_most: int = 6) -> str:
    shown = [f"{run.run_id} ({run.manifest.method} on {run.manifest.dataset}, {run.manifest.status})" for run in runs]
    rest = len(shown) - at_most
    return ", ".join(shown[:at_most]) + (f" and {rest} more" if rest > 0 else "")
