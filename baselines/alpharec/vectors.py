"""Where AlphaRec's item vectors come from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from baselines.alpharec.config import BACKBONE, FILE, METHOD, AlphaRecConfig, source_hash
from baselines.nested import fit_once
from recbench.contracts.dataset import title_key
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.method import Method, RunContext
from recbench.llm.encoder import backbone_vectors, require_content, resolve_encoder, sentence_vectors
from recbench.llm.item_vectors import GivesItemVectors, read_item_vectors

log = logging.getLogger(__name__)


def build_source(config: AlphaRecConfig) -> Method | None:
    """Configure the method whose fitted model gives the vectors; None where none does.

    Raises:
        ConfigError: it is unknown, its configuration is not accepted, or it gives no item vectors.
    """
    if config.source is None:
        return None
    method = config.source.build()
    if not isinstance(method, GivesItemVectors):
        raise ConfigError(
            f"source.method is '{config.source.method}', which gives no item vectors.",
            "Choose a method with a function item_vectors ('latentr3').",
        )
    return method


def item_vectors(
    config: AlphaRecConfig, source: Method | None, train: Examples, valid: Examples, ctx: RunContext
) -> tuple[Tensor, np.ndarray]:
    """Return one frozen vector per item: of its title, of another method's model, or from a file.

    Args:
        config: where they come from.
        source: what :func:`build_source` returned.
        train: the training rows, for preset backbones and for the source's fit.
        valid: the validation rows, for the source's fit.

    Returns:
        float32 (n_items, D) on the CPU, zeros for items without one, and bool (n_items,): which items have one.

    Raises:
        DataError: no item has a vector, or the source is not what it was when the run was planned.
        MissingExtraError: the encoder's package is not installed.
    """
    if config.embedding not in (BACKBONE, METHOD):
        found = source_hash(config.embedding, config.vectors)
        what = f"The source of item vectors, {config.vectors or config.embedding},"
        require_content(what, found, config.source_hash, "source_hash")
    if config.embedding == FILE:
        vectors, known = read_item_vectors(Path(config.vectors or ""), ctx.catalog)
    elif source is not None and config.source is not None:
        fitted = fit_once(source, "source", train, valid, ctx)
        vectors, known = cast(GivesItemVectors, fitted).item_vectors(config.source.vector, config.embed_batch_size, ctx)
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
