"""Full-catalogue scores of a RecBole model, in batches, and the lists that our own code makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines.recbole.isolate import HISTORY, ITEM, LENGTH, USER, build_dataset, build_model
from baselines.recbole.job import (
    QUERIES,
    RANKINGS,
    VOCABULARY,
    WEIGHTS,
    RankJob,
    read_arrays,
    read_queries,
    write_arrays,
)
from baselines.recbole.vocabulary import Vocabulary
from recbench.contracts.examples import Queries
from recbench.methods.dense import rank_by_scores

_BATCH = 512
_PAIRS_AT_ONCE = 200_000


def rank(folder: Path, job: RankJob, emit: Callable[..., None]) -> None:
    """Answer the queries of a job with ``rankings.safetensors``, and tell the seconds of scoring and listing."""
    vocabulary = Vocabulary(**read_arrays(folder / VOCABULARY))
    config, dataset = build_dataset(folder, job.spec, {"known": vocabulary.rows(job.spec.max_history)})
    dataset.build()
    if not np.array_equal(Vocabulary.of(dataset).items, vocabulary.items):
        raise RuntimeError("RecBole numbered the items in another order than when the model was trained.")
    model = build_model(config, dataset, job.spec)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in read_arrays(folder / WEIGHTS).items()})
    model.eval()

    def score(batch: Queries) -> np.ndarray:
        scores = score_catalogue(model, vocabulary, batch, job.spec.max_history, job.n_items)
        emit("ranked", queries=len(batch))
        return scores

    queries = read_queries(folder / QUERIES)
    start = time.perf_counter()
    lists = rank_by_scores(queries, job.k, job.n_items, score, job.mask_history, _BATCH)
    emit("timed", stage="score", seconds=time.perf_counter() - start)
    answer = {"example_id": lists.example_id, "offsets": lists.offsets, "items": lists.items, "scores": lists.scores}
    write_arrays(folder / RANKINGS, answer)


def score_catalogue(model: Any, vocabulary: Vocabulary, queries: Queries, max_history: int, n_items: int) -> np.ndarray:
    """Return float64 (N, n_items): the model's scores; items that it does not know share the last place.

    Their score is 1 below the lowest score of the query.
    """
    scores = score_vocabulary(model, vocabulary, queries, max_history).double().cpu().numpy()
    result = np.repeat(scores.min(axis=1, keepdims=True) - 1.0, n_items, axis=1)
    result[:, vocabulary.items] = scores
    return result


@torch.no_grad()
def score_vocabulary(model: Any, vocabulary: Vocabulary, queries: Queries, max_history: int) -> torch.Tensor:
    """Return float32 (N, V): the score of every item of the vocabulary, on the model's device."""
    from recbole.data.interaction import Interaction
    from recbole.model.abstract_recommender import AbstractRecommender

    history, length = vocabulary.histories(queries, max_history)
    columns = {
        USER: torch.from_numpy(vocabulary.user_numbers(queries.user)),
        HISTORY: torch.from_numpy(history),
        LENGTH: torch.from_numpy(length),
    }
    n_known = len(vocabulary.items) + 1
    device = next(model.parameters()).device
    batch = Interaction(columns).to(device)
    if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:
        return _score_pairs(model, batch, n_known)[:, 1:]
    return model.full_sort_predict(batch).view(len(queries), n_known)[:, 1:]


def _score_pairs(model: Any, batch: Any, n_known: int) -> torch.Tensor:
    """Score every pair of a query and an item, for models that can only do that (DIN)."""
    from recbole.data.interaction import Interaction

    parts = []
    items = torch.arange(n_known, device=batch[LENGTH].device)
    step = max(1, _PAIRS_AT_ONCE // n_known)
    for start in range(0, len(batch), step):
        rows = batch[start : start + step].interaction
        n_rows = len(rows[LENGTH])
        columns = {name: column.repeat_interleave(n_known, dim=0) for name, column in rows.items()}
        pairs = Interaction({**columns, ITEM: items.repeat(n_rows)})
        parts.append(model.predict(pairs).view(n_rows, n_known))
    return torch.cat(parts)
