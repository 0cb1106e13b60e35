"""The flat trie holds exactly the sequences it was built from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.llm.trie import TokenTrie, build_trie

END = 9


def walk(trie: TokenTrie) -> dict[tuple[int, ...], int]:
    """Return all paths from the root to a leaf, by plain recursion."""
    found: dict[tuple[int, ...], int] = {}

    def visit(node: int, path: tuple[int, ...]) -> None:
        if trie.leaf[node] >= 0:
            found[path] = int(trie.leaf[node])
        for child in range(trie.first_child[node], trie.first_child[node + 1]):
            visit(child, (*path, int(trie.token[child])))

    visit(0, ())
    return found


def preorder(trie: TokenTrie) -> list[int]:
    """Return the place of every node when each stands right before its subtree."""
    visited: list[int] = []

    def visit(node: int) -> None:
        visited.append(node)
        for child in range(trie.first_child[node], trie.first_child[node + 1]):
            visit(child)

    visit(0)
    return np.argsort(visited).tolist()


def test_hand_made_trie() -> None:
    trie = build_trie([(1, 2, END), (1, END), (3, END)])
    assert walk(trie) == {(1, 2, END): 0, (1, END): 1, (3, END): 2}
    assert trie.max_length == 3
    # Root, then 1 and 3, then the children of 1 (2 and END) and of 3 (END), then END below 2.
    assert trie.token.tolist() == [-1, 1, 3, 2, END, END, END]
    assert trie.first_child.tolist() == [1, 3, 5, 6, 7, 7, 7, 7]
    # Root; 1, its child 2 with END, its child END; 3 with END.
    assert trie.preorder.tolist() == [0, 1, 5, 2, 4, 6, 3]


@given(st.sets(st.lists(st.integers(0, 4), min_size=0, max_size=6).map(tuple), min_size=1, max_size=40))
def test_trie_accepts_exactly_its_sequences(titles: set[tuple[int, ...]]) -> None:
    sequences = [(*title, END) for title in sorted(titles, key=hash)]
    trie = build_trie(sequences)
    assert walk(trie) == {sequence: number for number, sequence in enumerate(sequences)}
    for node in range(len(trie)):
        children = trie.token[trie.first_child[node] : trie.first_child[node + 1]]
        assert (np.diff(children) > 0).all()
    assert trie.preorder.tolist() == preorder(trie)


@pytest.mark.parametrize("sequences", [[], [()], [(1, 2), (1, 2)], [(1, 2), (1,)]])
def test_bad_sequences_are_refused(sequences: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"trie needs|prefix"):
        build_trie(sequences)
