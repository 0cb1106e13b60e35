"""What beam searches lost against the true best titles of the same model. Nothing is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RegretRow:
    """What a beam search lost against the true best titles of the same model, as means over seeds.

    Attributes:
        label: method and backbone.
        length_penalty: of the score that both searches look for the best of.
        beams: beams, and titles in a list.
        seeds, beam_runs, exact_runs: the pairs of runs.
        same_fit: both runs of every pair are recorded as lists of one fitted model; False: of one configuration and
            seed, fitted twice.
        n_examples: test examples.
        proven: share of them whose exact list is proven; ``values`` are over these alone.
        values: "missed", "wanted", "first_differs", "gap_first", "gap_mean" (see
            :class:`recbench.evaluation.regret.BeamRegret`), and "beam item/HR@10", "exact item/HR@10", ...; NaN where
            no example is proven.
    """

    label: str
    length_penalty: float
    beams: int
    seeds: tuple[int, ...]
    beam_runs: tuple[str, ...]
    exact_runs: tuple[str, ...]
    same_fit: bool
    n_examples: int
    proven: float
    values: Mapping[str, float]
