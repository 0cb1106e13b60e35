"""Random lists: what a method reaches that knows nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.contracts.seeding import numpy_rng
from recbench.methods.dense import rank_by_scores


class RandomConfig(MethodConfig):
    """Nothing to set: the run's seed decides."""


class RandomMethod(Method):
    """Ranks the items in a random order.

    The order depends on the run's seed and the example's id alone, so neither the batch nor the other queries matter.
    """

    config_class = RandomConfig
    capabilities = Capabilities(trains=False)

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Learn nothing."""

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Score every item of every query with an independent uniform number."""
        n_items = len(ctx.catalog)

        def score(batch: Queries) -> np.ndarray:
            return np.stack([numpy_rng(ctx.seed, "random", int(e)).random(n_items) for e in batch.example_id])

        return rank_by_scores(queries, k, n_items, score, ctx.mask_history)

    def save(self, folder: Path) -> None:
        """Write nothing: there is no state."""

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> RandomMethod:
        """Return a method; there is no state to read."""
        return cls(config)
