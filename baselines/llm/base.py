"""The backbone without any tuning: what the other rows of the table start from.

Row "Base" of the LatentR3 paper. Its prompt and decoding are not published; here they are BIGRec's: the same prompt,
the same trie, the same beams, so that the difference to BIGRec is the fine-tuning alone.
"""

from __future__ import annotations

from baselines.llm.zero_shot import ZeroShot
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.decode import rank_titles
from recbench.llm.facts import decoding_facts
from recbench.llm.likelihood import title_likelihood


class Base(ZeroShot):
    """Asks the backbone for the next title."""

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the titles that the decoding finds (grounding: of those nearest to the text written)."""
        folder = ctx.work_dir / "decode"
        rankings = rank_titles(
            self._writer, self._codec, queries, self.config.decoding, folder, ctx, k=k, background=self._background
        )
        truncated = int(self._codec.encode(queries).truncated.sum())
        self._facts = {**self._codec.facts, "truncated_prompts": truncated, **decoding_facts(folder)}
        return rankings

    def likelihood(self, examples: Examples, ctx: RunContext) -> Likelihood | None:
        """Return how likely the true titles are to the backbone."""
        return title_likelihood(self._writer, self._codec, examples, self.config.decoding.batch_size, ctx)
