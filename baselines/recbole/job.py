"""What the method and its worker process tell each other: JSON and safetensors files in one folder.

A job folder holds ``job.json`` and the arrays that the job reads; the worker adds the arrays that it answers with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from recbench.artifacts.files import atomic_path, read_json, write_json
from recbench.contracts.config import StrictModel
from recbench.contracts.examples import Examples, Queries

Loss = Literal["bce", "bpr", "ce", "own"]

JOB = "job.json"
TRAIN = "train.safetensors"
VALID = "valid.safetensors"
QUERIES = "queries.safetensors"
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.safetensors"
RANKINGS = "rankings.safetensors"
OUTCOME = "outcome.json"
CHECKPOINT = "checkpoint.safetensors"


class ModelSpec(StrictModel):
    """Everything that RecBole needs to build one model.

    Attributes:
        model: RecBole's name of it.
        loss: "ce" and "bpr" are RecBole's; "bce" puts binary cross-entropy in the place of bpr; "own" is for models
            that have only one.
        settings: the model's own settings, all of them.
        model_args: further settings that the model reads, as the user gave them.
        max_history: items per history.
    """

    model: str
    loss: Loss
    settings: dict[str, Any]
    model_args: dict[str, Any]
    max_history: int


class FitJob(StrictModel):
    """Train a model on ``train.safetensors``, stop by ``valid.safetensors``.

    Attributes:
        identity: hash of all that determines the result; a checkpoint of another identity is not resumed.
    """

    kind: Literal["fit"] = "fit"
    spec: ModelSpec
    learning_rate: float
    weight_decay: float
    epochs: int
    patience: int
    train_batch_size: int
    seed: int
    mask_history: bool
    device: str
    identity: str


class RankJob(StrictModel):
    """Rank the catalogue for ``queries.safetensors`` with ``weights.safetensors`` and ``vocabulary.safetensors``."""

    kind: Literal["rank"] = "rank"
    spec: ModelSpec
    n_items: int
    k: int
    mask_history: bool
    device: str


def write_job(folder: Path, job: FitJob | RankJob) -> None:
    """Write ``job.json``."""
    write_json(folder / JOB, job.model_dump(mode="json"))


def read_job(folder: Path) -> FitJob | RankJob:
    """Read ``job.json``."""
    values = read_json(folder / JOB)
    return FitJob.model_validate(values) if values["kind"] == "fit" else RankJob.model_validate(values)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays atomically."""
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, metadata)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays."""
    return load_file(path)


def write_queries(path: Path, queries: Queries) -> None:
    """Write queries, or examples with their targets."""
    names = ["example_id", "user", "timestamp", "offsets", "items"]
    if isinstance(queries, Examples):
        names.append("target")
    write_arrays(path, {name: getattr(queries, name) for name in names})


def read_queries(path: Path) -> Queries:
    """Read queries."""
    return Queries(**read_arrays(path))


def read_examples(path: Path) -> Examples:
    """Read examples."""
    return Examples(**read_arrays(path))
