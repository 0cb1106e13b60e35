"""LatentR3 as a method: a continuous thought before the title, learned by SFT and then by LR-GRPO.

Zhang et al., "Reinforced Latent Reasoning for LLM-based Recommendation" (arXiv 2505.19092).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from latent.attention import LatentAttention
from latent.config import LatentR3Config
from latent.reasoner import LatentWriter
from latent.rl import reinforce
from recbench.artifacts.files import atomic_folder
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.contracts.seeding import derive_seed
from recbench.llm.backbone import Backbone, open_backbone
from recbench.llm.background import Background
from recbench.llm.codec import TitleCodec, end_ids_of
from recbench.llm.decode import rank_titles
from recbench.llm.facts import decoding_facts
from recbench.llm.sft import fine_tune
from recbench.llm.storage import load_lm, save_lm
from recbench.llm.train import isolated_randomness

THOUGHT_TOKEN = "<|Thought|>"
_ATTENTION = "latent_attention.safetensors"


class LatentR3(Method):
    """Thinks one continuous token, then writes the next title."""

    config_class = LatentR3Config
    capabilities = Capabilities(
        uses_backbone=True, writes_text=True, max_places=10, packages=("torch", "transformers", "tokenizers")
    )

    config: LatentR3Config

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.capabilities = replace(type(self).capabilities, max_places=self.config.decoding.max_places)
        self._facts: dict[str, Any] = {}
        self._decoding: dict[str, Any] = {}

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Fine-tune everything, then LatentRATT alone by LR-GRPO."""
        backbone = open_backbone(train, ctx, self.config.precision)
        self._background = Background.of(train, valid, len(ctx.catalog))
        warmed_up = ctx.work_dir / "sft-model"
        if warmed_up.is_dir():
            self._restore(warmed_up, ctx)
        else:
            self._warm_up(backbone, train, valid, ctx)
            with atomic_folder(warmed_up) as folder:
                self.save(folder)
            shutil.rmtree(ctx.work_dir / "sft")
        if self.config.rl.enabled:
            settings = self.config.rl
            if settings.learning_rate is None:
                settings = settings.model_copy(update={"learning_rate": backbone.rl_learning_rate})
            result = reinforce(self._writer, self._codec, train, settings, ctx.work_dir / "rl", ctx)
            self._facts["rl"] = {**asdict(result), "learning_rate": settings.learning_rate}

    def _warm_up(self, backbone: Backbone, train: Examples, valid: Examples, ctx: RunContext) -> None:
        settings = self.config.sft
        if settings.learning_rate is None:
            settings = settings.model_copy(update={"learning_rate": backbone.sft_learning_rate})
        self._writer = self._build(backbone, ctx)
        self._codec = self._open_codec(backbone.tokenizer, ctx)
        folder = ctx.work_dir / "sft"
        result = fine_tune(self._writer, self._codec, train, valid, settings, folder, ctx, self.config.decoding)
        self._facts = {"sft": {**asdict(result), "learning_rate": settings.learning_rate}, "prompt": self._codec.facts}

    def _open_codec(self, tokenizer: PreTrainedTokenizerBase, ctx: RunContext) -> TitleCodec:
        config, ends = self.config, end_ids_of(self._writer.lm)
        return TitleCodec(tokenizer, ctx.catalog, config.max_prompt_tokens, config.template, ends, ctx.cache_dir)

    def _build(self, backbone: Backbone, ctx: RunContext) -> LatentWriter:
        """Add the thought token (a softmax class that is never a target, as published) and a fresh LatentRATT."""
        lm = backbone.model
        backbone.tokenizer.add_special_tokens({"additional_special_tokens": [THOUGHT_TOKEN]})
        with isolated_randomness(derive_seed(ctx.seed, "thought-token")):
            lm.resize_token_embeddings(len(backbone.tokenizer), mean_resizing=False)
        attention = LatentAttention(lm.config.hidden_size)
        attention.reset(torch.Generator().manual_seed(derive_seed(ctx.seed, "latent-attention")))
        return LatentWriter(lm, attention.to(lm.device, lm.dtype), self.config.thoughts)

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the titles that the decoding finds (grounding: of those nearest to the text written)."""
        folder = ctx.work_dir / "decode"
        rankings = rank_titles(
            self._writer, self._codec, queries, self.config.decoding, folder, ctx, k=k, background=self._background
        )
        self._decoding = decoding_facts(folder)
        return rankings

    def save(self, folder: Path) -> None:
        """Write the language model, its tokenizer, LatentRATT, facts and background."""
        save_lm(folder, self._writer.lm, self._codec.tokenizer, self._facts)
        save_file(self._writer.attention.state_dict(), folder / _ATTENTION)
        self._background.save(folder)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> LatentR3:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        method._restore(folder, ctx)
        return method

    def _restore(self, folder: Path, ctx: RunContext) -> None:
        lm, tokenizer, self._facts = load_lm(folder, ctx)
        self._background = Background.load(folder)
        attention = LatentAttention(lm.config.hidden_size)
        attention.load_state_dict(load_file(folder / _ATTENTION))
        self._writer = LatentWriter(lm, attention.to(lm.device, lm.dtype), self.config.thoughts).eval()
        self._codec = self._open_codec(tokenizer, ctx)

    def fit_identity(self) -> dict[str, Any]:
        """Decoding, and so the flavour, is part of it only where it chooses the best epoch of fine-tuning."""
        left_out = {"flavour"} if self.config.sft.select == "ndcg" else {"flavour", "decoding"}
        return {"fit": "LatentR3", **self.config.model_dump(mode="json", exclude=left_out)}

    def summary(self) -> dict[str, Any]:
        """Return the facts of both stages and of decoding."""
        return {**self._facts, **self._decoding}
