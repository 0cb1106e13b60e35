"""Random and popularity, and the ranking by dense scores that they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import TrainingError
from recbench.contracts.examples import Examples, Queries, build_examples
from recbench.contracts.method import Method, RunContext
from recbench.methods.dense import rank_by_scores
from recbench.methods.load import build_method
from recbench.testing.tiny import N_ITEMS, tiny_catalog, tiny_split


def context(tmp_path: Path, catalog: ItemCatalog, seed: int = 1, mask: bool = False) -> RunContext:
    return RunContext(catalog, seed, "cpu", tmp_path, tmp_path, mask_history=mask)


def small_catalog(n_items: int) -> ItemCatalog:
    names = tuple(f"i{number}" for number in range(n_items))
    return ItemCatalog(names, names)


def small_rows() -> Examples:
    """Two users: 0 sees 0,1,2,1 and 1 sees 3,1. Targets: 1, 2, 1 and 1."""
    return build_examples(range(4), [0, 0, 0, 1], range(4), [[0], [0, 1], [0, 1, 2], [3]], [1, 2, 1, 1])


def fitted(name: str, ctx: RunContext, rows: Examples, **values: object) -> Method:
    method = build_method(name, values)
    method.fit(rows, rows.take([]), ctx)
    return method


def test_popularity_counts_targets_by_hand(tmp_path: Path) -> None:
    ctx = context(tmp_path, small_catalog(5))
    lists = fitted("popularity", ctx, small_rows()).rank(small_rows().queries().take([0, 3]), 2, ctx)
    assert lists.items.tolist() == [1, 2, 1, 2]
    assert lists.scores.tolist() == [3.0, 1.0, 3.0, 1.0]
    assert lists.example_id.tolist() == [0, 3]


def test_popularity_counts_events_by_hand(tmp_path: Path) -> None:
    ctx = context(tmp_path, small_catalog(5))
    lists = fitted("popularity", ctx, small_rows(), count="events").rank(small_rows().queries().take([0]), 5, ctx)
    # Events 0,1,2,1 and 3,1: item 1 three times; 0, 2 and 3 once, tied; 4 never.
    assert lists.items.tolist() == [1, 0, 2, 3, 4]
    assert lists.scores.tolist() == [3.0, 1.0, 1.0, 1.0, 0.0]


def test_popularity_lists_the_whole_tie_at_the_last_place(tmp_path: Path) -> None:
    ctx = context(tmp_path, small_catalog(5))
    lists = fitted("popularity", ctx, small_rows(), count="events").rank(small_rows().queries().take([0]), 2, ctx)
    assert lists.items.tolist() == [1, 0, 2, 3]


def test_popularity_masks_history(tmp_path: Path) -> None:
    ctx = context(tmp_path, small_catalog(5), mask=True)
    lists = fitted("popularity", ctx, small_rows()).rank(small_rows().queries().take([1]), 5, ctx)
    assert lists.items.tolist() == [2, 3, 4]


def test_random_depends_on_seed_and_example_only(tmp_path: Path) -> None:
    queries = tiny_split().test.queries()
    ctx = context(tmp_path, tiny_catalog())
    lists = build_method("random").rank(queries, N_ITEMS, ctx)
    alone = build_method("random").rank(queries.take([7]), N_ITEMS, ctx)
    assert np.array_equal(alone.items, lists.items[lists.offsets[7] : lists.offsets[8]])
    other = build_method("random").rank(queries, N_ITEMS, context(tmp_path, tiny_catalog(), seed=2))
    assert not np.array_equal(other.items, lists.items)


def test_random_is_uniform(tmp_path: Path) -> None:
    n_queries, n_items = 6000, 6
    queries = build_examples(range(n_queries), [0] * n_queries, [0] * n_queries, [[0]] * n_queries, [0] * n_queries)
    lists = build_method("random").rank(queries.queries(), 1, context(tmp_path, small_catalog(n_items)))
    counts = np.bincount(lists.items, minlength=n_items)
    # Five standard deviations around 1,000.
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(6000 * (1 / 6) * (5 / 6)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("mask", [False, True])
def test_rank_by_scores_equals_sorting_one_query_at_a_time(batch_size: int, mask: bool) -> None:
    queries = tiny_split().test.queries().take(np.arange(7))
    table = np.random.default_rng(0).integers(0, 20, size=(1000, N_ITEMS)).astype(float)

    def score(batch: Queries) -> np.ndarray:
        return table[batch.example_id]

    lists = rank_by_scores(queries, 10, N_ITEMS, score, mask, batch_size)
    for row, example in enumerate(queries.example_id):
        hidden = set(queries.history(row).tolist()) if mask else set()
        ranked = sorted((i for i in range(N_ITEMS) if i not in hidden), key=lambda i: (-table[example, i], i))
        last = table[example, ranked[9]]
        expected = [item for item in ranked if table[example, item] >= last]
        assert lists.items[lists.offsets[row] : lists.offsets[row + 1]].tolist() == expected


def test_rank_by_scores_leaves_the_scores_it_was_given_alone() -> None:
    queries = tiny_split().test.queries().take([0, 1])
    scores = np.ones((2, N_ITEMS))
    rank_by_scores(queries, 5, N_ITEMS, lambda batch: scores, mask_history=True)
    assert np.all(scores == 1.0)


def test_no_queries_give_no_lists() -> None:
    lists = rank_by_scores(tiny_split().test.queries().take([]), 5, N_ITEMS, lambda batch: np.ones((0, N_ITEMS)))
    assert len(lists) == 0
    lists.check(np.empty(0, np.int64), N_ITEMS)


def test_nan_scores_are_refused() -> None:
    with pytest.raises(TrainingError, match="NaN"):
        rank_by_scores(tiny_split().test.queries(), 5, N_ITEMS, lambda batch: np.full((len(batch), N_ITEMS), np.nan))
