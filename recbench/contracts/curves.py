"""What a run logged while it trained, as curves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingCurve:
    """One logged quantity of one run.

    Attributes:
        label: entry it belongs to.
        seed: the run's seed.
        stage: stage of training ("sft", "rl"), or "" where the log names none.
        panel: "loss", "reward", "validation" or "policy"; quantities of one panel are drawn together.
        series: the logged quantity ("eval_loss", "reward_perturbed").
        unit: what ``x`` counts, "step" or "epoch".
        x, y: the points, by rising x.
    """

    label: str
    seed: int
    stage: str
    panel: str
    series: str
    unit: str
    x: tuple[float, ...]
    y: tuple[float, ...]
