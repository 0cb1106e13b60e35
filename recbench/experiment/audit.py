"""Audits by name: of a data set, of a file of lists, of a stored run, and of the data of a report's group."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recbench.artifacts.files import read_json, write_json
from recbench.artifacts.manifest import RunManifest
from recbench.artifacts.paths import audits_folder
from recbench.artifacts.store import StoredRun
from recbench.artifacts.tables import read_rankings_table
from recbench.audit.dataset import audit_dataset
from recbench.audit.listfile import ListFormat, guess_format, lines_of_table, read_lines
from recbench.audit.lists import audit_lists
from recbench.audit.subject import Subject
from recbench.contracts.audit import AUDIT_VERSION, AuditReport
from recbench.contracts.errors import ArtifactError, RecbenchError, UsageError
from recbench.contracts.hashing import hash_json
from recbench.contracts.protocol import Protocol
from recbench.data.split import make_split
from recbench.data.store import load_dataset
from recbench.experiment.inputs import load_inputs
from recbench.experiment.plan import resolve_protocol

log = logging.getLogger(__name__)


def audit_data(name: str, protocol_values: Mapping[str, Any], again: bool = False) -> AuditReport:
    """Audit a data set under a protocol, or return the audit that was kept.

    Args:
        name: the data set.
        protocol_values: fields of the protocol that are not defaults.
        again: make it anew even if it was kept.

    Raises:
        ConfigError: a field of the protocol is not accepted, or does not fit the data.
        DataError: the data set is not there, or damaged.
    """
    dataset = load_dataset(name)
    protocol = resolve_protocol(dict(protocol_values), dataset)
    subject = Subject(dataset, make_split(dataset, protocol), protocol)
    return _kept_or_made(subject, again)


def audit_of_group(manifest: RunManifest) -> AuditReport | None:
    """Return the audit of the data that a run, and all runs beside it in a leaderboard, were made on.

    A kept audit is enough: it belongs to the fingerprints in the manifest, so the data need not be there any more.

    Returns:
        None if it was never made and the data set is not here, or differs from the run's.
    """
    path = _path(manifest.dataset_fingerprint, manifest.split_fingerprint, manifest.protocol_hash)
    command = audit_command(manifest.dataset, manifest.protocol)
    kept = _read(path)
    if kept is not None:
        return kept.model_copy(update={"dataset": manifest.dataset, "command": command})
    try:
        dataset, split = load_inputs(manifest)
    except RecbenchError as error:
        log.info("No audit of %s: %s", manifest.dataset, error.message)
        return None
    return _kept_or_made(Subject(dataset, split, manifest.protocol))


def _kept_or_made(subject: Subject, again: bool = False) -> AuditReport:
    name = subject.dataset.name
    path = _path(subject.dataset.fingerprint, subject.split.fingerprint, subject.protocol.hash)
    report = None if again else _read(path)
    if report is None:
        report = audit_dataset(subject.dataset, subject.split, subject.protocol)
        try:
            write_json(path, report.model_dump(mode="json"))
        except ArtifactError as error:  # the audit is worth having all the same
            log.warning("The audit of %s could not be kept: %s", name, error.message)
    return report.model_copy(update={"dataset": name, "command": audit_command(name, subject.protocol)})


def _path(dataset_fingerprint: str, split_fingerprint: str, protocol_hash: str) -> Path:
    key = hash_json([AUDIT_VERSION, dataset_fingerprint, split_fingerprint, protocol_hash])
    return audits_folder() / f"{key}.json"


def _read(path: Path) -> AuditReport | None:
    """Return a kept audit; None if there is none that this recbench can read."""
    if not path.is_file():
        return None
    try:
        report = AuditReport.model_validate(read_json(path))
    except (ArtifactError, ValidationError, OSError) as error:
        log.warning("The kept audit %s cannot be read and is made again: %s", path, str(error).partition("\n")[0])
        return None
    return report if report.version == AUDIT_VERSION else None


def audit_file(
    path: Path, dataset_name: str, protocol_values: Mapping[str, Any], file_format: str | None
) -> AuditReport:
    """Audit lists of another program without importing them.

    Args:
        path: the file, also gzip.
        dataset_name: the data set whose test rows they answer.
        protocol_values: fields of the protocol that are not defaults.
        file_format: "trec" or "csv"; None: as the name tells.

    Raises:
        ConfigError: a field of the protocol is not accepted.
        DataError: the data set is not there, or the file holds no lists in this format.
    """
    chosen: ListFormat = guess_format(path) if file_format is None else _FORMATS[file_format]
    lines = read_lines(path, chosen)
    dataset = load_dataset(dataset_name)
    protocol = resolve_protocol(dict(protocol_values), dataset)
    report = audit_lists(lines, Subject(dataset, make_split(dataset, protocol), protocol), path.name)
    command = audit_command(dataset_name, protocol, "--run-file", str(path), "--format", chosen)
    return report.model_copy(update={"command": command})


_FORMATS: dict[str, ListFormat] = {"trec": "trec", "csv": "csv"}


def audit_run(run: StoredRun) -> AuditReport:
    """Audit the lists of a complete run.

    Raises:
        UsageError: the run is not complete.
        ArtifactError: its rankings cannot be read, or the data set has changed since the run.
        DataError: the data set is not there.
    """
    if run.manifest.status != "complete":
        raise UsageError(
            f"Run {run.run_id} is {run.manifest.status}; only complete runs have lists to audit.",
            "Give its command again to complete it.",
        )
    lines = lines_of_table(read_rankings_table(run.paths.rankings))
    dataset, split = load_inputs(run.manifest)
    changed = tuple(run.verify(run.paths.results))
    report = audit_lists(lines, Subject(dataset, split, run.manifest.protocol), f"run {run.run_id}", changed)
    return report.model_copy(update={"command": f"recbench audit {shlex.quote(str(run.paths.folder))}"})


def audit_command(dataset: str, protocol: Protocol, *more: str) -> str:
    """Return the command line that audits a data set under a protocol."""
    default = Protocol()
    values = protocol.model_dump(mode="json")
    others = {
        name: value
        for name, value in values.items()
        if name not in ("split", "version") and value != default.model_dump(mode="json")[name]
    }
    words = ["recbench", "audit", dataset]
    words += [] if protocol.split == default.split else ["--split", protocol.split]
    for name, value in others.items():
        words += ["--set", f"protocol.{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join([*words, *more])
