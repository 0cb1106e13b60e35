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
    tokens = np.fromiter(chain.from_iterable(sequences), np.int32, lengths.sum())
    order = _sorted_order(tokens, lengths)
    # All tokens of the sorted sequences in one row; `column` is each token's place in its sequence.
    starts, lengths = (np.cumsum(lengths) - lengths)[order], lengths[order]
    begins = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(tokens)) - begins[row]
    tokens = tokens[starts[row] + column]

    # A token opens a node where its sequence has left the one before.
    above = np.maximum(row - 1, 0)
    in_both = (row > 0) & (column < lengths[above])
    same = in_both & (tokens[np.where(in_both, begins[above] + column, 0)] == tokens)
    shared = np.minimum.reduceat(np.where(same, lengths[row], column), begins)
    opens = column >= shared[row]
    row, column, token = row[opens], column[opens], tokens[opens]
    n_nodes = 1 + len(token)
    # Breadth first: by column, then by row. A node's parent is the last one of the column before up to its row.
    by_level = np.argsort(column, kind="stable")
    place = column[by_level] * len(lengths) + row[by_level]
    parent = np.searchsorted(place, place - len(lengths), side="right")

    leaf = np.full(n_nodes, -1, dtype=np.int32)
    ends = column[by_level] == lengths[row[by_level]] - 1
    leaf[1:][ends] = order[row[by_level][ends]]
    n_children = np.bincount(parent, minlength=n_nodes)
    if ends.sum() < len(lengths) or n_children[1:][ends].any():
        raise ValueError("Two sequences are equal, or one is a prefix of another.")
    # Sorted sequences list the nodes with each node right before its subtree.
    preorder = np.zeros(n_nodes, dtype=np.int32)
    preorder[1:] = 1 + by_level
    # Breadth-first numbering: the children of all earlier nodes come first.
    first_child = 1 + np.concatenate([[0], np.cumsum(n_children)])
    return TokenTrie(
        token=np.concatenate([[-1], token[by_level]]).astype(np.int32),
        first_child=first_child.astype(np.int32),
        leaf=leaf,
        preorder=preorder,
        max_length=int(lengths.max()),
    )


def _sorted_order(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return int64 (S,), the order of sequences by their tokens; a prefix comes first.

    Args:
        tokens: int32, the tokens of all sequences, one after the other; not negative.
        lengths: int64 (S,).
    """
    # Numbers with their highest byte first compare like their bytes.
    raw, ends = tokens.astype(">u4").tobytes(), np.cumsum(lengths) * 4
    texts = [raw[start:end] for start, end in zip(ends - 4 * lengths, ends, strict=True)]
    return np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int64)
