"""AlphaRec: collaborative filtering on frozen language representations of item titles.

Sheng et al., "Language Representations Can be What Recommenders Need", ICLR 2025: text vectors of items, one small
network shared by users and items, light graph convolution without parameters, InfoNCE with uniform negatives.

AlphaRec knows users, not moments. Asked for the next item after a history, it takes that history as the user by
default (``users: instance``, see :mod:`baselines.alpharec.scoring`); ``users: static`` is the published way.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from baselines.alpharec.config import BACKBONE, FILE, AlphaRecConfig
from baselines.alpharec.graph import TrainGraph
from baselines.alpharec.model import GraphInputs, ItemTexts, SharedHead
from baselines.alpharec.scoring import Scorer, mean_metric, target_places
from baselines.alpharec.training import train_head
from baselines.alpharec.vectors import build_source, item_vectors
from recbench.artifacts.files import read_json, write_json
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.hashing import hash_arrays, hash_json
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.contracts.seeding import derive_seed, numpy_rng
from recbench.llm.train import isolated_randomness
from recbench.methods.dense import rank_by_scores

_FACTS = "facts.json"
_TEXT_PACKAGES = ("torch", "transformers", "tokenizers")


class AlphaRec(Method):
    """Ranks items by the cosine of user and item vectors after graph convolution over text vectors."""

    config_class = AlphaRecConfig
    capabilities = Capabilities(uses_backbone=True, packages=_TEXT_PACKAGES)

    config: AlphaRecConfig

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        # Only vectors from the run's language model make the run depend on one.
        self._source = build_source(self.config)
        source = self._source.capabilities if self._source else Capabilities(packages=_TEXT_PACKAGES)
        self.capabilities = Capabilities(
            uses_backbone=self.config.embedding == BACKBONE or source.uses_backbone,
            packages=("torch",) if self.config.embedding == FILE else source.packages,
            extra=source.extra,
        )

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Embed the titles, build the graph and train the head."""
        config, n_items = self.config, len(ctx.catalog)
        with ctx.stage("embed"):
            vectors, known = item_vectors(config, self._source, train, valid, ctx)
        texts = ItemTexts.of(vectors, known, ctx.device)
        graph = TrainGraph.of(train, n_items)
        inputs = GraphInputs(texts, graph, ctx.device)
        width = vectors.shape[1]
        with isolated_randomness(derive_seed(ctx.seed, "alpharec", "weights")):
            head = SharedHead(width, config.hidden_width(width), config.dim, config.head).to(ctx.device)
        measured = self._valid_rows(valid, ctx)

        def evaluate(current: SharedHead) -> float:
            score = partial(Scorer.of(current, inputs, config.layers).scores, users=config.users)
            return mean_metric(config.training.metric, *target_places(score, measured, n_items, ctx.mask_history))

        with ctx.stage("train"):
            done = train_head(
                head,
                inputs,
                config.layers,
                evaluate if len(measured) else None,
                config.training,
                ctx.work_dir / f"{self._training_key(vectors, train, measured, ctx)}.safetensors",
                ctx,
            )
        self._scorer = Scorer.of(head, inputs, config.layers)
        self._facts = {
            "training": {**asdict(done), "metric": config.training.metric},
            "text_width": width,
            "hidden_width": config.hidden_width(width) if config.head == "mlp" else None,
            "users": len(graph.users),
            "edges": len(graph.items),
            "items_without_edge": int((graph.item_degree == 0).sum()),
            "items_without_vector": int((~known).sum()),
        }

    def _valid_rows(self, valid: Examples, ctx: RunContext) -> Examples:
        limit = self.config.training.eval_rows
        if limit is None or len(valid) <= limit:
            return valid
        rng = numpy_rng(ctx.seed, "alpharec", "eval-rows")
        return valid.take(np.sort(rng.choice(len(valid), limit, replace=False)))

    def _training_key(self, vectors: Tensor, train: Examples, valid: Examples, ctx: RunContext) -> str:
        """Return a hash of what determines the weights, so that a checkpoint never serves another training."""
        rows = [train.fingerprint, valid.fingerprint, hash_arrays([vectors.numpy()])]
        return hash_json([self.config.model_dump(mode="json"), rows, ctx.seed, ctx.mask_history])

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Rank the whole catalogue for every query."""

        def score(batch: Queries) -> np.ndarray:
            return self._scorer.scores(batch, self.config.users).cpu().numpy()

        return rank_by_scores(queries, k, len(ctx.catalog), score, ctx.mask_history)

    def save(self, folder: Path) -> None:
        """Write vectors, weights and facts."""
        self._scorer.save(folder)
        write_json(folder / _FACTS, self._facts)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> AlphaRec:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        method._scorer = Scorer.load(folder, method.config.head, ctx.device)
        method._facts = read_json(folder / _FACTS)
        return method

    def summary(self) -> dict[str, Any]:
        """Return the facts of the fit."""
        return self._facts
