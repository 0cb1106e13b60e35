"""A fitted latent writer whose thoughts are taken away when it ranks (paper appendix J, table 12)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from latent.reasoner import LatentWriter
from recbench.llm.writer import Prefix, TitleWriter, beginning_first

ThoughtChoice = Literal["normal", "masked", "absent", "zero", "token_embedding"]


class AlteredWriter(TitleWriter):
    """Reads prompts like ``writer``, but with its thoughts masked, left out or replaced. Nothing is trained.

    Args:
        writer: the fitted writer.
        thought: "masked": thoughts are made, and attention never sees their columns; the first answer token is still
            predicted at the last thought's place, as with attention mask 0 in Hugging Face models. "absent": the
            answer comes right after the prompt, so that no thought has any influence. "zero" and "token_embedding":
            zeros, or the thought token's own embedding, in each thought's place.
        token: id of the thought token.
    """

    def __init__(self, writer: LatentWriter, thought: ThoughtChoice, token: int) -> None:
        super().__init__(writer.lm)
        self.writer = writer
        self.thought = thought
        self.token = token

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Prefix:
        """Read left-padded prompts."""
        n_thoughts = self.writer.n_thoughts
        if self.thought == "absent":
            return super().read(prompt_ids, prompt_mask)
        if self.thought == "masked":
            prefix = self.writer.read(prompt_ids, prompt_mask)
            mask = prefix.mask.clone()
            mask[:, prompt_ids.shape[1] :] = 0
            return replace(prefix, mask=mask, pending_seen=False)
        ids, mask = beginning_first(self.lm, prompt_ids, prompt_mask)
        cache, _ = self.writer.read_hidden(ids, mask)
        instead = self.embed(torch.full_like(ids[:, :1], self.token).expand(-1, n_thoughts))
        return Prefix(cache, mask, torch.zeros_like(instead) if self.thought == "zero" else instead)
