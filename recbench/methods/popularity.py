"""Popularity: the anchor that every method must beat, and the worked example for authors of methods.

A method is a configuration and a class with four functions: ``fit`` learns from the training rows, ``rank`` answers
queries, ``save`` and ``load`` carry what was learned over to another process. ``recbench methods check popularity``
runs the contract tests on it; ``recbench methods new NAME`` writes a package like it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save_file

from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.methods.dense import rank_by_scores


class PopularityConfig(MethodConfig):
    """What is counted."""

    count: Literal["targets", "events"] = Field(
        "targets",
        description="'targets' counts the answers of the training rows; 'events' counts every event that the training "
        "rows show, so also each user's first history",
    )


class Popularity(Method):
    """Ranks the items by how often they occur in the training rows, the same list for everybody.

    The score of an item is its count, so items with equal counts are tied.
    """

    config_class = PopularityConfig
    capabilities = Capabilities()

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.counts = np.empty(0, dtype=np.int64)

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Count the items of the training rows; validation rows are not looked at."""
        items = train.target if self.config.count == "targets" else np.concatenate([[], *train.user_sequences()])
        self.counts = np.bincount(items.astype(np.int64), minlength=len(ctx.catalog))

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Give every query the same list."""

        def score(batch: Queries) -> np.ndarray:
            return np.tile(self.counts, (len(batch), 1))

        return rank_by_scores(queries, k, len(ctx.catalog), score, ctx.mask_history)

    def save(self, folder: Path) -> None:
        """Write the counts."""
        save_file({"counts": self.counts}, folder / "counts.safetensors")

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Popularity:
        """Read the counts."""
        method = cls(config)
        method.counts = load_file(folder / "counts.safetensors")["counts"]
        return method
