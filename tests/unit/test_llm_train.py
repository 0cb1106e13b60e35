"""A training stage: early stopping, bad losses, and resuming after a kill."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbench.contracts.errors import ConfigError, TrainingError
from recbench.contracts.method import RunContext
from recbench.llm.train import Objective, TrainSettings, run_stage
from recbench.testing.tiny import tiny_catalog

SETTINGS = TrainSettings(
    epochs=3, learning_rate=0.3, batch_size=4, micro_batch_size=2, warmup_steps=2, checkpoint_steps=5, log_steps=1
)


class Regression(Objective):
    """A linear model; one weight is frozen."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.fail_at = fail_at

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.fail_at is not None and self.training and self.step >= self.fail_at:
            raise KeyboardInterrupt
        self.note("weight_norm", self.weight.norm())
        return {"loss": ((x @ self.weight - y) ** 2).mean()}


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32)
    return [{"input_ids": [0] * (1 + i % 5), "x": x[i], "y": y[i]} for i in range(n)]


def collate(batch: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([row[key] for row in batch])) for key in ("x", "y")}


def context(folder: Path, log: list[dict[str, Any]] | None = None) -> RunContext:
    sink = (lambda record: None) if log is None else (lambda record: log.append(dict(record)))
    return RunContext(tiny_catalog(), 1, "cpu", folder, folder, log=sink)


def train(objective: Objective, folder: Path, log: list | None = None, settings: TrainSettings = SETTINGS):
    return run_stage("fit", objective, rows(40), rows(8, 1), collate, settings, folder / "stage", context(folder, log))


def test_it_learns_logs_every_step_and_leaves_frozen_weights(tmp_path: Path) -> None:
    objective, log = Regression(), []
    result = train(objective, tmp_path, log, SETTINGS.model_copy(update={"patience": None}))
    assert result.steps == 30
    assert result.best_loss < 0.5
    losses = [record["loss"] for record in log if "loss" in record]
    assert len(losses) == 30
    assert losses[-1] < losses[0]
    assert all(record["stage"] == "fit" and record["weight_norm"] >= 0 for record in log if "loss" in record)
    assert (objective.frozen == 1).all()


def test_an_interrupted_stage_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed = Regression()
    expected = train(undisturbed, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(Regression(fail_at=18), tmp_path / "b")
    # A checkpoint that was not written to its end is not used.
    (tmp_path / "b" / "stage" / "checkpoint-17").mkdir()
    resumed, log = Regression(), []
    assert train(resumed, tmp_path / "b", log) == expected
    assert torch.equal(resumed.weight, undisturbed.weight)
    assert min(record["step"] for record in log) == 16


def test_patience_stops_and_the_best_weights_come_back(tmp_path: Path) -> None:
    # A learning rate that overshoots: later epochs are worse than the best one.
    settings = SETTINGS.model_copy(update={"learning_rate": 3.0, "epochs": 10, "schedule": "constant_with_warmup"})
    objective = Regression()
    result = train(objective, tmp_path, settings=settings)
    stored = json.loads((tmp_path / "stage" / "evaluations.json").read_text())
    assert result.best_loss == min(loss for _, loss in stored)
    assert result.stopped_early == (len(stored) < 10)
    with torch.no_grad():
        loss = float(objective.eval()(**collate(rows(8, 1)))["loss"])
    assert loss == pytest.approx(result.best_loss, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    objective = Regression()
    with torch.no_grad():
        objective.weight[0] = float("nan")
    with pytest.raises(TrainingError, match=r"not finite at step 1(.|\n)*learning rate"):
        train(objective, tmp_path)


def test_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        train(Regression(), tmp_path, settings=SETTINGS.model_copy(update={"micro_batch_size": 3}))


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    train(Regression(), tmp_path)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
