"""Vectors of items that come from elsewhere: from a fitted method, or from a file keyed by external item ids.

A file is in safetensors form: one tensor ``vectors`` (n, D) and, in the metadata, ``item_ids``, a JSON list of n ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recbench.artifacts.files import atomic_path
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import DataError
from recbench.contracts.method import RunContext


@runtime_checkable
class GivesItemVectors(Protocol):
    """A fitted method whose model has a vector for every item."""

    def item_vectors(self, kind: str, batch_size: int, ctx: RunContext) -> tuple[Tensor, np.ndarray]:
        """Return float32 (n_items, D) on the CPU, zeros for items without one, and bool (n_items,): which have one.

        Args:
            kind: which of the model's vectors.
            batch_size: items in a forward pass.
            ctx: of the run.

        Raises:
            ConfigError: the method has no vectors of this kind.
        """


def write_item_vectors(path: Path, item_ids: Sequence[str], vectors: Tensor) -> None:
    """Write vectors (n, D) of n items.

    Raises:
        ValueError: there are not as many vectors as ids, or an id is there twice.
    """
    if len(item_ids) != len(vectors) or len(set(item_ids)) != len(item_ids):
        raise ValueError(f"{len(vectors)} vectors for {len(item_ids)} ids, {len(set(item_ids))} of them distinct.")
    with atomic_path(path) as temporary:
        tensors = {"vectors": vectors.float().cpu().contiguous()}
        save_file(tensors, temporary, metadata={"item_ids": json.dumps(list(item_ids))})


def read_item_vectors(path: Path, catalog: ItemCatalog) -> tuple[Tensor, np.ndarray]:
    """Read the vectors of a catalogue's items. Items of the file that the catalogue does not have are left out.

    Returns:
        float32 (n_items, D), zeros where the file has no vector, and bool (n_items,): where it has one.

    Raises:
        DataError: the file is not of the form above, holds values that are not finite, or no item of the catalogue.
    """
    form = "Expected a safetensors file as recbench.llm.item_vectors.write_item_vectors writes it."
    try:
        with safe_open(path, framework="pt") as stored:
            item_ids = json.loads((stored.metadata() or {})["item_ids"])
            vectors = stored.get_tensor("vectors").float()
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no file of item vectors: {type(error).__name__}: {error}.", form) from error
    if vectors.ndim != 2 or len(vectors) != len(item_ids):
        raise DataError(f"{path} holds a tensor of shape {tuple(vectors.shape)} for {len(item_ids)} item ids.", form)
    if not torch.isfinite(vectors).all():
        raise DataError(f"{path} holds vectors that are not finite.", "Make them again.")
    rows = {item_id: row for row, item_id in enumerate(item_ids)}
    source = np.array([rows.get(item_id, -1) for item_id in catalog.ids], dtype=np.int64)
    known = source >= 0
    if not known.any():
        raise DataError(
            f"None of the {len(item_ids)} item ids in {path} is one of the data set's {len(catalog)}.",
            f"Ids there look like {item_ids[:3]}, here like {list(catalog.ids[:3])}.",
        )
    result = torch.zeros(len(catalog), vectors.shape[1])
    result[torch.from_numpy(known)] = vectors[torch.from_numpy(source[known])]
    return result, known
