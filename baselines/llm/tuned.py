"""Fine-tuned writers of titles without a thought: what BIGRec and D3 share.

Both are the same model after the same fine-tuning; they differ in how lists are made of it. So the fit, its identity
and its form on disk are here, once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.backbone import open_backbone
from recbench.llm.background import Background
from recbench.llm.codec import TemplateChoice, TitleCodec, end_ids_of
from recbench.llm.decode import DecodingConfig, Guide, rank_titles
from recbench.llm.fit_checks import check_fit
from recbench.llm.sft import SftSettings, fine_tune
from recbench.llm.storage import load_lm, save_lm
from recbench.llm.writer import TitleWriter

CAPABILITIES = Capabilities(
    uses_backbone=True,
    writes_text=True,
    max_places=10,
    distributed=True,
    packages=("torch", "transformers", "tokenizers"),
)


class TunedConfig(MethodConfig):
    """Configuration of a fine-tuned title writer."""

    sft: SftSettings = Field(SftSettings(), description="fine-tuning")
    decoding: DecodingConfig = Field(DecodingConfig(), description="from prompt to list")
    template: TemplateChoice = Field(
        "auto", description="prompt: 'alpaca' (the published one), 'chat' (the model's chat template), auto: by model"
    )
    max_prompt_tokens: int = Field(512, ge=16, description="longer prompts lose their oldest titles")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of weights; auto: bfloat16 on CUDA")

    @property
    def fit_identity(self) -> dict[str, Any]:
        """What determines the fitted model: the decoding is part of it only where it chooses the best epoch."""
        names = {"sft", "template", "max_prompt_tokens", "precision"}
        if self.sft.select == "ndcg":
            names.add("decoding")
        settings = self.model_dump(mode="json", include=names)
        return {"fit": "fine-tuned title writer", **settings}


@dataclass
class TunedWriter:
    """A fine-tuned title writer.

    Attributes:
        writer: the model.
        codec: its prompts and answers.
        background: what decoding may know of the fit.
        facts: about the fit, for ``summary.json``.
    """

    writer: TitleWriter
    codec: TitleCodec
    background: Background
    facts: dict[str, Any]

    @classmethod
    def fit(cls, config: TunedConfig, train: Examples, valid: Examples, ctx: RunContext) -> TunedWriter:
        """Fine-tune the run's backbone, going on from what ``ctx.work_dir`` holds."""
        check_fit(config.template, config.sft, ctx)
        backbone = open_backbone(train, ctx, config.precision)
        settings = config.sft
        if settings.learning_rate is None:
            settings = settings.model_copy(update={"learning_rate": backbone.sft_learning_rate})
        writer = TitleWriter(backbone.model)
        codec = _codec(config, backbone.tokenizer, backbone.model, ctx)
        folder = ctx.work_dir / "sft"
        result = fine_tune(writer, codec, train, valid, settings, folder, ctx, config.decoding)
        background = Background.of(train, valid, len(ctx.catalog))
        facts = {"sft": {**asdict(result), "learning_rate": settings.learning_rate}, "prompt": codec.facts}
        return cls(writer, codec, background, facts)

    def rank(
        self, queries: Queries, k: int, decoding: DecodingConfig, ctx: RunContext, guide: Guide | None = None
    ) -> Rankings:
        """Return lists of as many of ``k`` places as the decoding can fill; shards lie in the run's work folder."""
        folder = decode_folder(ctx)
        return rank_titles(
            self.writer, self.codec, queries, decoding, folder, ctx, k=k, background=self.background, guide=guide
        )

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer, facts and background."""
        save_lm(folder, self.writer.lm, self.codec.tokenizer, self.facts)
        self.background.save(folder)

    @classmethod
    def load(cls, folder: Path, config: TunedConfig, ctx: RunContext) -> TunedWriter:
        """Read what :meth:`save` wrote."""
        lm, tokenizer, facts = load_lm(folder, ctx)
        return cls(TitleWriter(lm).eval(), _codec(config, tokenizer, lm, ctx), Background.load(folder), facts)


def decode_folder(ctx: RunContext) -> Path:
    """Return the folder that decoding leaves its shards and facts in."""
    return ctx.work_dir / "decode"


def narrowed(decoding: DecodingConfig, partner: Capabilities | None = None) -> Capabilities:
    """Return the capabilities under a decoding, and with another method's packages where one takes part."""
    capabilities = replace(CAPABILITIES, max_places=decoding.max_places)
    if partner is None:
        return capabilities
    packages = tuple(dict.fromkeys([*capabilities.packages, *partner.packages]))
    # The partner is fitted in one process.
    return replace(capabilities, packages=packages, extra=partner.extra, distributed=False)


def _codec(config: TunedConfig, tokenizer: Any, lm: Any, ctx: RunContext) -> TitleCodec:
    return TitleCodec(tokenizer, ctx.catalog, config.max_prompt_tokens, config.template, end_ids_of(lm), ctx.cache_dir)
