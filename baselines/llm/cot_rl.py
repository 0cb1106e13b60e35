"""CoT-RL: the backbone learns to reason in words by reinforcement, without any example of reasoning.

Row "COT-RL" of the LatentR3 paper (appendix D), in the style of R1-zero: GRPO on whole completions (reasoning, header,
title). The paper publishes no settings; ours are in :class:`~baselines.llm.cot_rl_config.CotRlSettings`. Prompts and
evaluation are those of CoT.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import Field
from typing_extensions import Self

from baselines.llm.cot import Cot, CotConfig
from baselines.llm.cot_rl_config import CotRlSettings
from baselines.llm.cot_rl_stage import reinforce_reasoning
from recbench.contracts.examples import Examples
from recbench.contracts.method import MethodConfig, RunContext
from recbench.llm.backbone import open_backbone
from recbench.llm.background import Background
from recbench.llm.fit_checks import check_fit
from recbench.llm.storage import load_lm, save_lm


class CotRlConfig(CotConfig):
    """Configuration of CoT-RL."""

    rl: CotRlSettings = Field(CotRlSettings(), description="reinforcement learning of the reasoning")


class CotRl(Cot):
    """Learns to reason by GRPO, then does as CoT does."""

    config_class = CotRlConfig
    capabilities = replace(Cot.capabilities, trains=True)

    config: CotRlConfig

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Train the backbone on sampled completions of the training rows."""
        check_fit(self.config.template, self.config.rl, ctx)
        backbone = open_backbone(train, ctx, self.config.precision)
        settings = self.config.rl
        if settings.learning_rate is None:
            settings = settings.model_copy(update={"learning_rate": backbone.rl_learning_rate})
        self._use(backbone.model, backbone.tokenizer, ctx, Background.of(train, valid, len(ctx.catalog)))
        result, groups = reinforce_reasoning(self._writer, self._codec, train, settings, ctx.work_dir / "rl", ctx)
        self._fit_facts = {"rl": {**asdict(result), **groups, "learning_rate": settings.learning_rate}}

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer, facts, and what decoding may know of the rows."""
        super().save(folder)
        save_lm(folder, self._writer.lm, self._codec.tokenizer, self._fit_facts)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Self:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        lm, tokenizer, method._fit_facts = load_lm(folder, ctx)
        method._use(lm, tokenizer, ctx, Background.load(folder))
        return method

    def fit_identity(self) -> dict[str, Any]:
        """Return what the trained model depends on: neither decoding nor how the reasoning of queries is written."""
        config = self.config.model_dump(mode="json", exclude={"decoding", "reasoning"})
        return {"method": f"{type(self).__module__}:{type(self).__qualname__}", "config": config}

    def summary(self) -> dict[str, Any]:
        """Return the facts of training, and those of CoT."""
        return {**self._fit_facts, **super().summary()}
