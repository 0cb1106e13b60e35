"""Runs from and for elsewhere: exported lists, and lists of other programs as runs of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from recbench.artifacts.asked import Asked
from recbench.artifacts.files import cannot_write, write_text
from recbench.artifacts.list_tables import read_list_table, write_list_csv
from recbench.artifacts.lock import exclusive
from recbench.artifacts.manifest import RunManifest, utc_now
from recbench.artifacts.paths import RunPaths
from recbench.artifacts.provenance import collect_provenance
from recbench.artifacts.store import StoredRun, hash_run_files
from recbench.artifacts.tables import write_generations, write_rankings
from recbench.artifacts.title_lists import read_title_lists
from recbench.artifacts.trec import Ties, blurred_lists, read_trec_run, write_qrels, write_trec_run
from recbench.contracts.errors import DataError, UsageError
from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_file, hash_json
from recbench.contracts.rankings import Rankings
from recbench.data.split import make_split
from recbench.data.store import load_dataset
from recbench.evaluation.published import published_metrics
from recbench.experiment.evaluate import write_evaluation
from recbench.experiment.inputs import data_fields, load_inputs
from recbench.experiment.plan import RUN_ID_LENGTH, resolve_protocol

ExportFormat = Literal["trec", "csv"]
ImportFormat = Literal["trec", "csv", "parquet", "titles-json"]

_FORMAT_OF_SUFFIX: Mapping[str, ImportFormat] = {".csv": "csv", ".parquet": "parquet", ".json": "titles-json"}
_SOURCES: Mapping[ImportFormat, str] = {
    "trec": "a TREC run file",
    "csv": "a CSV file",
    "parquet": "a Parquet file",
    "titles-json": "a file of titles (D3/R3 form)",
}
_METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+:-]*")


def export_run(
    run: StoredRun,
    out: Path,
    file_format: ExportFormat,
    qrels: Path | None = None,
    ties: Ties = "keep",
    tie_seed: int = 0,
) -> dict[str, Any]:
    """Write the lists of a complete run, and if wanted the targets as TREC qrels.

    Args:
        run: the run.
        out: file to write.
        file_format: "trec" or "csv".
        qrels: file for the targets.
        ties: "keep" writes scores as they are; "break" gives every place a score of its own, with the order inside a
            tie drawn at random (:func:`recbench.artifacts.trec.break_ties`).
        tie_seed: of that order.

    Returns:
        ``run_id``, ``format``, ``ties``, ``out``, ``lines``, ``lists``; ``tied_lists`` and ``merged_lists``, how many
        of the written lists hold a tie, or different scores that are one in single precision; for qrels ``qrels`` and
        ``qrels_lines``.

    Raises:
        ArtifactError: the run is not complete or was changed, or an item id cannot be written in the format.
        DataError: qrels are wanted and the data set is not there.
    """
    run.require_intact()
    if file_format == "trec":
        tag = f"{run.manifest.method}-{run.run_id}".replace(" ", "_")
        lists = write_trec_run(run.paths.rankings, out, tag, ties, tie_seed)
    else:
        lists = write_list_csv(run.paths.rankings, out, ties, tie_seed)
    tied, merged = blurred_lists(lists)
    result: dict[str, Any] = {
        "run_id": run.run_id,
        "format": file_format,
        "ties": ties,
        "out": str(out),
        "lines": len(lists),
        "lists": int(lists["example_id"].nunique()),
        "tied_lists": tied,
        "merged_lists": merged,
    }
    if qrels:
        dataset, split = load_inputs(run.manifest)
        result |= {"qrels": str(qrels), "qrels_lines": write_qrels(split.test, dataset.catalog, qrels)}
    return result


def guess_format(file: Path) -> ImportFormat:
    """Return the format that a file's name tells, a last ``.gz`` aside; TREC where it tells none."""
    name = file.with_suffix("") if file.suffix == ".gz" else file
    return _FORMAT_OF_SUFFIX.get(name.suffix.lower(), "trec")


@dataclass(frozen=True)
class _Lists:
    """Lists from elsewhere.

    Attributes:
        rankings: one list per test row.
        remarks: what a reader must know of them, in sentences.
        facts: plain values for ``summary.json``.
        generations: for ``generations.jsonl``, None where the file holds no texts.
    """

    rankings: Rankings
    remarks: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    generations: Sequence[Mapping[str, Any]] | None = None


def import_run(
    file: Path,
    file_format: ImportFormat,
    method: str,
    dataset_name: str,
    protocol_values: dict[str, Any],
    seed: int,
    runs_dir: Path,
) -> StoredRun:
    """Make a complete run of the lists in a file; its manifest and every table say that it was imported.

    Args:
        file: the file. Example ids are those of the data set's test rows; a file of titles has all rows in their order.
        file_format: of the file.
        method: name for the tables; it need not be a registered method.
        dataset_name: the data set.
        protocol_values: fields of the protocol that are not defaults.
        seed: the seed it was made with, so that several imports of one method are averaged.
        runs_dir: folder of all runs.

    Raises:
        UsageError: the method cannot be called this.
        DataError: the file cannot be read, or does not answer these rows with items of this catalogue.
        ArtifactError: the run folder cannot be written.
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
    elsewhere = {"training": split.train.example_id, "validation": split.valid.example_id}
    asked = Asked(split.test.example_id, dataset.catalog, elsewhere)
    lists = _read(file, file_format, asked, split.test, protocol.cutoffs)
    lists.rankings.check(split.test.example_id, len(dataset.catalog))
    notes = [f"{method}: {remark}" for remark in (*_origin(file_format, lists.rankings), *lists.remarks)]
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
        | {"imported": {"file": file.name, "format": file_format, "sha256": digest}},
        **(data | {"notes": (*data["notes"], *notes)}),
    )
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(paths.folder, error) from error
    with exclusive(paths.lock):
        manifest.write(paths.manifest)
        given = {"method": method, "dataset": dataset_name, "seed": seed, "protocol": protocol.model_dump(mode="json")}
        write_text(paths.config, yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
        if lists.generations is not None:
            write_generations(paths.generations, lists.generations)
        write_rankings(paths.rankings, lists.rankings, dataset.catalog)
        write_evaluation(paths, lists.rankings, dataset, split, protocol, lists.facts)
        complete = {"status": "complete", "finished": utc_now(), "files": hash_run_files(paths)}
        manifest = manifest.model_copy(update=complete)
        manifest.write(paths.manifest)
    return StoredRun(paths, manifest)


def _read(file: Path, file_format: ImportFormat, asked: Asked, test: Examples, cutoffs: Sequence[int]) -> _Lists:
    if file_format == "trec":
        return _Lists(read_trec_run(file, asked))
    if file_format == "titles-json":
        return _read_titles(file, asked, test, cutoffs)
    if (file_format == "parquet") != (file.suffix == ".parquet"):
        raise UsageError(
            f"{file} does not look like {file_format}.",
            "Parquet files end in .parquet; leave out --format to go by the name.",
        )
    return _Lists(read_list_table(file, asked))


def _read_titles(file: Path, asked: Asked, test: Examples, cutoffs: Sequence[int]) -> _Lists:
    lists = read_title_lists(file, asked, test.target)
    facts = dict(lists.facts)
    remarks = []
    left_out = facts["invalid_titles"] + facts["repeated_titles"]
    if left_out:
        remarks.append(
            f"of {facts['titles']:,} written titles {facts['invalid_titles']:,} are no title of the catalogue and "
            f"{facts['repeated_titles']:,} repeat one of their list; they are left out, so titles behind them move up, "
            "and metrics may be a little too high."
        )
    generations = [
        {"example_id": int(example), "titles": list(titles)}
        for example, titles in zip(asked.example_id, lists.written, strict=True)
    ]
    published = published_metrics(lists.written, lists.targets, cutoffs)
    return _Lists(lists.rankings, remarks, {**facts, "published_rule": published}, generations)


def _origin(file_format: ImportFormat, rankings: Rankings) -> list[str]:
    """Return the sentences that hold for any import."""
    remarks = [f"lists imported from {_SOURCES[file_format]}; time, memory and settings are not known."]
    n_empty = int((rankings.lengths == 0).sum())
    if n_empty:
        remarks.append(
            f"the imported file has no list for {n_empty:,} of {len(rankings):,} test rows; they count as misses."
        )
    return remarks
