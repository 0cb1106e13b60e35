"""The bipartite graph of users and items in the training rows, and light graph convolution on it.

LightGCN's propagation without weights, self loops or activation: X_{l+1} = D^-1/2 A D^-1/2 X_l, split into its two
blocks, users <- items and items <- users. Dimensions: U users of the graph, I items, E edges, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbench.contracts.examples import Examples


@dataclass(frozen=True)
class TrainGraph:
    """Who had what in the training rows, in histories or as targets. A pair counts once, however often it occurs.

    Attributes:
        users: int64 (U,), user numbers with training rows, ascending.
        offsets: int64 (U+1,); user at place ``p`` has ``items[offsets[p]:offsets[p+1]]``.
        items: int64 (E,), ascending for every user.
        n_items: I, all items of the catalogue; those without an edge have degree 0.
    """

    users: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    n_items: int

    @classmethod
    def of(cls, train: Examples, n_items: int) -> TrainGraph:
        """Collect the pairs of the training rows."""
        owner = np.concatenate([np.repeat(train.user, train.history_length), train.user]).astype(np.int64)
        pairs = np.unique(owner * n_items + np.concatenate([train.items, train.target]))
        users, degree = np.unique(pairs // n_items, return_counts=True)
        return cls(users, np.concatenate([[0], np.cumsum(degree)]).astype(np.int64), pairs % n_items, n_items)

    @cached_property
    def user_degree(self) -> np.ndarray:
        """int64 (U,), at least 1."""
        return np.diff(self.offsets)

    @cached_property
    def item_degree(self) -> np.ndarray:
        """int64 (I,)."""
        return np.bincount(self.items, minlength=self.n_items)

    @cached_property
    def owner(self) -> np.ndarray:
        """int64 (E,): the user's place of every edge."""
        return np.repeat(np.arange(len(self.users)), self.user_degree)


class SparseMap:
    """A constant sparse matrix (R, C) that multiplies dense ones, with gradients.

    Rows and columns are both kept in order, so the product and its gradient are sums of whole rows, always in the
    same order.

    Args:
        row, column: int64 (E,), places of the entries.
        value: float (E,).
        shape: (R, C).
        device: where the matrix lies.
    """

    def __init__(
        self, row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int], device: str
    ) -> None:
        self._by_row = _bags(row, column, value, shape[0], device)
        self._by_column = _bags(column, row, value, shape[1], device)

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Return (R, d) for ``dense`` (C, d)."""
        return _Product.apply(dense, self._by_row, self._by_column)

    def transposed_times(self, dense: Tensor) -> Tensor:
        """Return (C, d), the transposed matrix times ``dense`` (R, d)."""
        return _Product.apply(dense, self._by_column, self._by_row)


_Bags = tuple[Tensor, Tensor, Tensor]


def _bags(owner: np.ndarray, member: np.ndarray, value: np.ndarray, n_owners: int, device: str) -> _Bags:
    order = np.lexsort((member, owner))
    starts = np.searchsorted(owner[order], np.arange(n_owners))
    arrays = starts.astype(np.int64), member[order].astype(np.int64), value[order].astype(np.float32)
    starts_, members, values = (torch.from_numpy(array).to(device) for array in arrays)
    return starts_, members, values


def bag_sums(dense: Tensor, starts: Tensor, members: Tensor, values: Tensor) -> Tensor:
    """Return (N, d): for each bag the weighted sum of rows of ``dense``.

    Args:
        dense: (C, d).
        starts: int64 (N,), where each bag begins; it ends where the next one begins, and may be empty.
        members: int64 (E,), rows of ``dense``.
        values: (E,), their weights.
    """
    return functional.embedding_bag(members, dense, starts, mode="sum", per_sample_weights=values.to(dense.dtype))


class _Product(torch.autograd.Function):
    """A constant sparse matrix times a dense one."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, forward: _Bags, backward: _Bags) -> Tensor:
        ctx.backward_bags = backward
        return bag_sums(dense, *forward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return bag_sums(gradients[0], *ctx.backward_bags), None, None


def normalized_adjacency(graph: TrainGraph, device: str) -> SparseMap:
    """Return D_u^-1/2 B D_i^-1/2 (U, I) for the 0/1 matrix B of the graph's pairs."""
    value = 1.0 / np.sqrt(graph.user_degree[graph.owner] * graph.item_degree[graph.items])
    return SparseMap(graph.owner, graph.items, value, (len(graph.users), graph.n_items), device)


def propagate(adjacency: SparseMap, users: Tensor, items: Tensor, layers: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the vectors of users and items after 0, 1, ..., ``layers`` steps.

    Args:
        adjacency: from :func:`normalized_adjacency`.
        users: (U, d), layer 0.
        items: (I, d), layer 0.
        layers: steps.
    """
    user_layers, item_layers = [users], [items]
    for _ in range(layers):
        users, items = adjacency @ items, adjacency.transposed_times(users)
        user_layers.append(users)
        item_layers.append(items)
    return user_layers, item_layers


def mean_layers(layers: list[Tensor]) -> Tensor:
    """Return the mean over layers."""
    return torch.stack(layers).mean(dim=0)
