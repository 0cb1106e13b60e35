"""Language models that are asked and not trained: what Base and CoT share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from typing_extensions import Self

from recbench.artifacts.files import read_json, write_json
from recbench.contracts.examples import Examples
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.llm.backbone import Backbone, open_backbone, reopen_backbone
from recbench.llm.codec import TemplateChoice, TitleCodec, end_ids_of
from recbench.llm.decode import DecodingConfig
from recbench.llm.writer import TitleWriter

_FACTS = "zero_shot.json"


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

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Open the backbone. A preset that is not cached is pretrained on the training rows first."""
        self._train_fingerprint = train.fingerprint
        self._open(open_backbone(train, ctx, self.config.precision), ctx)

    def _open(self, backbone: Backbone, ctx: RunContext) -> None:
        lm = backbone.model
        self._writer = TitleWriter(lm).eval()
        self._codec = TitleCodec(
            backbone.tokenizer, ctx.catalog, self.config.max_prompt_tokens, self.config.template, end_ids_of(lm)
        )
        self._facts: dict[str, Any] = {}

    def save(self, folder: Path) -> None:
        """Write which rows a preset was pretrained on: the weights are the backbone's own."""
        write_json(folder / _FACTS, {"train_fingerprint": self._train_fingerprint})

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Self:
        """Open the backbone again."""
        method = cls(config)
        method._train_fingerprint = read_json(folder / _FACTS)["train_fingerprint"]
        method._open(reopen_backbone(method._train_fingerprint, ctx, method.config.precision), ctx)
        return method

    def fit_identity(self) -> None:
        """Return None: nothing is fitted that could be shared."""

    def summary(self) -> dict[str, Any]:
        """Return the template, the version of the prompt, and what was counted while ranking."""
        return self._facts
