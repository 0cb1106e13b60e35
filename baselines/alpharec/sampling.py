"""What one epoch of AlphaRec trains on: users in turn, one of their items each, and items they do not have."""

from __future__ import annotations

import numpy as np

from baselines.alpharec.graph import TrainGraph

# Flags of the sieve per edge: one non-edge in 17 passes. The bounds keep it between 1 kB and 64 MB.
_FLAGS_PER_EDGE = 16
_MIN_BITS, _MAX_BITS = 10, 26
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Fibonacci hashing)


def epoch_pairs(graph: TrainGraph, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one epoch: as many pairs as the graph has edges, users in turn, in random order.

    Every user is drawn equally often (up to one), however many items they have. Users who have all items are left
    out, as no negative exists for them.

    Returns:
        int64 (n,), users' places in the graph, and int64 (n,), an item of each, drawn uniformly.
    """
    able = np.flatnonzero(graph.user_degree < graph.n_items)
    if not len(able):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = rng.permutation(able[np.arange(len(graph.items)) % len(able)])
    chosen = (rng.random(len(places)) * graph.user_degree[places]).astype(np.int64)
    return places, graph.items[graph.offsets[places] + chosen]


class NegativeSampler:
    """Draws items that a user has no edge to, all of them equally likely.

    An item is drawn from the whole catalogue; if the user has it, the draw is replaced by one from the user's other
    items. Both ways give each of these items the same chance, and the second, which costs a binary search, is rare. A
    sieve of hashed pairs tells for most draws at once that the pair is no edge.

    Args:
        graph: the training pairs.
    """

    def __init__(self, graph: TrainGraph) -> None:
        self._graph = graph
        self._edges = graph.owner * graph.n_items + graph.items
        self._bits = int(np.clip(np.ceil(np.log2(_FLAGS_PER_EDGE * len(self._edges))), _MIN_BITS, _MAX_BITS))
        self._sieve = np.zeros(1 << self._bits, dtype=bool)
        self._sieve[self._slot(self._edges)] = True
        # Of a user's free items number r comes after as many of the user's items as have (item - own rank) <= r.
        rank = np.arange(len(graph.items)) - graph.offsets[graph.owner]
        self._skips = graph.owner * (graph.n_items + 1) + graph.items - rank

    def draw(self, places: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return int64 (B, n): ``n`` items for each of the B users at ``places``; an item may come twice."""
        n_items = self._graph.n_items
        drawn = rng.integers(0, n_items, (len(places), n))
        pairs = places[:, None] * n_items + drawn
        row, column = np.nonzero(self._sieve.take(self._slot(pairs)))
        suspects = pairs[row, column]
        at = np.minimum(np.searchsorted(self._edges, suspects), len(self._edges) - 1)
        is_edge = self._edges[at] == suspects
        row, column = row[is_edge], column[is_edge]
        drawn[row, column] = self._free_items(places[row], rng)
        return drawn

    def _free_items(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        graph = self._graph
        number = (rng.random(len(places)) * (graph.n_items - graph.user_degree[places])).astype(np.int64)
        before = np.searchsorted(self._skips, places * (graph.n_items + 1) + number, side="right")
        return number + before - graph.offsets[places]

    def _slot(self, pairs: np.ndarray) -> np.ndarray:
        return (pairs.astype(np.uint64) * _HASH) >> np.uint64(64 - self._bits)
