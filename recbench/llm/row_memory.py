"""Prompts read by :class:`~recbench.llm.blocks.Blocks`, into a cache as Hugging Face keeps it.

Dimensions: B rows, S new columns, C columns that were there, D per head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from recbench.llm.layer_kinds import additive


class RowMemory:
    """Rows of S new tokens each; every token looks at the real tokens of its row up to itself.

    Args:
        cache: keys and values of C columns; grows.
        mask: int64 (B, C + S), 1 for real tokens.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor) -> None:
        self._cache, self._mask = cache, mask
        self._n_new = mask.shape[1] - cache.get_seq_length()
        # PyTorch has a faster way for rows without padding that begin here.
        self._is_causal = self._n_new == mask.shape[1] and bool(mask.all())
        self._added: Tensor | None = None

    def add(self, layer: int, key: Tensor, value: Tensor) -> None:
        """See :class:`~recbench.llm.blocks.Memory`."""
        rows = len(self._mask)
        key, value = (part.view(rows, -1, *part.shape[1:]).transpose(1, 2) for part in (key, value))
        self._cache.update(key, value, layer)

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """See :class:`~recbench.llm.blocks.Memory`."""
        key, value = self._cache.layers[layer].keys, self._cache.layers[layer].values
        assert key is not None
        assert value is not None
        rows, key_heads = key.shape[:2]
        group = query.shape[1] // key_heads
        query = query.view(rows, -1, *query.shape[1:]).transpose(1, 2)
        if self._is_causal:
            key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
            found = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        else:
            # The query heads of a group become further queries of their one key head, so nothing is copied for them.
            query = query.unflatten(1, (key_heads, group)).flatten(2, 3)
            found = F.scaled_dot_product_attention(
                query, key, value, attn_mask=self._mask_of_scores(group, query.dtype), scale=scale
            )
        return found.view(rows, key_heads * group, self._n_new, -1).transpose(1, 2).flatten(0, 1).flatten(1)

    def _mask_of_scores(self, group: int, dtype: torch.dtype) -> Tensor:
        """Return (B, 1, group * S, C + S), to be added to the scores; the same for all layers."""
        if self._added is None:
            n_new, n_columns = self._n_new, self._mask.shape[1]
            before = torch.ones((n_new, n_columns), dtype=torch.bool, device=self._mask.device)
            visible = before.tril(n_columns - n_new) & self._mask.bool()[:, None]
            self._added = additive(visible, dtype).repeat(1, group, 1).unsqueeze(1)
        return self._added
