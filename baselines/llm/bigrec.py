"""BIGRec with constrained decoding: fine-tune a language model to write the next title, then search the catalogue.

Bao et al., "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems", in the setting of the
LatentR3 paper: loss on the answer only, catalogue-constrained beam search in place of the grounding step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.backbone import open_backbone
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.sft import SftSettings, fine_tune
from recbench.llm.storage import load_lm, save_lm
from recbench.llm.writer import TitleWriter


class BigRecConfig(MethodConfig):
    """Configuration of BIGRec."""

    sft: SftSettings = Field(SftSettings(), description="fine-tuning")
    decoding: DecodingConfig = Field(DecodingConfig(), description="from prompt to list")
    max_prompt_tokens: int = Field(512, ge=16, description="longer prompts keep their last tokens")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of weights; auto: bfloat16 on CUDA")


class BigRec(Method):
    """Writes the next title right after the prompt."""

    config_class = BigRecConfig
    capabilities = Capabilities(
        uses_backbone=True, writes_text=True, max_places=10, packages=("torch", "transformers", "tokenizers")
    )

    config: BigRecConfig

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Fine-tune the backbone on the training rows."""
        backbone = open_backbone(train, ctx, self.config.precision)
        settings = self.config.sft
        if settings.learning_rate is None:
            settings = settings.model_copy(update={"learning_rate": backbone.sft_learning_rate})
        self._writer = TitleWriter(backbone.model)
        self._codec = TitleCodec(backbone.tokenizer, ctx.catalog, self.config.max_prompt_tokens)
        result = fine_tune(self._writer, self._codec, train, valid, settings, ctx.work_dir / "sft", ctx)
        self._facts = {"sft": {**result.__dict__, "learning_rate": settings.learning_rate}}

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the ``decoding.beams`` best titles; ``k`` beyond that cannot be filled."""
        return rank_titles(self._writer, self._codec, queries, self.config.decoding, ctx.work_dir / "decode", ctx)

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and facts."""
        save_lm(folder, self._writer.lm, self._codec.tokenizer, self._facts)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> BigRec:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        lm, tokenizer, method._facts = load_lm(folder, ctx)
        method._writer = TitleWriter(lm).eval()
        method._codec = TitleCodec(tokenizer, ctx.catalog, method.config.max_prompt_tokens)
        return method

    def summary(self) -> dict[str, Any]:
        """Return the facts of fine-tuning."""
        return self._facts
