"""BIGRec: fine-tune a language model to write the next title, then turn what it writes into items.

Bao et al., "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems", in the setting of the
LatentR3 paper: loss on the answer only and, by default, a search that can write titles of the catalogue alone in place
of the grounding step. ``decoding.mode=grounding`` is the paper's own second step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import Self

from baselines.llm.tuned import CAPABILITIES, TunedConfig, TunedWriter, decode_folder, narrowed
from recbench.contracts.errors import UsageError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.facts import decoding_facts
from recbench.llm.likelihood import title_likelihood


class BigRec(Method):
    """Writes the next title right after the prompt."""

    config_class = TunedConfig
    capabilities = CAPABILITIES

    config: TunedConfig

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.capabilities = narrowed(self.config.decoding)
        self._fitted: TunedWriter | None = None
        self._decoding: dict[str, Any] = {}

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Fine-tune the backbone on the training rows."""
        self._fitted = TunedWriter.fit(self.config, train, valid, ctx)

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the titles written (constrained) or of those nearest to the text written (grounding)."""
        rankings = self._writer.rank(queries, k, self.config.decoding, ctx)
        self._decoding = decoding_facts(decode_folder(ctx))
        return rankings

    def likelihood(self, examples: Examples, ctx: RunContext) -> Likelihood | None:
        """Return how likely the true titles are to the language model."""
        fitted = self._writer
        return title_likelihood(fitted.writer, fitted.codec, examples, self.config.decoding.batch_size, ctx)

    def save(self, folder: Path) -> None:
        """Write the fitted model."""
        self._writer.save(folder)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Self:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        method._fitted = TunedWriter.load(folder, method.config, ctx)
        return method

    def fit_identity(self) -> dict[str, Any]:
        """Decoding is no part of it, so runs that differ in decoding alone share one fit, also with D3."""
        return self.config.fit_identity

    @property
    def _writer(self) -> TunedWriter:
        if self._fitted is None:
            raise UsageError("The method was asked for lists before it was fitted.", "Call fit or load first.")
        return self._fitted

    def summary(self) -> dict[str, Any]:
        """Return the facts of fine-tuning and decoding."""
        return {**(self._fitted.facts if self._fitted else {}), **self._decoding}
