"""Runs from and for elsewhere: exported lists, and lists of other programs as runs of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml

from recbench.artifacts.files import write_text
from recbench.artifacts.lock import exclusive
from recbench.artifacts.manifest import RunManifest, utc_now
from recbench.artifacts.paths import RunPaths
from recbench.artifacts.provenance import collect_provenance
from recbench.artifacts.store import StoredRun, hash_run_files
from recbench.artifacts.tables import write_rankings
from recbench.artifacts.trec import read_trec_run, write_csv, write_qrels, write_trec_run
from recbench.contracts.errors import DataError, UsageError
from recbench.contracts.hashing import hash_file, hash_json
from recbench.data.split import make_split
from recbench.data.store import load_dataset
from recbench.experiment.evaluate import write_evaluation
from recbench.experiment.inputs import data_fields, load_inputs
from recbench.experiment.plan import RUN_ID_LENGTH, resolve_protocol

ExportFormat = Literal["trec", "csv"]

_METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+:-]*")


def export_run(run: StoredRun, out: Path, file_format: ExportFormat, qrels: Path | None = None) -> dict[str, Any]:
    """Write the lists of a complete run, and if wanted the targets as TREC qrels.

    Returns:
        ``run_id``, ``format``, ``out``, ``lines``, and for qrels ``qrels`` and ``qrels_lines``.

    Raises:
        ArtifactError: the run is not complete or was changed, or an item id cannot be written in the format.
        DataError: qrels are wanted and the data set is not there.
    """
    run.require_intact()
    if file_format == "trec":
        lines = write_trec_run(run.paths.rankings, out, f"{run.manifest.method}-{run.run_id}".replace(" ", "_"))
    else:
        lines = write_csv(run.paths.rankings, out)
    result: dict[str, Any] = {"run_id": run.run_id, "format": file_format, "out": str(out), "lines": lines}
    if qrels:
        dataset, split = load_inputs(run.manifest)
        result |= {"qrels": str(qrels), "qrels_lines": write_qrels(split.test, dataset.catalog, qrels)}
    return result


def import_trec_run(
    file: Path, method: str, dataset_name: str, protocol_values: dict[str, Any], seed: int, runs_dir: Path
) -> StoredRun:
    """Make a complete run of the lists in a TREC run file; its manifest and every table say that it was imported.

    Args:
        file: the run file, also gzip. Example ids are those of the data set's test rows.
        method: name for the tables; it need not be a registered method.
        dataset_name: the data set.
        protocol_values: fields of the protocol that are not defaults.
        seed: the seed it was made with, so that several imports of one method are averaged.
        runs_dir: folder of all runs.

    Raises:
        UsageError: the method cannot be called this.
        DataError: the file cannot be read or answers other examples.
        ArtifactError: it names unknown items, or the run folder cannot be written.
    """
    if not _METHOD_NAME.fullmatch(method):
        raise UsageError(
            f"'{method}' cannot be the name of a method.",
            "Use letters, digits, '_', '.', '+', ':' and '-', and begin with a letter or digit.",
        )
    dataset = load_dataset(dataset_name)
    protocol = resolve_protocol(protocol_values, dataset)
    split = make_split(dataset, protocol)
    if not file.is_file():
        raise DataError(f"{file} does not exist.", "Check the path.")
    digest = hash_file(file)
    identity = ["import", digest, method, dataset.fingerprint, split.fingerprint, protocol.hash, seed]
    paths = RunPaths.of(runs_dir, dataset.name, method, hash_json(identity, RUN_ID_LENGTH))
    if paths.manifest.exists():
        run = StoredRun.open(paths.folder)
        if run.manifest.status == "complete":
            return run
    rankings, n_empty = read_trec_run(file, split.test.example_id, dataset.catalog)
    rankings.check(split.test.example_id, len(dataset.catalog))
    notes = [f"{method}: lists imported from a TREC run file; time, memory and settings are not known."]
    if n_empty:
        notes.append(
            f"{method}: the imported file has no list for {n_empty:,} of {len(split.test):,} test rows; "
            "they count as misses."
        )
    data = data_fields(dataset, split, protocol)
    manifest = RunManifest(
        run_id=paths.folder.name,
        status="running",
        method=method,
        seed=seed,
        config={},
        device="unknown",
        created=utc_now(),
        provenance=collect_provenance([], {}, "cpu")
        | {"imported": {"file": file.name, "format": "trec", "sha256": digest}},
        **(data | {"notes": (*data["notes"], *notes)}),
    )
    paths.folder.mkdir(parents=True, exist_ok=True)
    with exclusive(paths.lock):
        manifest.write(paths.manifest)
        asked = {"method": method, "dataset": dataset_name, "seed": seed, "protocol": protocol.model_dump(mode="json")}
        write_text(paths.config, yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
        write_rankings(paths.rankings, rankings, dataset.catalog)
        write_evaluation(paths, rankings, dataset, split, protocol, {})
        complete = {"status": "complete", "finished": utc_now(), "files": hash_run_files(paths)}
        manifest = manifest.model_copy(update=complete)
        manifest.write(paths.manifest)
    return StoredRun(paths, manifest)
