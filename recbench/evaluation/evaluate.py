"""Rankings and targets -> one row of metrics per example, and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ArtifactError
from recbench.contracts.examples import Examples
from recbench.contracts.likelihood import LIKELIHOOD, Likelihood
from recbench.contracts.rankings import Rankings
from recbench.evaluation.accuracy import TRUTHS, Truth, cutoff_of, expected_metrics, metric_column, parse_columns
from recbench.evaluation.lists import describe_generations, describe_lists, describe_validity, tied_share
from recbench.evaluation.places import item_lists, target_places, title_lists

DEFAULT_CUTOFFS = (1, 3, 5, 10, 20)
_TOKENS = "title_tokens"


def evaluate(
    rankings: Rankings,
    examples: Examples,
    catalog: ItemCatalog,
    users: Sequence[str],
    cutoffs: Sequence[int] = DEFAULT_CUTOFFS,
    likelihood: Likelihood | None = None,
) -> pd.DataFrame:
    """Measure every list against its target, by both truths (see :mod:`recbench.evaluation.places`).

    Args:
        rankings: one list per example, in their order.
        examples: the N examples with their targets.
        catalog: the items.
        users: external user ids by user number.
        cutoffs: the k of HR@k, NDCG@k and MRR@k.
        likelihood: of the true titles, for methods that have it.

    Returns:
        N rows with ``example_id`` int64, ``user_id``, ``target_item_id``, ``item_first``, ``item_last``,
        ``title_first``, ``title_last`` (int32, the places of the target's tied group from 1; 0 = not listed), then
        the metrics as float64: ``item/HR@1`` ... ``title/MRR@20``; with likelihoods also ``title/LL`` (float64, nan
        where the target has no title) and ``title_tokens`` (int64).

    Raises:
        ArtifactError: the lists do not belong to these examples.
    """
    if not np.array_equal(rankings.example_id, examples.example_id):
        raise ArtifactError(
            f"{len(rankings)} lists do not belong to these {len(examples)} examples, in this order.",
            "The rankings were made on another split; run the method on this one.",
        )
    group = catalog.title_group
    places = {
        "item": target_places(item_lists(rankings), examples.target),
        "title": target_places(title_lists(rankings, group), group[examples.target]),
    }
    columns: dict[str, Any] = {
        "example_id": examples.example_id.astype(np.int64),
        "user_id": _pick(users, examples.user),
        "target_item_id": _pick(catalog.ids, examples.target),
    }
    for truth, (first, last) in places.items():
        columns |= {f"{truth}_first": first, f"{truth}_last": last}
    for truth in TRUTHS:
        values = expected_metrics(*places[truth], cutoffs)
        columns |= {metric_column(truth, name): value for name, value in values.items()}
    if likelihood is not None:
        columns |= {metric_column("title", LIKELIHOOD): likelihood.logprob, _TOKENS: likelihood.tokens}
    return pd.DataFrame(columns)


def summarise(
    table: pd.DataFrame,
    rankings: Rankings,
    catalog: ItemCatalog,
    train: Examples,
    generations: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what ``summary.json`` says about a run: plain values, nothing rounded.

    Args:
        table: what :func:`evaluate` returned for these rankings.
        rankings: the lists.
        catalog: the items.
        train: training rows; an item's popularity is the number of those that have it as target.
        generations: lines of ``generations.jsonl``, for methods that write text.

    Returns:
        ``n_test``, ``n_users``, ``n_items``, ``n_train``; ``metrics`` (truth ``item``) and ``metrics_title``, means
        over all examples by printed name; ``tie_rate`` with ``targets``, the share of examples whose target is listed
        and tied, and ``places``, the share of tied places; ``lists`` and ``validity`` as in
        :mod:`recbench.evaluation.lists`;
        ``generated``, what :func:`recbench.evaluation.lists.describe_generations` says, None without generations;
        ``likelihood``, None for a method without it: ``titles`` with a likelihood, ``LL``, the mean over them in nats,
        ``tokens``, the mean length of a title, and ``perplexity`` per token, over all tokens.
    """
    names = parse_columns(table.columns, "item")
    max_cutoff = max(cutoff_of(name) for name in names)
    return {
        "n_test": len(table),
        "n_users": int(table["user_id"].nunique()),
        "n_items": len(catalog),
        "n_train": len(train),
        "metrics": _means(table, "item", names),
        "metrics_title": _means(table, "title", names),
        "tie_rate": {
            "targets": float((table["item_last"] > table["item_first"]).mean()) if len(table) else 0.0,
            "places": tied_share(rankings),
        },
        "lists": describe_lists(rankings, catalog, train),
        "validity": describe_validity(rankings, catalog, max_cutoff),
        "generated": None if generations is None else describe_generations(generations, catalog),
        "likelihood": _describe_likelihood(table),
    }


def _describe_likelihood(table: pd.DataFrame) -> dict[str, Any] | None:
    if _TOKENS not in table:
        return None
    titled = table[table[_TOKENS] > 0]
    if titled.empty:
        return {"titles": 0, LIKELIHOOD: None, "tokens": None, "perplexity": None}
    logprob, tokens = titled[metric_column("title", LIKELIHOOD)], titled[_TOKENS]
    return {
        "titles": len(titled),
        LIKELIHOOD: float(logprob.mean()),
        "tokens": float(tokens.mean()),
        "perplexity": float(np.exp(-logprob.sum() / tokens.sum())),
    }


def _pick(names: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    return np.asarray(names, dtype=object)[numbers]


def _means(table: pd.DataFrame, truth: Truth, names: Sequence[str]) -> dict[str, float | None]:
    if table.empty:
        return dict.fromkeys(names)
    return {name: float(table[metric_column(truth, name)].mean()) for name in names}
