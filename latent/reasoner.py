"""A title writer that thinks first: the prompt, N continuous thoughts, then the answer (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from latent.attention import LastHidden, LatentAttention
from recbench.contracts.errors import ConfigError
from recbench.llm.writer import Prefix, TitleWriter, beginning_first, run_body

HiddenChoice = Literal["after_norm", "before_norm"]


class LatentWriter(TitleWriter):
    """Language model plus what makes thoughts, joined by composition; the model itself stays as it is.

    The thought token's column never goes through the model with its own embedding: the thought depends on the
    columns before it only, so one pass over the prompt gives what the published code needs two full passes for.

    Args:
        lm: a Hugging Face causal language model.
        attention: the LatentRATT layer, or none in its place.
        n_thoughts: N, thoughts before the answer.
        hidden: which hidden states thoughts are made of: those after the final norm (as published), or those of the
            last decoder block before it.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        attention: LatentAttention | LastHidden,
        n_thoughts: int = 1,
        hidden: HiddenChoice = "after_norm",
    ) -> None:
        super().__init__(lm)
        self.attention = attention
        self.n_thoughts = n_thoughts
        self.hidden = hidden

    def think(self, cache: DynamicCache, hidden: Tensor, mask: Tensor) -> Prefix:
        """Make N thoughts on top of a read prompt (Eq. 2 and 3).

        All but the last thought are read by the model at once, since the next one looks at their hidden states; the
        last one waits as the prefix's pending input. ``cache`` grows by N - 1 columns.
        """
        thought = self.attention(hidden, mask).unsqueeze(1)
        for _ in range(self.n_thoughts - 1):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            hidden = torch.cat([hidden, self._run(thought, mask, cache)], dim=1)
            thought = self.attention(hidden, mask).unsqueeze(1)
        return Prefix(cache, mask, thought)

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Prefix:
        """Read left-padded prompts and think."""
        ids, mask = beginning_first(self.lm, prompt_ids, prompt_mask)
        cache, hidden = self.read_hidden(ids, mask)
        return self.think(cache, hidden, mask)

    def _run(self, inputs_embeds: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Run the decoder blocks over new inputs; return the hidden states that thoughts are made of."""
        if self.hidden == "after_norm":
            return run_body(self.lm, inputs_embeds, mask, cache)
        with inputs_of_final_norm(self.lm) as seen:
            run_body(self.lm, inputs_embeds, mask, cache)
        return seen[0]


@contextmanager
def inputs_of_final_norm(lm: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside, every run of the decoder adds what its final norm gets, (B, S, H), to the list.

    Hugging Face's ``hidden_states`` hold the last block's output after that norm only.

    Raises:
        ConfigError: the model keeps its final norm under another name than Qwen2, Llama, Mistral and Gemma do.
    """
    norm = getattr(lm.get_decoder(), "norm", None)
    if norm is None:
        raise ConfigError(f"{type(lm).__name__} has no final norm named 'norm'.", "Use hidden=after_norm.")
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
