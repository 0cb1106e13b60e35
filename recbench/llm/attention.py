"""Attention under a given mask for models whose query heads share key and value heads.

Hugging Face's "sdpa" attention copies the keys and values of every column for each query head of a group before it
attends. When a few tokens look back at many columns, as in decoding, that costs as much as the attention itself. Here
the query heads of a group become further queries of their one key and value head instead, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "recbench_grouped"


def grouped_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as "sdpa" does.

    Args:
        query: (B, heads, N, D).
        key, value: (B, key heads, C, D); ``heads`` is a multiple of ``key heads``.
        attention_mask: (B, 1, N, C), added to the scores.
        scaling: of the scores; None for 1 / sqrt(D).
        options: others of the interface. Where one asks for something else than attention under a mask, "sdpa" does
            the work (or refuses it).

    Returns:
        (B, N, heads, D), and no weights.
    """
    special = any(options.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if attention_mask is None or attention_mask.shape[1] != 1 or options.get("dropout") or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    rows, heads, n_new, width = query.shape
    group = heads // key.shape[1]
    queries = query.reshape(rows, key.shape[1], group * n_new, width)
    mask = attention_mask.repeat(1, 1, group, 1)
    output = F.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return output.view(rows, heads, n_new, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, grouped_attention_forward)


@contextmanager
def grouped_attention(lm: PreTrainedModel) -> Iterator[None]:
    """Inside, a model that runs with "sdpa" attends without copies, under masks (B, 1, N, C); others stay as is."""
    # Attention layers ask this configuration at every call. `set_attn_implementation` comes to the same, but looks at
    # every module of the model first, which takes as long as a layer of a small one.
    config = lm.get_decoder().config
    if config._attn_implementation != "sdpa":
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
