"""CoT: the backbone reasons in words, untuned, and then names the next title.

Row "CoT" of the LatentR3 paper, "a zero-shot version of Rec-SAVER" (arXiv 2408.00802). The prompt is not published;
ours asks for what the purchases tell first and for the title after it. The reasoning is greedy (appendix G), the list
comes from the same decoding as Base's.
"""

from __future__ import annotations

from pydantic import Field

from baselines.llm.reasoning import ReasoningSettings, reason_then_decode
from baselines.llm.zero_shot import ZeroShot, ZeroShotConfig
from recbench.contracts.examples import Queries
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings


class CotConfig(ZeroShotConfig):
    """Configuration of CoT."""

    reasoning: ReasoningSettings = Field(ReasoningSettings(), description="the text before the answer")


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
