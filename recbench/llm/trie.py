"""All titles of a catalogue as one token trie in flat integer arrays.

Nodes are numbered breadth first, so the children of a node are consecutive and sorted by token. Every path ends with
the end-of-sequence token, so a title that is a prefix of another is a path of its own; titles that several items
share are one path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class TokenTrie:
    """A trie over S distinct sequences.

    Attributes:
        token: int32 (n_nodes,), the token that leads to a node; -1 for the root, node 0.
        first_child: int32 (n_nodes + 1,); the children of node ``n`` are ``first_child[n]`` to
            ``first_child[n + 1] - 1``.
        leaf: int32 (n_nodes,), the number of the sequence that ends at a node, -1 elsewhere.
        preorder: int32 (n_nodes,), place of each node when every node stands right before its subtree. The nodes of a
            stretch without branches have consecutive places.
        max_length: tokens in the longest sequence.
    """

    token: np.ndarray
    first_child: np.ndarray
    leaf: np.ndarray
    preorder: np.ndarray
    max_length: int

    def __len__(self) -> int:
        return len(self.token)


def build_trie(sequences: Sequence[Sequence[int]]) -> TokenTrie:
    """Build the trie of distinct, prefix-free token sequences (each ends with the same end token).

    Args:
        sequences: token ids; sequence ``s`` gets leaf number ``s``.

    Raises:
        ValueError: a sequence is empty, appears twice, or is a prefix of another.
    """
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    if len(sequences) == 0 or lengths.min() == 0:
        raise ValueError("A trie needs at least one sequence, and no empty ones.")
    depth = int(lengths.max())
    table = np.full((len(sequences), depth), -1, dtype=np.int32)
    table[np.arange(depth) < lengths[:, None]] = np.fromiter(chain.from_iterable(sequences), np.int32, lengths.sum())
    order = np.lexsort(table.T[::-1])
    table, lengths = table[order], lengths[order]

    # A row opens a new node at a depth if its first tokens differ from the row before.
    differs = np.ones(table.shape, dtype=bool)
    differs[1:] = np.logical_or.accumulate(table[1:] != table[:-1], axis=1)
    is_node = differs & (table >= 0)
    per_depth = is_node.sum(axis=0)
    level_start = 1 + np.concatenate([[0], np.cumsum(per_depth)])
    # node_at[s, d]: the node that sequence s stands on after d + 1 tokens.
    node_at = level_start[:-1] + np.cumsum(is_node, axis=0) - 1
    n_nodes = int(level_start[-1])
    # Sorted rows list the nodes with each node right before its subtree.
    preorder = np.zeros(n_nodes, dtype=np.int32)
    preorder[node_at[is_node]] = np.arange(1, n_nodes)

    token = np.full(n_nodes, -1, dtype=np.int32)
    row, column = np.nonzero(is_node)
    token[node_at[row, column]] = table[row, column]
    leaf = np.full(n_nodes, -1, dtype=np.int32)
    ends = node_at[np.arange(len(table)), lengths - 1]
    leaf[ends] = order

    parent = np.where(column > 0, node_at[row, np.maximum(column - 1, 0)], 0)
    n_children = np.bincount(parent, minlength=n_nodes)
    if len(np.unique(ends)) != len(ends) or n_children[ends].any():
        raise ValueError("Two sequences are equal, or one is a prefix of another.")
    # Breadth-first numbering: the children of all earlier nodes come first.
    first_child = 1 + np.concatenate([[0], np.cumsum(n_children)])
    return TokenTrie(token, first_child.astype(np.int32), leaf, preorder, depth)
