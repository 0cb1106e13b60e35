"""SASRec with a latent thought: LatentR3 with a sequence model over item numbers in place of the language model.

Zhang et al., "Reinforced Latent Reasoning for LLM-based Recommendation" (arXiv 2505.19092), table 13. The paper does
not say how; here every part is LatentR3's own (LatentRATT, fine-tuning, LR-GRPO), and only the model differs: SASRec
(Kang and McAuley 2018) is a causal transformer with learned positions whose output layer is the item embedding, which
is what Hugging Face's GPT-2 architecture is at this size. The history's items are the prompt, the next item is an
answer of one token, and the loss is the cross-entropy over the whole catalogue.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from latent.attention import LatentAttention
from latent.reasoner import LatentWriter
from latent.rl import reinforce
from latent.sasrec.config import SasRecLatentConfig
from latent.sasrec.items import ItemCodec
from recbench.artifacts.files import atomic_folder, read_json, write_json
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.contracts.seeding import derive_seed
from recbench.llm.quiet import no_progress_bars
from recbench.llm.sft import fine_tune
from recbench.llm.train import isolated_randomness
from recbench.llm.writer import TitleWriter
from recbench.methods.dense import rank_by_scores

_ATTENTION = "latent_attention.safetensors"
_FACTS = "facts.json"


class SasRecLatent(Method):
    """Thinks one continuous token behind the history, then scores all items."""

    config_class = SasRecLatentConfig
    capabilities = Capabilities(packages=("torch", "transformers"))

    config: SasRecLatentConfig

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Train everything, then LatentRATT alone by LR-GRPO."""
        config = self.config
        self._codec = ItemCodec(len(ctx.catalog), config.max_history)
        warmed_up = ctx.work_dir / "sft-model"
        if warmed_up.is_dir():
            self._restore(warmed_up, ctx)
        else:
            self._writer = self._build(ctx)
            folder = ctx.work_dir / "sft"
            result = fine_tune(self._writer, self._codec, train, valid, config.sft, folder, ctx)
            self._facts: dict[str, Any] = {"sft": asdict(result)}
            with atomic_folder(warmed_up) as target:
                self.save(target)
            shutil.rmtree(folder)
        if isinstance(self._writer, LatentWriter) and config.rl.enabled:
            result = reinforce(self._writer, self._codec, train, config.rl, ctx.work_dir / "rl", ctx)
            self._facts["rl"] = asdict(result)

    def _build(self, ctx: RunContext) -> TitleWriter:
        config = self.config
        shape = GPT2Config(
            vocab_size=len(ctx.catalog),
            n_positions=config.max_history + config.thoughts,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.inner_width,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        with isolated_randomness(derive_seed(ctx.seed, "sasrec-latent")):
            lm = GPT2LMHeadModel(shape).to(ctx.device)
        attention = LatentAttention(config.width)
        attention.reset(torch.Generator().manual_seed(derive_seed(ctx.seed, "latent-attention")))
        return self._join(lm, attention)

    def _join(self, lm: GPT2LMHeadModel, attention: LatentAttention) -> TitleWriter:
        if self.config.thoughts == 0:
            return TitleWriter(lm)
        return LatentWriter(lm, attention.to(lm.device), self.config.thoughts)

    @torch.no_grad()
    def _scores(self, queries: Queries) -> np.ndarray:
        """Return float32 (B, n_items): logits of the next item."""
        ids, mask = self._codec.pad_prompts(self._codec.prompts(queries), self._writer.device)
        prefix = self._writer.read(ids, mask)
        one = torch.zeros((len(ids), 1), dtype=torch.int64, device=ids.device)
        hidden = self._writer.answer_hidden(prefix, one, one + 1)
        return self._writer.logits(hidden[:, 0]).float().cpu().numpy()

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Rank the whole catalogue for every query."""
        self._writer.eval()
        return rank_by_scores(queries, k, len(ctx.catalog), self._scores, ctx.mask_history)

    def save(self, folder: Path) -> None:
        """Write the sequence model, LatentRATT and facts."""
        with no_progress_bars():
            self._writer.lm.save_pretrained(folder / "lm")
        if isinstance(self._writer, LatentWriter):
            save_file(self._writer.attention.state_dict(), folder / _ATTENTION)
        write_json(folder / _FACTS, self._facts)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> SasRecLatent:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        method._codec = ItemCodec(len(ctx.catalog), method.config.max_history)
        method._restore(folder, ctx)
        return method

    def _restore(self, folder: Path, ctx: RunContext) -> None:
        with no_progress_bars():
            lm = GPT2LMHeadModel.from_pretrained(folder / "lm", dtype="auto").to(ctx.device)
        attention = LatentAttention(self.config.width)
        if self.config.thoughts:
            attention.load_state_dict(load_file(folder / _ATTENTION))
        self._writer = self._join(lm, attention).eval()
        self._facts = read_json(folder / _FACTS)

    def summary(self) -> dict[str, Any]:
        """Return the facts of both stages."""
        return self._facts
