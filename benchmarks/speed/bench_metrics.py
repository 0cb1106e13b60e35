"""Metrics of 10,000 lists of 20 places by both truths: columns at once against a Python loop over rows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import Examples
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.evaluation.evaluate import DEFAULT_CUTOFFS, evaluate

NAME = "metrics"


def make_input(
    n_examples: int, n_items: int, k: int, seed: int = 0
) -> tuple[Rankings, Examples, ItemCatalog, tuple[str, ...]]:
    """Return random lists with a few ties, shared titles and targets that are listed about half of the time."""
    rng = np.random.default_rng(seed)
    n_pool = 2 * k
    pool = np.argsort(rng.random((n_examples, n_pool * 2)), axis=1)[:, :n_pool]
    scores = np.round(rng.random((n_examples, n_pool)), 2)
    parts = rankings_from_scores(np.arange(n_examples), scores, k)
    row = np.repeat(np.arange(n_examples), parts.lengths)
    items = ((pool[row, parts.items] + 37 * row) % n_items).astype(np.int32)
    rankings = Rankings(parts.example_id, parts.offsets, items, parts.scores)
    target = ((pool[:, 0] + 37 * np.arange(n_examples)) % n_items).astype(np.int32)
    one_each = np.arange(n_examples + 1, dtype=np.int64)
    user = (np.arange(n_examples) // 4).astype(np.int32)
    examples = Examples(parts.example_id, user, one_each[:-1], one_each, np.zeros(n_examples, dtype=np.int32), target)
    titles = [f"title {i - i % 2 if i % 10 == 1 else i}" for i in range(n_items)]
    catalog = ItemCatalog(tuple(map(str, range(n_items))), tuple(titles))
    return rankings, examples, catalog, tuple(f"u{u}" for u in range(n_examples // 4 + 1))


def loop_over_rows(
    rankings: Rankings, examples: Examples, catalog: ItemCatalog, users: tuple[str, ...]
) -> dict[str, list[float]]:
    """Measure the same row by row, the usual way of research code, with our tie rule."""
    columns: dict[str, list[float]] = {}
    for row in range(len(examples)):
        listed = slice(int(rankings.offsets[row]), int(rankings.offsets[row + 1]))
        items, scores = rankings.items[listed].tolist(), rankings.scores[listed].tolist()
        by_title: dict[str, float] = {}
        for item, score in zip(items, scores, strict=True):
            by_title.setdefault(catalog.titles[item], score)
        target = int(examples.target[row])
        truths = {
            "item": (items, scores, target),
            "title": (list(by_title), list(by_title.values()), catalog.titles[target]),
        }
        for truth, (things, values, wanted) in truths.items():
            score = values[things.index(wanted)] if wanted in things else None
            places = [place for place, value in enumerate(values, 1) if value == score]
            for k in DEFAULT_CUTOFFS:
                inside = [place for place in places if place <= k]
                n = max(len(places), 1)
                columns.setdefault(f"{truth}/HR@{k}", []).append(len(inside) / n)
                columns.setdefault(f"{truth}/NDCG@{k}", []).append(sum(1 / math.log2(p + 1) for p in inside) / n)
                columns.setdefault(f"{truth}/MRR@{k}", []).append(sum(1 / p for p in inside) / n)
    return columns


def run(n_examples: int = 10_000, n_items: int = 6_000, k: int = 20, repeats: int = 5) -> dict[str, Any]:
    """Time both ways on the same lists and compare every value of every metric."""
    data = make_input(n_examples, n_items, k)
    data[2].title_group  # noqa: B018  computed once per catalogue, not per evaluation
    table, ours_s = _median_time(lambda: evaluate(*data), repeats)
    slow, baseline_s = _median_time(lambda: loop_over_rows(*data), max(1, repeats // 2))
    error = max(float(np.abs(table[name].to_numpy() - np.asarray(values)).max()) for name, values in slow.items())
    return {
        "name": NAME,
        "ours_s": ours_s,
        "baseline_s": baseline_s,
        "ratio": baseline_s / ours_s,
        "equal": error < 1e-12,
        "sizes": {"examples": n_examples, "items": n_items, "places": k, "columns": len(slow)},
    }


def _median_time(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)
