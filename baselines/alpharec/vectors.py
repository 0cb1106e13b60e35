"""Where AlphaRec's item vectors come from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.alpharec.config import BACKBONE, FILE, AlphaRecConfig, source_hash
from recbench.contracts.dataset import title_key
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.llm.encoder import backbone_vectors, resolve_encoder, sentence_vectors
from recbench.llm.item_vectors import read_item_vectors

log = logging.getLogger(__name__)


def item_vectors(config: AlphaRecConfig, train: Examples, ctx: RunContext) -> tuple[Tensor, np.ndarray]:
    """Return one frozen vector per item: of its title, or from a file.

    Args:
        config: which source.
        train: the training rows, for preset backbones.

    Returns:
        float32 (n_items, D) on the CPU, zeros for items without one, and bool (n_items,): which items have one.

    Raises:
        DataError: no item has a vector, or the source is not what it was when the run was planned.
        MissingExtraError: the encoder's package is not installed.
    """
    if config.embedding != BACKBONE:
        found = source_hash(config.embedding, config.vectors)
        if found != config.source_hash:
            raise DataError(
                f"The source of item vectors, {config.vectors or config.embedding}, has the content {found}, not "
                f"{config.source_hash} as the configuration says.",
                "Bring the old content back, or leave out source_hash to start a run of its own.",
            )
    if config.embedding == FILE:
        vectors, known = read_item_vectors(Path(config.vectors or ""), ctx.catalog)
    else:
        vectors, known = _title_vectors(config, train, ctx)
    missing = int((~known).sum())
    if missing:
        log.info("%d of %d items have no vector; they get the mean of the others.", missing, len(known))
    return vectors, known


def _title_vectors(config: AlphaRecConfig, train: Examples, ctx: RunContext) -> tuple[Tensor, np.ndarray]:
    titles = [title_key(title) for title in ctx.catalog.titles]
    known = np.array([bool(title) for title in titles])
    if not known.any():
        raise DataError("No item of the data set has a title.", "AlphaRec needs titles, or 'embedding: file'.")
    texts = [title for title in titles if title]
    if config.embedding == BACKBONE:
        made = backbone_vectors(train, texts, config.embed_batch_size, ctx, precision=config.precision)
    else:
        made = sentence_vectors(resolve_encoder(config.embedding), texts, config.embed_batch_size, ctx)
    vectors = torch.zeros(len(titles), made.shape[1])
    vectors[torch.from_numpy(known)] = made
    return vectors, known
