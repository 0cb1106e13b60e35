"""Vectors of items from a fitted LatentR3, for methods that build on item vectors (paper table 14)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbench.contracts.dataset import title_key
from recbench.contracts.errors import ConfigError, did_you_mean
from recbench.contracts.examples import Queries
from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.embed import embed_texts
from recbench.llm.writer import TitleWriter

KINDS = ("thought", "title")


def item_vectors(
    writer: TitleWriter, codec: TitleCodec, kind: str, batch_size: int, ctx: RunContext
) -> tuple[Tensor, np.ndarray]:
    """Return one vector per item with a title.

    The paper does not say which vector it takes. "thought" is the last latent thought about a history of this one
    item; "title" is the hidden state after the final norm at the last token of its title.

    Args:
        writer: the fitted model.
        codec: its prompts.
        kind: one of :data:`KINDS`.
        batch_size: items in a forward pass.
        ctx: of the run.

    Returns:
        float32 (n_items, H) on the CPU, zeros for items without a title, and bool (n_items,): which have one.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"LatentR3 has no vector '{kind}'.{did_you_mean(kind, KINDS)} Known: {', '.join(KINDS)}.")
    known = codec.answers.of_item >= 0
    items = np.flatnonzero(known)
    if kind == "thought":
        made = _thoughts(writer, codec, items, batch_size, ctx)
    else:
        titles = [title_key(codec.catalog.titles[item]) for item in items]
        made = embed_texts(writer.lm, codec.tokenizer, titles, "last", batch_size, progress=ctx.progress)
    vectors = torch.zeros(len(known), made.shape[1])
    vectors[torch.from_numpy(items)] = made
    return vectors, known


@torch.no_grad()
def _thoughts(writer: TitleWriter, codec: TitleCodec, items: np.ndarray, batch_size: int, ctx: RunContext) -> Tensor:
    """Return float32 (n, H): the last thought about a history of one item each."""
    n = len(items)
    nobody = np.zeros(n, dtype=np.int32)
    prompts = codec.prompts(Queries(np.arange(n), nobody, nobody.astype(np.int64), np.arange(n + 1), items))
    # Prompts of like length share a batch.
    order = sorted(range(n), key=lambda row: len(prompts[row]))
    vectors = torch.zeros(n, writer.lm.config.get_text_config().hidden_size)
    writer.eval()
    with ctx.progress.bar("item vectors", n) as bar:
        for start in range(0, n, batch_size):
            rows = order[start : start + batch_size]
            prefix = writer.read(*codec.pad_prompts([prompts[row] for row in rows], writer.device))
            vectors[rows] = prefix.pending[:, -1].float().cpu()
            bar.advance(len(rows))
    return vectors
