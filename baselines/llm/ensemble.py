"""D3's second opinion: a recommender that knows no text, seen through the token trie of the titles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from baselines.llm.trie_mass import answer_masses, item_probabilities, node_masses, share_logprobs
from baselines.nested import NestedMethod, fit_once
from recbench.artifacts.files import atomic_path
from recbench.contracts.errors import ConfigError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.hashing import hash_arrays, hash_json
from recbench.contracts.method import Method, RunContext
from recbench.llm.answers import Answers
from recbench.llm.beam import TrieGuide
from recbench.llm.trie import TokenTrie

# Scores asked for at once: 4 million, whatever the size of the catalogue.
_MAX_SCORES = 4_000_000


class EnsembleSettings(NestedMethod):
    """Which recommender is mixed into the search, and how."""

    method: str = Field(description="any registered method that needs no language model ('sasrec', 'popularity')")
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="weight of the language model, 1: it alone. Unset: the best of alpha_grid by validation NDCG@10",
    )
    alpha_grid: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        min_length=1,
        description="what alpha is chosen from; the largest of equally good ones",
    )
    valid_rows: int | None = Field(
        200, ge=1, description="validation rows that alpha is chosen on, drawn at random; unset: all"
    )
    probabilities: Literal["softmax", "proportional"] = Field(
        "softmax",
        description="from scores to probabilities of items: softmax of scores / temperature, or shares of counts "
        "(for popularity)",
    )
    temperature: float = Field(1.0, gt=0, description="of the softmax")


@dataclass
class Partner:
    """The text-free recommender of an ensemble.

    Attributes:
        method: the configured, and later fitted, method.
        settings: of the ensemble.
    """

    method: Method
    settings: EnsembleSettings

    @classmethod
    def build(cls, settings: EnsembleSettings) -> Partner:
        """Configure the method.

        Raises:
            ConfigError: it is unknown, its configuration is not accepted, or it builds on a language model itself.
        """
        method = settings.build()
        if method.capabilities.uses_backbone:
            raise ConfigError(
                f"ensemble.method is '{settings.method}', which builds on a language model itself.",
                "Choose a method that knows items by their numbers only ('sasrec', 'gru4rec', 'popularity').",
            )
        return cls(method, settings)

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the fitted method."""
        return {"method": self.settings.method, "config": self.method.config.model_dump(mode="json")}

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Fit on the same rows, in a work folder of its own; one that an earlier attempt fitted is loaded."""
        self.method = fit_once(self.method, "partner", train, valid, replace(ctx, backbone=None, mask_history=False))

    def save(self, folder: Path) -> None:
        """Write the fitted method into an empty folder."""
        self.method.save(folder)

    def load(self, folder: Path, ctx: RunContext) -> None:
        """Read what :meth:`save` wrote."""
        self.method = type(self.method).load(folder, self.method.config, _own(ctx))

    def scores(self, queries: Queries, ctx: RunContext) -> np.ndarray:
        """Return float32 (N, n_items): scores of the whole catalogue, -inf where the method lists nothing.

        They lie in a file of the work folder, so that a resumed run does not ask again, and are read from there.
        """
        name = hash_json([self.identity, hash_arrays([queries.example_id, queries.offsets, queries.items])])
        path = ctx.work_dir / "partner-scores" / f"{name}.npy"
        if not path.exists():
            with ctx.stage("score-partner"), atomic_path(path) as temporary:
                self._write_scores(queries, temporary, _own(ctx))
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _write_scores(self, queries: Queries, path: Path, ctx: RunContext) -> None:
        n_items = len(ctx.catalog)
        shape = (len(queries), n_items)
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        size = max(1, _MAX_SCORES // n_items)
        for start in range(0, len(queries), size):
            rows = np.arange(start, min(start + size, len(queries)))
            lists = self.method.rank(queries.take(rows), n_items, ctx)
            table[rows] = -np.inf
            table[start + np.repeat(np.arange(len(rows)), lists.lengths), lists.items] = lists.scores
        table.flush()


def _own(ctx: RunContext) -> RunContext:
    """Return the surroundings of the partner: no language model, a folder of its own, nothing masked."""
    return replace(ctx, work_dir=ctx.work_dir / "partner", backbone=None, mask_history=False)


class EnsembleGuide:
    """What the partner thinks of each step of the trie, for the queries it was made for.

    Args:
        partner: fitted.
        queries: all queries that will be asked about.
        answers: the titles as tokens.
        device: where the search runs.
        ctx: the run.
    """

    def __init__(
        self, partner: Partner, queries: Queries, answers: Answers, device: torch.device, ctx: RunContext
    ) -> None:
        self._settings = partner.settings
        self._scores = partner.scores(queries, ctx)
        self._row_of = {int(example): row for row, example in enumerate(queries.example_id)}
        self._answers = answers
        self._trie: TokenTrie = answers.trie
        self._device = device
        self._identity = partner.identity

    def with_alpha(self, alpha: float) -> _AtAlpha:
        """Return the guide that mixes with this weight of the language model."""
        how = [self._settings.probabilities, self._settings.temperature]
        return _AtAlpha(self, alpha, hash_json([self._identity, how, alpha]))

    def shares(self, queries: Queries) -> torch.Tensor:
        """Return float32 (B, n_nodes): log shares of the partner's mass (see :class:`TrieGuide`)."""
        scores = self._scores[[self._row_of[int(example)] for example in queries.example_id]]
        probabilities = item_probabilities(scores, self._settings.probabilities, self._settings.temperature)
        masses = answer_masses(probabilities, self._answers.of_item, len(self._answers.tokens))
        shares = share_logprobs(node_masses(masses, self._trie), self._trie)
        return torch.from_numpy(shares).float().to(self._device)


@dataclass(frozen=True)
class _AtAlpha:
    """An :class:`EnsembleGuide` with a fixed weight: a guide of :func:`recbench.llm.decode.rank_titles`."""

    guide: EnsembleGuide
    alpha: float
    key: str

    def __call__(self, queries: Queries) -> TrieGuide:
        return TrieGuide(self.guide.shares(queries), self.alpha)
