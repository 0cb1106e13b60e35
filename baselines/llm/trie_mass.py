"""How a recommender that scores items sees the steps of a title trie. Pure functions, all in float64.

Dimensions: B queries, A answers (distinct titles as tokens), N nodes of the trie.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from recbench.contracts.errors import ConfigError
from recbench.llm.trie import TokenTrie

# Added to every node's mass, as in D3's published code: a step that the recommender rules out stays finite.
_FLOOR = 1e-20


def item_probabilities(scores: np.ndarray, how: Literal["softmax", "proportional"], temperature: float) -> np.ndarray:
    """Return float64 (B, n_items): scores of the whole catalogue as probabilities of a query's next item.

    Args:
        scores: (B, n_items), higher is better; -inf has probability 0. A query without any finite score, or with
            counts that are all 0, gets equal probabilities.
        how: "softmax" takes scores / temperature as logits, "proportional" takes scores as counts.
        temperature: of the softmax.

    Raises:
        ConfigError: a score is negative and ``how`` is "proportional".
    """
    scores = scores.astype(np.float64)
    listed = np.isfinite(scores)
    if how == "proportional":
        weight = np.where(listed, scores, 0.0)
        if weight.min() < 0:
            raise ConfigError(
                f"ensemble.probabilities is 'proportional', but there are scores below 0 ({weight.min():g}).",
                "Use 'softmax' for methods whose scores are no counts.",
            )
    else:
        top = np.where(listed, scores, -np.inf).max(axis=1, keepdims=True)
        weight = np.where(listed, np.exp((scores - np.where(np.isfinite(top), top, 0.0)) / temperature), 0.0)
    total = weight.sum(axis=1, keepdims=True)
    return np.where(total > 0, weight / np.where(total > 0, total, 1.0), 1.0 / scores.shape[1])


def answer_masses(probabilities: np.ndarray, answer_of_item: np.ndarray, n_answers: int) -> np.ndarray:
    """Return float64 (B, A): the probability of each answer, summed over the items that it stands for.

    Args:
        probabilities: float64 (B, n_items).
        answer_of_item: int (n_items,), -1 for items without a title; their probability is lost.
        n_answers: A.
    """
    titled = np.flatnonzero(answer_of_item >= 0)
    order = titled[np.argsort(answer_of_item[titled], kind="stable")]
    answers, starts = np.unique(answer_of_item[order], return_index=True)
    masses = np.zeros((len(probabilities), n_answers))
    masses[:, answers] = np.add.reduceat(probabilities[:, order], starts, axis=1)
    return masses


def node_masses(masses: np.ndarray, trie: TokenTrie) -> np.ndarray:
    """Return float64 (B, N): the mass of all answers below each node, summed from the leaves up.

    Args:
        masses: float64 (B, A).
        trie: its leaf numbers are answers.
    """
    result = np.zeros((len(masses), len(trie)))
    leaves = np.flatnonzero(trie.leaf >= 0)
    result[:, leaves] = masses[:, trie.leaf[leaves]]
    for start, end in reversed(_levels(trie)):
        inner = start + np.flatnonzero(np.diff(trie.first_child[start : end + 1]) > 0)
        if len(inner):
            first, last = trie.first_child[start], trie.first_child[end]
            # The children of a level's nodes follow each other, so each node's sum is one segment.
            result[:, inner] = np.add.reduceat(result[:, first:last], trie.first_child[inner] - first, axis=1)
    return result


def share_logprobs(masses: np.ndarray, trie: TokenTrie) -> np.ndarray:
    """Return float64 (B, N): log of each node's share of the mass of its parent's children; 0 at the root.

    Args:
        masses: float64 (B, N), of :func:`node_masses`.
        trie: the trie.
    """
    floored = masses[:, 1:] + _FLOOR
    n_children = np.diff(trie.first_child)
    inner = np.flatnonzero(n_children > 0)
    totals = np.add.reduceat(floored, trie.first_child[inner] - 1, axis=1)
    shares = np.zeros_like(masses)
    shares[:, 1:] = np.log(floored) - np.repeat(np.log(totals), n_children[inner], axis=1)
    return shares


def _levels(trie: TokenTrie) -> list[tuple[int, int]]:
    """Return first and last + 1 node of each depth, from the root down."""
    levels = [(0, 1)]
    while levels[-1][1] < len(trie):
        start, end = levels[-1]
        levels.append((int(trie.first_child[start]), int(trie.first_child[end])))
    return levels
