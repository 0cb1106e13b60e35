"""Language models that are asked and not trained: what Base and CoT share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from recbench.contracts.examples import Examples
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.llm.backbone import open_backbone, reopen_backbone
from recbench.llm.background import Background
from recbench.llm.codec import TemplateChoice, TitleCodec, end_ids_of
from recbench.llm.decode import DecodingConfig
from recbench.llm.fit_checks import check_template
from recbench.llm.writer import TitleWriter


class ZeroShotConfig(MethodConfig):
    """Configuration of a language model that is not trained."""

    decoding: DecodingConfig = Field(DecodingConfig(), description="from prompt to list")
    template: TemplateChoice = Field(
        "auto", description="alpaca: plain text with headers; chat: the model's chat template; auto: chat for an "
        "instruct model, alpaca else"
    )  # fmt: skip
    max_prompt_tokens: int = Field(512, ge=16, description="longer prompts lose their oldest titles")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of weights; auto: bfloat16 on CUDA")


class ZeroShot(Method):
    """Opens the backbone and trains nothing.

    A preset (nano, micro) is no general language model: recbench pretrained it on the training interactions of the
    data set, so "zero-shot" then means without fine-tuning.
    """

    config_class = ZeroShotConfig
    capabilities = Capabilities(
        uses_backbone=True,
        trains=False,
        writes_text=True,
        max_places=10,
        packages=("torch", "transformers", "tokenizers"),
    )

    config: ZeroShotConfig

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.capabilities = replace(type(self).capabilities, max_places=self.config.decoding.max_places)
        self._facts: dict[str, Any] = {}

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Open the backbone. A preset that is not cached is pretrained on the training rows first."""
        check_template(self.config.template, ctx)
        backbone = open_backbone(train, ctx, self.config.precision)
        self._use(backbone.model, backbone.tokenizer, ctx, Background.of(train, valid, len(ctx.catalog)))

    def _use(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ctx: RunContext,
        background: Background | None = None,
    ) -> None:
        self._writer = TitleWriter(lm).eval()
        self._codec = TitleCodec(
            tokenizer,
            ctx.catalog,
            self.config.max_prompt_tokens,
            self.config.template,
            end_ids_of(lm),
            ctx.cache_dir,
        )
        self._background = background
        self._facts = {}

    def save(self, folder: Path) -> None:
        """Write what decoding may know of the rows. The weights are the backbone's own and are not copied."""
        if self._background is not None:
            self._background.save(folder)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Self:
        """Open the backbone again."""
        method = cls(config)
        background = Background.load(folder)
        backbone = reopen_backbone(background.train_fingerprint, ctx, method.config.precision)
        method._use(backbone.model, backbone.tokenizer, ctx, background)
        return method

    def fit_identity(self) -> dict[str, Any] | None:
        """Return None: nothing is fitted that could be shared."""
        return None

    def summary(self) -> dict[str, Any]:
        """Return the template, the version of the prompt, and what was counted while ranking."""
        return self._facts
