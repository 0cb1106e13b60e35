"""A title writer that thinks first: the prompt, N continuous thoughts, then the answer (paper section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from latent.attention import LatentAttention
from recbench.llm.writer import Prefix, TitleWriter, run_body


class LatentWriter(TitleWriter):
    """Language model plus LatentRATT, joined by composition; the model itself stays as it is.

    The thought token's column never goes through the model with its own embedding: the thought depends on the
    columns before it only, so one pass over the prompt gives what the published code needs two full passes for.

    Args:
        lm: a Hugging Face causal language model.
        attention: the LatentRATT layer.
        n_thoughts: N, thoughts before the answer.
    """

    def __init__(self, lm: PreTrainedModel, attention: LatentAttention, n_thoughts: int = 1) -> None:
        super().__init__(lm)
        self.attention = attention
        self.n_thoughts = n_thoughts

    def read_hidden(self, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[DynamicCache, Tensor]:
        """Read left-padded prompts (without thought token).

        Returns:
            The cache of all P columns and the hidden states after the final norm, (B, P, H).
        """
        cache = DynamicCache()
        return cache, run_body(self.lm, self.embed(prompt_ids), prompt_mask, cache)

    def think(self, cache: DynamicCache, hidden: Tensor, mask: Tensor) -> Prefix:
        """Make N thoughts on top of a read prompt (Eq. 2 and 3).

        All but the last thought are read by the model at once, since the next one looks at their hidden states; the
        last one waits as the prefix's pending input. ``cache`` grows by N - 1 columns.
        """
        thought = self.attention(hidden, mask).unsqueeze(1)
        for _ in range(self.n_thoughts - 1):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            hidden = torch.cat([hidden, run_body(self.lm, thought, mask, cache)], dim=1)
            thought = self.attention(hidden, mask).unsqueeze(1)
        return Prefix(cache, mask, thought)

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Prefix:
        """Read left-padded prompts and think."""
        cache, hidden = self.read_hidden(prompt_ids, prompt_mask)
        return self.think(cache, hidden, prompt_mask)
