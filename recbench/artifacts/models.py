"""Fitted models that outlive the run that fitted them, so that other runs with the same fit need not repeat it."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from recbench.artifacts.files import atomic_folder, read_json, write_json
from recbench.artifacts.paths import FitPaths
from recbench.contracts.config import StrictModel, describe_problems
from recbench.contracts.errors import ArtifactError
from recbench.contracts.hashing import hash_file
from recbench.contracts.method import BackboneSpec

log = logging.getLogger(__name__)

FIT_SCHEMA_VERSION = 1


class FitRecord(StrictModel):
    """``fit.json``: what was fitted, by whom, and what it cost."""

    schema_version: int = FIT_SCHEMA_VERSION
    fit_id: str | None = Field(description="hash of everything that determines the fitted model; null: not shared")
    fitted_by: str = Field(description="run (or trial of a tuning) that fitted it")
    started_from: str | None = Field(None, description="run whose kept model the fit went on from; null: none")
    method: str
    dataset: str
    backbone: BackboneSpec | None = None
    seed: int
    created: str = Field(description="end of the fit, ISO 8601, UTC")
    timings_s: dict[str, float] = Field(description="seconds per stage of the fit, over all of its attempts")
    peak_memory_bytes: dict[str, int] = Field(description="'host' and 'device', where known")
    provenance: dict[str, Any] = Field(description="git state, packages, hardware, command")
    files: dict[str, str] = Field(default_factory=dict, description="file -> SHA-256, for kept models")

    @classmethod
    def read(cls, path: Path) -> FitRecord:
        """Read a record.

        Raises:
            ArtifactError: missing, damaged, or written by another version.
        """
        values = read_json(path)
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != FIT_SCHEMA_VERSION:
            raise ArtifactError(f"{path} has schema_version {version!r}; this recbench reads {FIT_SCHEMA_VERSION}.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = " ".join(describe_problems(cls, error))
            raise ArtifactError(f"{path} is not the record of a fit: {problems}") from None

    @property
    def is_kept(self) -> bool:
        """Whether it is of a kept model, also where that was copied into a run; False where the run itself fitted."""
        return bool(self.files)

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_json(path, self.model_dump(mode="json"))


@dataclass(frozen=True)
class KeptModel:
    """One kept model.

    Attributes:
        paths: its files.
        record: what it is.
    """

    paths: FitPaths
    record: FitRecord

    @property
    def size_bytes(self) -> int:
        """Bytes of all of its files."""
        return size_bytes(self.paths.folder)

    def problems(self) -> list[str]:
        """Return what has changed since it was kept, one sentence per file; empty if nothing has."""
        found = []
        for name, digest in self.record.files.items():
            file = self.paths.folder / name
            if not file.is_file():
                found.append(f"{name} is missing")
            elif hash_file(file) != digest:
                found.append(f"{name} has changed")
        return found

    def copy_to(self, target: FitPaths) -> None:
        """Put the fit into the scratch folder of a run (as hard links where the file system has them)."""
        target.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.paths.train_log, target.train_log)
        self.record.write(target.record)
        with atomic_folder(target.model) as temporary:
            _copy_files(self.paths.model, temporary)


class ModelStore:
    """The kept models below one folder, one sub-folder per fit. Several processes may use it at the same time.

    Two runs that share a fit and start together both fit; whichever ends first is kept.

    Args:
        root: the folder; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, fit_id: str) -> KeptModel | None:
        """Return the kept model of a fit, or None. A damaged one is a warning in the log and counts as none."""
        paths = FitPaths(self.root / fit_id)
        if not paths.folder.is_dir():
            return None
        try:
            kept = KeptModel(paths, FitRecord.read(paths.record))
            problems = kept.problems()
        except (ArtifactError, OSError) as error:
            problems = [str(error)]
        if problems:
            log.warning("The kept model in %s is damaged and is not used: %s.", paths.folder, "; ".join(problems))
            return None
        return kept

    def keep(self, fit: FitPaths) -> KeptModel:
        """Keep a finished fit. An intact one of the same id stays; a damaged one is replaced.

        Raises:
            ArtifactError: it cannot be written.
        """
        record = FitRecord.read(fit.record)
        if record.fit_id is None:
            raise ValueError("A fit without an id cannot be kept.")
        target = FitPaths(self.root / record.fit_id)
        if self.get(record.fit_id) is None:
            shutil.rmtree(target.folder, ignore_errors=True)
            with atomic_folder(target.folder) as temporary:
                copy = FitPaths(temporary)
                copy.model.mkdir()
                _copy_files(fit.model, copy.model)
                shutil.copyfile(fit.train_log, copy.train_log)
                files = {file.relative_to(temporary).as_posix(): hash_file(file) for file in _files(temporary)}
                record.model_copy(update={"files": files}).write(copy.record)
        return KeptModel(target, FitRecord.read(target.record))

    def fit_ids(self) -> list[str]:
        """Return the ids of all kept models, damaged ones too."""
        return sorted(folder.name for folder in self.root.glob("[!.]*"))

    def all(self) -> list[KeptModel]:
        """Return all kept models with a readable record, oldest first; others are a warning in the log."""
        found = []
        for fit_id in self.fit_ids():
            paths = FitPaths(self.root / fit_id)
            try:
                found.append(KeptModel(paths, FitRecord.read(paths.record)))
            except (ArtifactError, OSError) as error:
                log.warning("The kept model in %s is damaged: %s", paths.folder, error)
        return sorted(found, key=lambda kept: kept.record.created)

    def remove(self, fit_id: str) -> int:
        """Delete the kept model of a fit, also a damaged one; return its size in bytes."""
        folder = self.root / fit_id
        size = size_bytes(folder)
        shutil.rmtree(folder)
        return size


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in _files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_files(source: Path, target: Path) -> None:
    for file in _files(source):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, copy)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, copy)
