"""Run folders of made-up methods on the tiny data set: material for tests of everything that reads runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbench.artifacts.manifest import RunManifest, Status
from recbench.artifacts.paths import RunPaths
from recbench.artifacts.store import StoredRun
from recbench.artifacts.tables import write_rankings
from recbench.contracts.dataset import Dataset
from recbench.contracts.hashing import hash_file, hash_json
from recbench.contracts.method import BackboneSpec
from recbench.contracts.protocol import Protocol
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.contracts.split import Split
from recbench.experiment.evaluate import write_evaluation
from recbench.testing.tiny import tiny_dataset


def noisy_rankings(split: Split, n_items: int, quality: float, seed: int, k: int) -> Rankings:
    """Return lists in which the target's score is raised by ``quality`` above uniform noise in 0..1."""
    scores = np.random.default_rng(seed).random((len(split.test), n_items))
    scores[np.arange(len(split.test)), split.test.target] += quality
    return rankings_from_scores(split.test.example_id, scores, k)


def make_run(
    runs_dir: Path,
    method: str,
    *,
    quality: float = 0.5,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    protocol: Protocol | None = None,
    dataset: Dataset | None = None,
    status: Status = "complete",
    k: int = 50,
    created: str = "2026-01-01T00:00:00Z",
    train_log: Sequence[Mapping[str, Any]] = (),
    **manifest_fields: Any,
) -> StoredRun:
    """Write one run folder, as `recbench run` leaves it, and open it."""
    from recbench.data.split import make_split

    dataset = dataset or tiny_dataset()
    protocol = protocol or Protocol()
    split = make_split(dataset, protocol)
    identity = [method, config, backbone, protocol.hash, dataset.name, seed, created]
    paths = RunPaths.of(runs_dir, dataset.name, method, hash_json(identity, 12))
    paths.folder.mkdir(parents=True)
    files: dict[str, str] = {}
    if train_log:
        paths.train_log.write_text("".join(json.dumps(record) + "\n" for record in train_log))
    if status == "complete":
        rankings = noisy_rankings(split, len(dataset.catalog), quality, seed, k)
        write_rankings(paths.rankings, rankings, dataset.catalog)
        write_evaluation(paths, rankings, dataset, split, protocol, {"best_epoch": 3})
        files = {path.name: hash_file(path) for path in (paths.rankings, paths.metrics, paths.summary)}
    fields: dict[str, Any] = {
        "run_id": paths.folder.name,
        "status": status,
        "method": method,
        "dataset": dataset.name,
        "backbone": BackboneSpec(name=backbone) if backbone else None,
        "seed": seed,
        "config": dict(config or {}),
        "protocol": protocol,
        "protocol_hash": protocol.hash,
        "dataset_fingerprint": dataset.fingerprint,
        "split_fingerprint": split.fingerprint,
        "notes": dataset.notes,
        "limited": protocol.limited,
        "created": created,
        "timings_s": {"fit": 12.5 + seed, "rank": 0.75},
        "files": files,
    }
    manifest = RunManifest(**(fields | manifest_fields))
    manifest.write(paths.manifest)
    return StoredRun(paths, manifest)
