"""CoT: the backbone reasons in words, untuned, and then names the next title.

Row "CoT" of the LatentR3 paper, "a zero-shot version of Rec-SAVER" (arXiv 2408.00802). The prompt is not published;
ours asks for what the purchases tell first and for the title after it. The reasoning is greedy (appendix G), the list
comes from the same decoding as Base's.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from baselines.llm.reasoning import ReasoningSettings, reason_then_decode
from baselines.llm.zero_shot import ZeroShot, ZeroShotConfig
from recbench.contracts.examples import Queries
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings


class CotConfig(ZeroShotConfig):
    """Configuration of CoT."""

    reasoning: ReasoningSettings = Field(ReasoningSettings(), description="the text before the answer")

    @model_validator(mode="after")
    def _gamma_is_not_chosen_on_validation_rows(self) -> CotConfig:
        if self.decoding.mode == "grounding" and self.decoding.grounding.gamma == "validation":
            raise ValueError(
                "decoding.grounding.gamma is 'validation', but only test rows are reasoned about, so there are no "
                "prompts for validation rows: give gamma as a number, or leave it out"
            )
        return self


class Cot(ZeroShot):
    """Lets the backbone reason, then asks it for the next title."""

    config_class = CotConfig
    config: CotConfig

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Reason about every query, then return the items of the ``decoding.beams`` best titles.

        Generations hold the reasoning beside the titles; the summary says how long it was and how it ended.
        """
        rankings, self._facts = reason_then_decode(
            self._writer,
            self._codec,
            queries,
            self.config.reasoning,
            self.config.decoding,
            ctx.work_dir,
            ctx,
            k=k,
            background=self._background,
        )
        return rankings
