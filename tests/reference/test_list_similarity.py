"""Similarity and the other facts of lists under ties: against every order of every tie, one by one."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import build_examples
from recbench.contracts.rankings import Rankings
from recbench.evaluation.lists import describe_lists
from recbench.evaluation.places import item_lists
from recbench.evaluation.popularity import is_popular, popularity_rank, self_information, target_counts
from recbench.evaluation.similarity import category_vectors, list_similarity, title_vectors

TITLES = ("Red Car", "Blue Car", "Red Boat", "", "The Blue, Blue Boat", "Train", "red car!")
CATEGORIES = ("Toys > Cars", "Toys > Cars", "Toys > Boats | Gifts", "", "Toys > Boats", "Gifts", "Toys > Cars")
CATALOG = ItemCatalog(tuple("abcdefg"), TITLES, categories=CATEGORIES)


def rankings_of(lists: list[list[tuple[int, float]]]) -> Rankings:
    places = [place for one in lists for place in one]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    items = np.array([item for item, _ in places], dtype=np.int32)
    return Rankings(np.arange(len(lists)), offsets, items, np.array([score for _, score in places], dtype=float))


def orders(one: list[tuple[int, float]]) -> list[list[int]]:
    """Return every order of a list that its scores allow."""
    scores = sorted({score for _, score in one}, reverse=True)
    groups = [list(permutations([item for item, s in one if s == score])) for score in scores]
    return [[item for group in chosen for item in group] for chosen in product(*groups)]


@st.composite
def tied_lists(draw: st.DrawFn) -> list[list[tuple[int, float]]]:
    def one() -> list[tuple[int, float]]:
        items = draw(st.lists(st.integers(0, len(TITLES) - 1), unique=True, max_size=5))
        scores = sorted((draw(st.integers(0, 2)) for _ in items), reverse=True)
        return [(item, float(score)) for item, score in zip(items, scores, strict=True)]

    return [one() for _ in range(draw(st.integers(1, 3)))]


@settings(max_examples=60, deadline=None)
@given(tied_lists(), st.integers(1, 5))
def test_similarity_is_the_mean_over_all_orders_of_the_ties(lists: list[list[tuple[int, float]]], k: int) -> None:
    rankings = rankings_of(lists)
    for vectors in (title_vectors(CATALOG), category_vectors(CATALOG)):
        assert vectors is not None
        cosine = (vectors @ vectors.T).toarray()
        found = list_similarity(item_lists(rankings), vectors, k)
        for one, value in zip(lists, found, strict=True):
            if min(len(one), k) < 2:
                assert np.isnan(value)
                continue
            means = [np.mean([cosine[a, b] for a, b in combinations(order[:k], 2)]) for order in orders(one)]
            assert value == pytest.approx(np.mean(means), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(tied_lists(), st.integers(1, 5))
def test_novelty_and_popular_share_are_means_over_all_orders_of_the_ties(
    lists: list[list[tuple[int, float]]], k: int
) -> None:
    train = build_examples(range(4), [0] * 4, range(4), [[0]] * 4, [0, 0, 1, 2])
    counts = target_counts(train, len(TITLES))
    value = {
        "novelty": self_information(counts),
        "popular_share": is_popular(counts, popularity_rank(counts, CATALOG.ids), len(TITLES)).astype(float),
        "average_popularity": counts.astype(float),
    }
    facts = describe_lists(rankings_of(lists), CATALOG, train, k)
    for name, of_item in value.items():
        # Every list has the same weight per place that it has among its first k.
        totals = [np.mean([of_item[order[:k]].sum() for order in orders(one)]) for one in lists if one]
        places = sum(min(len(one), k) for one in lists)
        if places:
            assert facts[name] == pytest.approx(sum(totals) / places, abs=1e-12)
        else:
            assert facts[name] is None


def test_title_vectors_equal_those_of_scikit_learn() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    theirs = text.TfidfVectorizer(token_pattern=r"[^\W_]+").fit_transform(TITLES).toarray()
    ours = title_vectors(CATALOG).toarray()
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, rtol=0, atol=1e-12)


def test_category_vectors_by_hand() -> None:
    vectors = category_vectors(CATALOG)
    assert vectors is not None
    cosine = (vectors @ vectors.T).toarray()
    assert cosine[0, 1] == pytest.approx(1.0)
    # Toys, Toys > Cars against Toys, Toys > Boats, Gifts: one label in common.
    assert cosine[0, 2] == pytest.approx(1 / np.sqrt(2 * 3))
    assert cosine[2, 5] == pytest.approx(1 / np.sqrt(3))
    assert cosine[3].sum() == 0  # unknown: alike to nothing, itself included
    assert category_vectors(ItemCatalog(("a",), ("x",))) is None
    assert category_vectors(ItemCatalog(("a",), ("x",), categories=("",))) is None
