"""The titles of a catalogue as points in the space of an embedding model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recbench.contracts.dataset import ItemCatalog, title_key
from recbench.contracts.errors import ConfigError, did_you_mean
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.llm.backbone import reopen_backbone
from recbench.llm.encoder import (
    MINILM,
    TextEncoder,
    cached_vectors,
    load_sentence_encoder,
    require_content,
    resolve_encoder,
)
from recbench.llm.nearest import distances
from recbench.llm.writer import TitleWriter

BASE, TUNED = "base", "tuned"
_KEY = "decoding.grounding.embedder"
_BATCH = 64


@dataclass(frozen=True)
class DistinctTitles:
    """The distinct titles of a catalogue.

    Attributes:
        texts: U titles, stripped, none of them empty.
        of_item: int64 (n_items,), the title of each item; -1 for an item without one.
    """

    texts: tuple[str, ...]
    of_item: np.ndarray

    @classmethod
    def of(cls, catalog: ItemCatalog) -> DistinctTitles:
        """Collect them, in the order of their first items."""
        keys = [title_key(title) for title in catalog.titles]
        number = {text: n for n, text in enumerate(dict.fromkeys(key for key in keys if key))}
        return cls(tuple(number), np.array([number.get(key, -1) for key in keys], dtype=np.int64))

    def totals(self, of_items: np.ndarray) -> np.ndarray:
        """Return float64 (U,): the sum of ``of_items`` (n_items,) over the items of each title."""
        titled = self.of_item >= 0
        return np.bincount(self.of_item[titled], weights=of_items[titled], minlength=len(self.texts))


@dataclass
class TitleSpace:
    """Distances between texts and titles. The embedding model is opened when a vector is first needed.

    Args:
        titles: the titles.
        open_encoder: loads the embedding model.
        identity: plain values that determine it, for the cache of the titles' vectors; None: they are not cached.
        device: where distances are computed.
        ctx: the run.
    """

    titles: DistinctTitles
    open_encoder: Callable[[], TextEncoder]
    identity: Sequence[Any] | None
    device: torch.device
    ctx: RunContext

    @cached_property
    def _encoder(self) -> TextEncoder:
        return self.open_encoder()

    @cached_property
    def _number(self) -> dict[str, int]:
        return {text: n for n, text in enumerate(self.titles.texts)}

    @cached_property
    def _table(self) -> Tensor:
        """float32 (U, H) on the device: the vectors of all titles."""

        def compute() -> Tensor:
            return self._encoder.embed(self.titles.texts, _BATCH, self.ctx.progress)

        return cached_vectors(self.titles.texts, self.identity, self.ctx.cache_dir, compute).to(self.device)

    def is_title(self, text: str) -> bool:
        """Say whether a stripped text is exactly one of the titles."""
        return text in self._number

    def distances(self, texts: Sequence[str]) -> np.ndarray:
        """Return float64 (n, U): distances of n stripped, non-empty texts to all titles.

        A text that is a title has that title's very vector, so its distance to it is 0 exactly.
        """
        strange = list(dict.fromkeys(text for text in texts if not self.is_title(text)))
        row_of = {text: len(self._number) + n for n, text in enumerate(strange)}
        vectors = self._table
        if strange:
            vectors = torch.cat([vectors, self._encoder.embed(strange, _BATCH).to(self.device)])
        rows = [row_of[text] if text in row_of else self._number[text] for text in texts]
        distinct, place = np.unique(np.array(rows, dtype=np.int64), return_inverse=True)
        return distances(vectors[torch.from_numpy(distinct).to(self.device)], self._table)[place]


def resolve_embedder(embedder: str, content: str | None = None) -> BackboneSpec | None:
    """Return the sentence encoder that an embedder is; None for "base" and "tuned", the run's own models.

    Args:
        embedder: see :func:`open_title_space`.
        content: revision that the encoder must have; None: any.

    Raises:
        ConfigError: there is no such sentence encoder.
        MissingExtraError: it is in a package that is not installed.
        DataError: it cannot be had, or has another content.
    """
    try:
        encoder = None if embedder in (BASE, TUNED) else resolve_encoder(embedder)
    except ConfigError as error:
        raise ConfigError(
            f"{_KEY}: {error.message}{did_you_mean(embedder, [BASE, TUNED, MINILM])}",
            f"Choose '{BASE}', '{TUNED}' or a sentence encoder. {error.hint or ''}".rstrip(),
        ) from error
    if content is not None:
        require_content(f"{_KEY} '{embedder}'", encoder.revision if encoder else None, content, f"{_KEY}_hash")
    return encoder


def open_title_space(
    embedder: str,
    writer: TitleWriter,
    tokenizer: Any,
    train_fingerprint: str,
    catalog: ItemCatalog,
    ctx: RunContext,
    content: str | None = None,
) -> TitleSpace:
    """Return the space of an embedder; nothing is loaded yet.

    Args:
        embedder: "base" is the run's backbone as it was before the fit, "tuned" the writer's own model (both: hidden
            state of a text's last token), anything else a sentence encoder by name.
        writer, tokenizer: the fitted writer.
        train_fingerprint: hash of the training rows; it names a preset's weights.
        catalog: the items.
        ctx: the run.
        content: revision of the sentence encoder when the run was planned; None: it may be any.

    Raises:
        ConfigError: there is no such sentence encoder.
        MissingExtraError: it is in a package that is not installed.
        DataError: it cannot be had, or has another content.
    """
    titles = DistinctTitles.of(catalog)
    kind = ctx.device.partition(":")[0]
    encoder = resolve_embedder(embedder, content)
    if embedder == TUNED:
        return TitleSpace(titles, lambda: TextEncoder(writer.lm, tokenizer, "last", False), None, writer.device, ctx)
    if encoder is None:
        precision: Literal["float32", "bfloat16"] = "bfloat16" if writer.lm.dtype == torch.bfloat16 else "float32"
        identity = None
        if ctx.backbone is not None and ctx.backbone.revision is not None:
            spec = [ctx.backbone.name, ctx.backbone.revision]
            identity = ["base", *spec, precision, train_fingerprint, catalog.fingerprint, kind]

        def open_base() -> TextEncoder:
            base = reopen_backbone(train_fingerprint, ctx, precision)
            return TextEncoder(base.model, base.tokenizer, "last", False)

        return TitleSpace(titles, open_base, identity, writer.device, ctx)
    known = ["sentence", encoder.revision, kind] if encoder.revision is not None else None
    return TitleSpace(titles, lambda: load_sentence_encoder(encoder, ctx.device), known, writer.device, ctx)
