"""Run folders in the real format, made of drawn lists: material for the report's benchmark and for looking at pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recbench.artifacts.manifest import RunManifest
from recbench.artifacts.paths import RunPaths
from recbench.artifacts.store import hash_run_files
from recbench.artifacts.tables import write_rankings
from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.contracts.hashing import hash_json
from recbench.contracts.protocol import Protocol
from recbench.contracts.rankings import rankings_from_scores
from recbench.data.split import make_split
from recbench.experiment.evaluate import write_evaluation

PLACES = 20
_CANDIDATES = 60


def drawn_dataset(n_users: int, n_items: int, rows_per_user: int, seed: int = 0) -> Dataset:
    """Return a data set in which few items have most of the events."""
    rng = np.random.default_rng(seed)
    n = n_users * (rows_per_user + 1)
    popularity = 1.0 / np.arange(1, n_items + 1)
    items = rng.choice(n_items, size=n, p=popularity / popularity.sum()).astype(np.int32)
    users = np.repeat(np.arange(n_users, dtype=np.int32), rows_per_user + 1)
    times = np.sort(rng.integers(0, 10**8, size=(n_users, rows_per_user + 1)), axis=1).ravel()
    words = ("silent", "golden", "broken", "distant", "electric", "hidden", "winter", "paper", "river", "glass")
    titles = tuple(f"{words[i % 10]} {words[i // 10 % 10]} {i}" for i in range(n_items))
    catalog = ItemCatalog(tuple(f"i{i}" for i in range(n_items)), titles)
    return Dataset("drawn", tuple(f"u{u}" for u in range(n_users)), catalog, Interactions(users, items, times))


def make_runs(
    runs_dir: Path, *, n_groups: int = 5, methods: Sequence[str], n_seeds: int = 5, n_rows: int = 6_000
) -> int:
    """Write runs of ``methods`` on ``n_groups`` data sets: one run per seed, better ones first.

    The lists are drawn and measured once per method and seed; the groups hold copies of the files, each under a data
    set's name of its own.

    Returns:
        The number of runs.
    """
    dataset = drawn_dataset(n_users=max(n_rows // 3, 30), n_items=800, rows_per_user=30)
    protocol = Protocol(cutoffs=(1, 3, 5, 10, 20), depth=PLACES)
    split = make_split(dataset, protocol)
    rng = np.random.default_rng(1)
    n = 0
    for number, method in enumerate(methods):
        for seed in range(n_seeds):
            first = RunPaths(runs_dir / ".drawn")
            first.folder.mkdir(parents=True)
            candidates = rng.integers(0, len(dataset.catalog), size=(len(split.test), _CANDIDATES)).astype(np.int32)
            candidates[:, 0] = split.test.target
            scores = rng.random(candidates.shape)
            scores[:, 0] += 0.35 * (1 - number / len(methods)) + 0.02 * rng.random()
            rankings = rankings_from_scores(split.test.example_id, _drop_repeats(candidates, scores), PLACES)
            row = np.repeat(np.arange(len(rankings)), rankings.lengths)
            named = type(rankings)(
                rankings.example_id, rankings.offsets, candidates[row, rankings.items], rankings.scores
            )
            write_rankings(first.rankings, named, dataset.catalog)
            write_evaluation(first, named, dataset, split, protocol, {})
            first.train_log.write_text("".join(json.dumps(line) + "\n" for line in _training(rng)))
            for group in range(n_groups):
                _write_run(runs_dir, first, f"drawn-{group + 1}", method, seed, protocol, dataset, split.fingerprint)
                n += 1
            shutil.rmtree(first.folder)
    return n


def _drop_repeats(candidates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the scores with -inf for all but the first time that a row has an item."""
    order = np.argsort(candidates, axis=1, kind="stable")
    ordered = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros(candidates.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(repeated, -np.inf, scores)


def _training(rng: np.random.Generator, n_steps: int = 200) -> Iterator[dict[str, Any]]:
    for step in range(1, n_steps + 1):
        yield {"stage": "sft", "step": step, "loss": 3 / step**0.5 + 0.1 * float(rng.random())}
    for epoch in range(1, 11):
        yield {"stage": "sft", "step": 20 * epoch, "eval_loss": 3.2 / (20 * epoch) ** 0.5, "valid/NDCG@10": epoch / 100}


def _write_run(
    runs_dir: Path, first: RunPaths, name: str, method: str, seed: int, protocol: Protocol, dataset: Dataset, split: str
) -> None:
    paths = RunPaths.of(runs_dir, name, method, hash_json([name, method, seed], 12))
    shutil.copytree(first.folder, paths.folder)
    config = {"learning_rate": 0.001, "layers": 2, "decoding": {"search": "beam", "beams": 10}}
    experiment = {"method": method, "dataset": name, "seed": seed, "config": config}
    paths.config.write_text(yaml.safe_dump(experiment, sort_keys=False))
    manifest = RunManifest(
        run_id=paths.folder.name,
        status="complete",
        method=method,
        dataset=name,
        seed=seed,
        config=config,
        protocol=protocol,
        protocol_hash=protocol.hash,
        dataset_fingerprint=dataset.fingerprint,
        split_fingerprint=split,
        created=f"2026-01-01T00:00:{seed:02d}+00:00",
        timings_s={"fit": 60.0 * (seed + 1), "rank": 12.0},
        peak_memory_bytes={"host": 2**30},
        files=hash_run_files(paths),
    )
    manifest.write(paths.manifest)
