"""HR and NDCG as the published LatentR3 code computes them from its result files, to check an import against."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2


def published_metrics(
    written: Sequence[Sequence[str]], targets: Sequence[str], cutoffs: Sequence[int]
) -> dict[str, float]:
    """Return the mean HR@k and NDCG@k of lists of titles.

    A hit is an equal title, whatever its item. Every written title takes a place, also one that is no title of the
    catalogue, and of a title that was written twice the last place counts: that is what the published code does, and
    where recbench's own metrics differ from it (see ``docs/exchange.md``).

    Args:
        written: the titles of each of N lists, best first.
        targets: the N titles looked for.
        cutoffs: the k.
    """
    places = [
        max((place for place, title in enumerate(listed, start=1) if title == target), default=None)
        for listed, target in zip(written, targets, strict=True)
    ]
    result = {}
    for k in cutoffs:
        hits = [place for place in places if place is not None and place <= k]
        result[f"HR@{k}"] = len(hits) / len(places) if places else 0.0
        result[f"NDCG@{k}"] = sum(1 / log2(place + 1) for place in hits) / len(places) if places else 0.0
    return result
