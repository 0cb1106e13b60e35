"""Beam regret: what a beam search lost against the true best lists under the same model and score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbench.contracts.errors import ArtifactError
from recbench.contracts.rankings import Rankings
from recbench.evaluation.places import item_lists, tied_groups


@dataclass(frozen=True)
class BeamRegret:
    """What the beam lost, for each of N queries; all comparisons are of the first ``k`` places.

    Attributes:
        wanted: int64 (N,), places of the exact top k: k, or fewer where the list is shorter.
        missed: int64 (N,), for how many of them the beam's top k has no thing. Of things that tie over place k, any
            will do, as many as have room.
        first_differs: bool (N,), the beam's first thing, or what ties with it, is none of the exact list's.
        gap_first: float64 (N,), score of the exact list's first place minus that of the beam's; NaN if either is empty.
        gap_mean: float64 (N,), the same, as a mean over the places up to k that both lists have.
    """

    wanted: np.ndarray
    missed: np.ndarray
    first_differs: np.ndarray
    gap_first: np.ndarray
    gap_mean: np.ndarray


def beam_regret(beam: Rankings, exact: Rankings, k: int) -> BeamRegret:
    """Compare the lists of a beam search with the true best lists, place by place.

    No order within a tied group is the right one.

    Args:
        beam, exact: lists of the same N queries in the same order, of items or of titles, scored by the same model.
        k: places that count.

    Raises:
        ArtifactError: the lists answer different queries.
    """
    if not np.array_equal(beam.example_id, exact.example_id):
        raise ArtifactError("The two lists to compare answer different queries.", "Give runs on the same rows.")
    (sure, tied), top_beam = _top(exact, k), np.concatenate(_top(beam, k))
    wanted = np.minimum(exact.lengths, k)
    room = wanted - _count(sure, beam)
    gap = _padded_scores(exact, k) - _padded_scores(beam, k)
    both = ~np.isnan(gap)
    n_both = both.sum(axis=1)
    total = np.where(both, gap, 0.0).sum(axis=1)
    same_first = np.intersect1d(np.concatenate(_top(exact, 1)), np.concatenate(_top(beam, 1)))
    return BeamRegret(
        wanted=wanted,
        missed=_count(np.setdiff1d(sure, top_beam), beam)
        + np.maximum(room - _count(np.intersect1d(tied, top_beam), beam), 0),
        first_differs=(_count(same_first, beam) == 0) & (np.maximum(beam.lengths, exact.lengths) > 0),
        gap_first=gap[:, 0],
        gap_mean=np.divide(total, n_both, out=np.full(len(beam), np.nan), where=n_both > 0),
    )


_KEY_BASE = np.int64(2**32)


def _top(rankings: Rankings, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 keys of the things in a top k, made of the query's number and the thing's.

    Returns:
        Those whose tied group ends within k, and those whose group begins there and reaches over it.
    """
    lists = item_lists(rankings)
    first, last = tied_groups(lists)
    keys = lists.row * _KEY_BASE + lists.things
    return keys[last <= k], keys[(first <= k) & (last > k)]


def _count(keys: np.ndarray, rankings: Rankings) -> np.ndarray:
    return np.bincount(keys // _KEY_BASE, minlength=len(rankings))


def _padded_scores(rankings: Rankings, k: int) -> np.ndarray:
    """Return float64 (N, k): the scores of the first k places, NaN where a list is shorter."""
    lists = item_lists(rankings)
    place = np.arange(len(lists.things)) - rankings.offsets[lists.row]
    table = np.full((len(rankings), k), np.nan)
    kept = place < k
    table[lists.row[kept], place[kept]] = rankings.scores[kept]
    return table
