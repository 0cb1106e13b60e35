"""D3: BIGRec's model, decoded without length normalisation and, if asked for, together with a text-free recommender.

Bao et al., "Decoding Matters: Addressing Amplification Bias and Homogeneity Issue for LLM-based Recommendation"
(EMNLP 2024). Length-normalised scores favour titles with tokens that are all but certain, so D3 drops the
normalisation; against lists of much the same titles it mixes another recommender into every step. Without the ensemble
it is what the LatentR3 paper calls D3: it differs from BIGRec by ``decoding.length_penalty`` alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from baselines.llm.bigrec import BigRec
from baselines.llm.ensemble import EnsembleGuide, EnsembleSettings, Partner
from baselines.llm.tuned import TunedConfig, decode_folder, narrowed
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.gain import mean_ndcg
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.decode import DecodingConfig, LengthPenalty
from recbench.llm.facts import decoding_facts
from recbench.llm.fit_checks import check_fit

log = logging.getLogger(__name__)

_PARTNER = "partner"
_PLACES = 10


class D3Decoding(DecodingConfig):
    """Decoding without length normalisation."""

    length_penalty: LengthPenalty = Field(
        0.0, description="a title of L tokens scores sum(logprob) / L ** this; 0.0: the plain sum"
    )


class D3Config(TunedConfig):
    """Configuration of D3."""

    decoding: D3Decoding = Field(D3Decoding(), description="from prompt to list")
    ensemble: EnsembleSettings | None = Field(None, description="a text-free recommender to mix in; unset: none")

    @model_validator(mode="after")
    def _ensemble_guides_a_search(self) -> D3Config:
        if self.ensemble is not None and self.decoding.mode != "constrained":
            raise ValueError(f"ensemble needs decoding.mode=constrained, not {self.decoding.mode}")
        return self


class D3(BigRec):
    """BIGRec's fine-tuned model; another score of the same titles."""

    config_class = D3Config

    config: D3Config

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._partner = Partner.build(self.config.ensemble) if self.config.ensemble else None
        if self._partner is not None:
            self.capabilities = narrowed(self.config.decoding, self._partner.method.capabilities)
        self._choice: dict[str, Any] = {}

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Fit the text-free recommender, if there is one, then fine-tune the backbone."""
        if self._partner is not None:
            # Fine-tuning checks this too, but a partner may train for hours before it.
            check_fit(self.config.template, self.config.sft, ctx)
            self._partner.fit(train, valid, ctx)
        super().fit(train, valid, ctx)

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the ``decoding.beams`` best titles; alpha is chosen first, on validation rows."""
        if self._partner is None:
            return super().rank(queries, k, ctx)
        alpha, self._choice = self._partner.settings.alpha, {}
        if alpha is None:
            # Times of its own: what the choice decodes is no part of decoding the queries.
            with ctx.stage("choose-alpha"):
                alpha, self._choice = self._choose_alpha(self._partner, replace(ctx, timings_s={}))
        self._choice = {"alpha": alpha, **self._choice}
        (rankings,) = self._rank_at([alpha], self._partner, queries, k, ctx)
        self._decoding = decoding_facts(decode_folder(ctx))
        return rankings

    def _choose_alpha(self, partner: Partner, ctx: RunContext) -> tuple[float, dict[str, Any]]:
        """Return the alpha with the best validation NDCG@10, and the curve that it was read from."""
        settings = partner.settings
        valid = self._writer.background.valid_sample(settings.valid_rows, ctx.seed, "alpha")
        if not len(valid):
            raise DataError("There are no validation rows to choose ensemble.alpha on.", "Give ensemble.alpha.")
        grid = sorted(set(settings.alpha_grid), reverse=True)
        lists = self._rank_at(grid, partner, valid.queries(), _PLACES, ctx)
        curve = [mean_ndcg(rankings, valid.target) for rankings in lists]
        best = int(np.argmax(curve))
        log.info("alpha = %g has the best NDCG@10 on %d validation rows (%.4f).", grid[best], len(valid), curve[best])
        points = [{"alpha": alpha, "NDCG@10": value} for alpha, value in zip(grid, curve, strict=True)]
        return grid[best], {"alpha_valid_rows": len(valid), "alpha_curve": points}

    def _rank_at(
        self, alphas: list[float], partner: Partner, queries: Queries, k: int, ctx: RunContext
    ) -> list[Rankings]:
        """Return the lists under each alpha."""
        fitted = self._writer
        guide = EnsembleGuide(partner, queries, fitted.codec.answers, fitted.writer.device, ctx)
        return [fitted.rank(queries, k, self.config.decoding, ctx, guide.with_alpha(alpha)) for alpha in alphas]

    def likelihood(self, examples: Examples, ctx: RunContext) -> Likelihood | None:
        """Return how likely the true titles are to the language model; None with an ensemble, which ranks otherwise."""
        return None if self._partner is not None else super().likelihood(examples, ctx)

    def save(self, folder: Path) -> None:
        """Write the fitted model and the partner."""
        super().save(folder)
        if self._partner is not None:
            (folder / _PARTNER).mkdir()
            self._partner.save(folder / _PARTNER)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Self:
        """Read what :meth:`save` wrote."""
        method = super().load(folder, config, ctx)
        if method._partner is not None:
            method._partner.load(folder / _PARTNER, ctx)
        return method

    def fit_identity(self) -> dict[str, Any]:
        """As BIGRec's; with an ensemble the partner belongs to it. Alpha and temperature do not."""
        identity = super().fit_identity()
        return {**identity, "partner": self._partner.identity} if self._partner else identity

    def summary(self) -> dict[str, Any]:
        """Return the facts of fine-tuning and decoding, of the partner and of alpha's choice."""
        if self._partner is None:
            return super().summary()
        partner = {"method": self._partner.settings.method, **self._partner.method.summary()}
        return {**super().summary(), "ensemble": {**self._choice, "partner": partner}}
