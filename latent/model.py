"""LatentR3's model as a whole (weights, prompts and answers, facts of the fit), and its form on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latent.altered import AlteredWriter
from latent.attention import LastHidden, LatentAttention
from latent.config import LatentR3Config
from latent.reasoner import LatentWriter
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import derive_seed
from recbench.llm.backbone import Backbone
from recbench.llm.background import Background
from recbench.llm.codec import TitleCodec, end_ids_of
from recbench.llm.storage import load_lm, save_lm
from recbench.llm.train import isolated_randomness
from recbench.llm.writer import TitleWriter

THOUGHT_TOKEN = "<|Thought|>"
_ATTENTION = "latent_attention.safetensors"


@dataclass
class LatentModel:
    """A title writer that may think.

    Attributes:
        writer: the model; a plain :class:`TitleWriter` without thoughts.
        codec: its prompts and answers.
        background: what decoding may know of the fit.
        facts: about the fit, for ``summary.json``.
    """

    writer: TitleWriter
    codec: TitleCodec
    background: Background
    facts: dict[str, Any]

    @classmethod
    def fresh(cls, config: LatentR3Config, backbone: Backbone, background: Background, ctx: RunContext) -> LatentModel:
        """Add the thought token (a softmax class that is never a target, as published) and a fresh LatentRATT."""
        lm, tokenizer = backbone.model, backbone.tokenizer
        if config.thoughts:
            tokenizer.add_special_tokens({"additional_special_tokens": [THOUGHT_TOKEN]})
            with isolated_randomness(derive_seed(ctx.seed, "thought-token")):
                lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        attention = _attention(config, lm)
        if isinstance(attention, LatentAttention):
            attention.reset(torch.Generator().manual_seed(derive_seed(ctx.seed, "latent-attention")))
        codec = _codec(config, tokenizer, lm, ctx)
        return cls(_writer(config, lm, attention), codec, background, {"prompt": codec.facts})

    def under(self, config: LatentR3Config) -> LatentModel:
        """Return the same weights with another configuration's thoughts."""
        attention = self.writer.attention if isinstance(self.writer, LatentWriter) else LastHidden()
        writer = _writer(config, self.writer.lm, attention)
        return LatentModel(writer, self.codec, self.background, dict(self.facts))

    def ranking_writer(self, config: LatentR3Config) -> TitleWriter:
        """Return the writer that ranks: the fitted one, or one without its thoughts."""
        if config.thought_at_inference == "normal" or not isinstance(self.writer, LatentWriter):
            return self.writer
        token = self.codec.tokenizer.convert_tokens_to_ids(THOUGHT_TOKEN)
        return AlteredWriter(self.writer, config.thought_at_inference, token)

    def save(self, folder: Path) -> None:
        """Write the language model, its tokenizer, LatentRATT where there is one, facts and background."""
        save_lm(folder, self.writer.lm, self.codec.tokenizer, self.facts)
        if isinstance(self.writer, LatentWriter) and isinstance(self.writer.attention, LatentAttention):
            save_file(self.writer.attention.state_dict(), folder / _ATTENTION)
        self.background.save(folder)

    @classmethod
    def load(cls, folder: Path, config: LatentR3Config, ctx: RunContext) -> LatentModel:
        """Read what :meth:`save` wrote."""
        lm, tokenizer, facts = load_lm(folder, ctx)
        attention = _attention(config, lm)
        if isinstance(attention, LatentAttention):
            attention.load_state_dict(load_file(folder / _ATTENTION))
        writer = _writer(config, lm, attention).eval()
        return cls(writer, _codec(config, tokenizer, lm, ctx), Background.load(folder), facts)


def _attention(config: LatentR3Config, lm: PreTrainedModel) -> LatentAttention | LastHidden:
    if config.thoughts == 0 or config.reasoner == "last_hidden":
        return LastHidden()
    attention = LatentAttention(lm.config.get_text_config().hidden_size, window=config.window)
    return attention.to(lm.device, lm.dtype)


def _writer(config: LatentR3Config, lm: PreTrainedModel, attention: LatentAttention | LastHidden) -> TitleWriter:
    if config.thoughts == 0:
        return TitleWriter(lm)
    return LatentWriter(lm, attention, config.thoughts, config.hidden)


def _codec(
    config: LatentR3Config, tokenizer: PreTrainedTokenizerBase, lm: PreTrainedModel, ctx: RunContext
) -> TitleCodec:
    return TitleCodec(tokenizer, ctx.catalog, config.max_prompt_tokens, config.template, end_ids_of(lm), ctx.cache_dir)
