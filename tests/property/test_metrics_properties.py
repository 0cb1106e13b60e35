"""Invariants of the metrics, and the expectation over ties against brute force over all orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import build_examples
from recbench.contracts.rankings import Rankings
from recbench.evaluation.accuracy import expected_metrics
from recbench.evaluation.evaluate import evaluate
from recbench.evaluation.lists import expected_coverage, exposure
from recbench.evaluation.places import item_lists

CUTOFFS = (1, 3, 5, 10, 20)
GAIN = {"HR": lambda r: 1.0, "NDCG": lambda r: 1 / math.log2(r + 1), "MRR": lambda r: 1 / r}


@st.composite
def scored_lists(draw: st.DrawFn, n_items: int = 6, max_lists: int = 3) -> Rankings:
    """A few lists over few items with few different scores, so that ties are frequent."""
    lists = []
    for _ in range(draw(st.integers(1, max_lists))):
        items = draw(st.lists(st.integers(0, n_items - 1), unique=True, max_size=n_items))
        scores = sorted(draw(st.lists(st.integers(0, 3), min_size=len(items), max_size=len(items))), reverse=True)
        lists.append(list(zip(items, scores, strict=True)))
    return Rankings(
        np.arange(len(lists)),
        np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64),
        np.array([item for one in lists for item, _ in one], dtype=np.int32),
        np.array([score for one in lists for _, score in one], dtype=np.float64),
    )


def all_orders(items: list[int], scores: list[float]) -> list[list[int]]:
    """Every order of a list that keeps the scores from rising."""
    groups = [[i for i, s in zip(items, scores, strict=True) if s == score] for score in sorted(set(scores))[::-1]]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    return [[item for group in order for item in group] for order in orders]


def brute_force(name: str, k: int, items: list, scores: list[float], target: object) -> float:
    values = [
        GAIN[name](order.index(target) + 1) if target in order[:k] else 0.0 for order in all_orders(items, scores)
    ]
    return sum(values) / len(values)


@settings(deadline=None)
@given(scored_lists(), st.lists(st.integers(0, 5), min_size=3, max_size=3), st.lists(st.integers(0, 2), min_size=6))
def test_expectation_is_the_mean_over_all_orders_of_ties(
    rankings: Rankings, targets: list[int], title_of: list[int]
) -> None:
    n = len(rankings)
    catalog = ItemCatalog(tuple("abcdef"), tuple(f"title {title_of[i]}" for i in range(6)))
    examples = build_examples(range(n), [0] * n, range(n), [[0]] * n, targets[:n])
    table = evaluate(rankings, examples, catalog, ("u",), cutoffs=(1, 2, 5))
    for row in range(n):
        listed = slice(rankings.offsets[row], rankings.offsets[row + 1])
        items, scores = rankings.items[listed].tolist(), rankings.scores[listed].tolist()
        by_title: dict[str, float] = {}
        for item, score in zip(items, scores, strict=True):
            by_title[catalog.titles[item]] = max(score, by_title.get(catalog.titles[item], -1.0))
        target = targets[row]
        for name, k in itertools.product(GAIN, (1, 2, 5)):
            by_item = brute_force(name, k, items, scores, target)
            assert table[f"item/{name}@{k}"][row] == pytest.approx(by_item, abs=1e-12)
            titles, values = list(by_title), list(by_title.values())
            of_title = brute_force(name, k, titles, values, catalog.titles[target])
            assert table[f"title/{name}@{k}"][row] == pytest.approx(of_title, abs=1e-12)


places = st.lists(
    st.one_of(st.just((0, 0)), st.tuples(st.integers(1, 60), st.integers(0, 40)).map(lambda p: (p[0], p[0] + p[1]))),
    min_size=1,
    max_size=20,
)


@given(places)
def test_bounds_and_order_of_metrics(pairs: list[tuple[int, int]]) -> None:
    first, last = np.array(pairs).T
    values = expected_metrics(first, last, CUTOFFS)
    slack = 1e-12
    for k in CUTOFFS:
        hr, ndcg, mrr = (values[f"{name}@{k}"] for name in ("HR", "NDCG", "MRR"))
        assert np.all(mrr >= 0)
        assert np.all(mrr <= ndcg + slack)
        assert np.all(ndcg <= hr + slack)
        assert np.all(hr <= 1)
    for name, (small, large) in itertools.product(GAIN, itertools.pairwise(CUTOFFS)):
        assert np.all(values[f"{name}@{small}"] <= values[f"{name}@{large}"] + slack)


@given(places)
def test_a_better_place_never_lowers_a_metric(pairs: list[tuple[int, int]]) -> None:
    first, last = np.array([pair for pair in pairs if pair[0] > 1] or [(2, 2)]).T
    before, after = expected_metrics(first, last, CUTOFFS), expected_metrics(first - 1, last - 1, CUTOFFS)
    for name, values in after.items():
        assert np.all(values >= before[name] - 1e-12)


@given(scored_lists(max_lists=4), st.randoms(use_true_random=False))
def test_order_of_examples_changes_nothing(rankings: Rankings, random) -> None:
    n = len(rankings)
    catalog = ItemCatalog(tuple("abcdef"), ("x", "x", "y", "z", "", ""))
    examples = build_examples(range(n), range(n), range(n), [[0]] * n, [row % 6 for row in range(n)])
    users = tuple(f"u{user}" for user in range(n))
    order = list(range(n))
    random.shuffle(order)
    pieces = [np.arange(rankings.offsets[row], rankings.offsets[row + 1]) for row in order]
    taken = np.concatenate([np.empty(0, np.int64), *pieces])
    shuffled = Rankings(
        rankings.example_id[order],
        np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64),
        rankings.items[taken],
        rankings.scores[taken],
    )
    straight = evaluate(rankings, examples, catalog, users)
    other = evaluate(shuffled, examples.take(order), catalog, users).sort_values("example_id", ignore_index=True)
    assert straight.equals(other)


@settings(deadline=None)
@given(scored_lists(n_items=4, max_lists=2), st.integers(1, 4))
def test_coverage_is_the_mean_over_all_orders_of_ties(rankings: Rankings, k: int) -> None:
    per_list = []
    for row in range(len(rankings)):
        listed = slice(rankings.offsets[row], rankings.offsets[row + 1])
        per_list.append(all_orders(rankings.items[listed].tolist(), rankings.scores[listed].tolist()))
    shares = [len({item for order in orders for item in order[:k]}) / 4 for orders in itertools.product(*per_list)]
    chance = exposure(item_lists(rankings), k)
    assert expected_coverage(rankings.items, chance, 4) == pytest.approx(sum(shares) / len(shares), abs=1e-12)
