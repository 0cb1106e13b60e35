"""The data of a run: how its manifest names them, and how they are found again."""

from __future__ import annotations

from typing import Any

from recbench.artifacts.manifest import RunManifest
from recbench.artifacts.train_log import plain
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ArtifactError
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.split import make_split
from recbench.data.store import load_dataset


def data_fields(dataset: Dataset, split: Split, protocol: Protocol) -> dict[str, Any]:
    """Return the fields of a manifest that say which rows a run was made on and how they are measured."""
    return {
        "dataset": dataset.name,
        "protocol": protocol,
        "protocol_hash": protocol.hash,
        "dataset_fingerprint": dataset.fingerprint,
        "split_fingerprint": split.fingerprint,
        "split_facts": plain(split.facts),
        "notes": tuple(dict.fromkeys([*dataset.notes, *split.warnings])),
        "limited": protocol.limited,
    }


def load_inputs(manifest: RunManifest) -> tuple[Dataset, Split]:
    """Return the data set of a run and its split, exactly as they were.

    Raises:
        DataError: the data set is not there.
        ArtifactError: the data set or its split has changed since the run.
    """
    dataset = load_dataset(manifest.dataset)
    split = make_split(dataset, manifest.protocol)
    for what, then, now in (
        ("data set", manifest.dataset_fingerprint, dataset.fingerprint),
        ("split", manifest.split_fingerprint, split.fingerprint),
    ):
        if then != now:
            raise ArtifactError(
                f"The {what} of '{manifest.dataset}' has the fingerprint {now}; run {manifest.run_id} was made on "
                f"{then}.",
                "Prepare the data set as it was then, or run the method again.",
            )
    return dataset, split
