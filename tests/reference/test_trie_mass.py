"""Masses of trie nodes against sums over all answers, prefix by prefix."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.llm.trie_mass import node_masses, share_logprobs
from recbench.llm.trie import TokenTrie, build_trie

END = 0
titles = st.lists(st.integers(1, 3), max_size=4)
catalogues = st.lists(titles, min_size=1, max_size=12, unique_by=tuple)


def paths(trie: TokenTrie) -> list[tuple[int, ...]]:
    """Return the tokens from the root to every node."""
    found: list[tuple[int, ...]] = [()] * len(trie)
    for node in range(len(trie)):
        for child in range(trie.first_child[node], trie.first_child[node + 1]):
            found[child] = (*found[node], int(trie.token[child]))
    return found


@settings(max_examples=60, deadline=None)
@given(catalogues, st.integers(0, 2**32 - 1))
def test_masses_and_shares_equal_brute_force(catalogue: list[list[int]], seed: int) -> None:
    answers = [(*title, END) for title in catalogue]
    trie = build_trie(answers)
    generator = np.random.default_rng(seed)
    masses = generator.dirichlet(np.full(len(answers), 0.2), size=2)
    masses[1, generator.integers(len(answers))] = 0.0

    found = node_masses(masses, trie)
    shares = share_logprobs(found, trie)
    path = paths(trie)
    for row in range(2):
        for node, prefix in enumerate(path):
            named = zip(masses[row], answers, strict=True)
            below = sum(mass for mass, answer in named if answer[: len(prefix)] == prefix)
            assert np.isclose(found[row, node], below, rtol=1e-12, atol=1e-15)
            if not prefix:
                assert shares[row, node] == 0
                continue
            siblings = [other for other in path if len(other) == len(prefix) and other[:-1] == prefix[:-1]]
            together = sum(found[row, path.index(other)] + 1e-20 for other in siblings)
            assert np.isclose(shares[row, node], np.log((found[row, node] + 1e-20) / together), rtol=1e-9, atol=1e-12)
            assert np.isfinite(shares[row, node])
