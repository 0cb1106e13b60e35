"""The backbone without any tuning: what the other rows of the table start from.

Row "Base" of the LatentR3 paper. Its prompt and decoding are not published; here they are BIGRec's: the same prompt,
the same trie, the same beams, so that the difference to BIGRec is the fine-tuning alone.
"""

from __future__ import annotations

from baselines.llm.zero_shot import ZeroShot
from recbench.contracts.examples import Queries
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.decode import rank_titles


class Base(ZeroShot):
    """Asks the backbone for the next title."""

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the ``decoding.beams`` best titles; ``k`` beyond that cannot be filled."""
        prompts = self._codec.encode(queries)
        self._facts = {**self._codec.facts, "truncated_prompts": int(prompts.truncated.sum())}
        folder = ctx.work_dir / "decode"
        return rank_titles(self._writer, self._codec, queries, self.config.decoding, folder, ctx, prompts=prompts.ids)
