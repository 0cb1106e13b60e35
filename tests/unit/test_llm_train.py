"""A training stage: early stopping, bad losses, and resuming after a kill."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from recbench.contracts.errors import ConfigError, TrainingError
from recbench.contracts.method import RunContext
from recbench.llm.objective import Gather, Tensors
from recbench.llm.sharding import check_engine
from recbench.llm.train import Objective, TrainSettings, run_stage
from recbench.llm.trainer import StageTrainer
from recbench.testing.tiny import tiny_catalog

SETTINGS = TrainSettings(
    epochs=3, learning_rate=0.3, batch_size=4, micro_batch_size=2, warmup_steps=2, checkpoint_steps=5, log_steps=1
)


class Regression(Objective):
    """A linear model; one weight is frozen.

    Args:
        fail_at: it is interrupted in this step.
        poison_at: its loss is ``poison`` in this step.
        room: more rows in a forward pass do not fit into memory; the pass breaks off behind its gradients.
    """

    divisible = True

    def __init__(
        self, fail_at: int | None = None, poison_at: int | None = None, poison: float = float("nan"), room: int = 99
    ) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.fail_at = fail_at
        self.poison_at = poison_at
        self.poison = poison
        self.room = room
        self.passes: list[int] = []

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.fail_at is not None and self.training and self.step >= self.fail_at:
            raise KeyboardInterrupt
        self.passes.append(len(x))
        self.note("weight_norm", self.weight.norm())
        loss = ((x @ self.weight - y) ** 2).mean()
        if len(x) > self.room:
            if self.training:
                loss.backward()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.")
        return {"loss": loss * self.poison if self.step == self.poison_at else loss}


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
    assert result.best_loss == min(entry["loss"] for entry in stored)
    assert result.stopped_early == (len(stored) < 10)
    with torch.no_grad():
        loss = float(objective.eval()(**collate(rows(8, 1)))["loss"])
    assert loss == pytest.approx(result.best_loss, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    objective = Regression()
    with torch.no_grad():
        objective.weight[0] = float("nan")
    with pytest.raises(TrainingError, match=r"not finite at step 1: nan (.|\n)*Lower the learning rate"):
        train(objective, tmp_path)


def test_a_bad_loss_between_two_log_lines_stops_before_the_optimizer_and_names_the_kept_checkpoint(
    tmp_path: Path,
) -> None:
    objective = Regression(poison_at=12)
    with pytest.raises(TrainingError, match=r"not finite at step 13: nan(.|\n)*kept in \S*checkpoint-10"):
        train(objective, tmp_path, settings=SETTINGS.model_copy(update={"log_steps": 1000}))
    assert torch.isfinite(objective.weight).all()
    kept = load_file(tmp_path / "stage" / "checkpoint-10" / "trainable.safetensors")
    assert torch.isfinite(kept["weight"]).all()


def test_a_loss_beyond_all_reason_stops_too(tmp_path: Path) -> None:
    objective = Regression(poison_at=3, poison=1e6)
    objective.diverged_above = 1e4
    with pytest.raises(TrainingError, match=r"above 1e\+04, far too large, at step 4(.|\n)*no checkpoint yet"):
        train(objective, tmp_path)


def test_short_memory_halves_the_pass_and_not_the_step(tmp_path: Path, caplog) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 16, "micro_batch_size": 8, "warmup_steps": 0})
    roomy, narrow, log = Regression(), Regression(room=3), []
    expected = train(roomy, tmp_path / "a", settings=settings)
    result = train(narrow, tmp_path / "b", log, settings)
    torch.testing.assert_close(narrow.weight, roomy.weight, atol=1e-6, rtol=1e-5)
    assert result.steps == expected.steps == 9
    assert result.best_loss == pytest.approx(expected.best_loss, rel=1e-5)
    assert (expected.rows_per_pass, result.rows_per_pass) == (8, 2)
    assert "2 rows in a forward pass instead of 8" in caplog.text
    assert "still has 16 rows" in caplog.text
    # Two attempts that broke off, and nothing larger after them.
    assert narrow.passes[:2] == [8, 4]
    assert max(narrow.passes[2:]) == 2


def test_a_resumed_stage_remembers_how_much_memory_it_has(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 8, "micro_batch_size": 4})
    expected = Regression(room=2)
    train(expected, tmp_path / "a", settings=settings)
    with pytest.raises(KeyboardInterrupt):
        train(Regression(room=2, fail_at=8), tmp_path / "b", settings=settings)
    resumed = Regression(room=2)
    train(resumed, tmp_path / "b", settings=settings)
    assert max(resumed.passes) == 2
    assert torch.equal(resumed.weight, expected.weight)


@pytest.mark.parametrize(("divisible", "room"), [(True, 0), (False, 1)])
def test_memory_that_is_short_for_the_smallest_pass_is_a_clear_error(tmp_path: Path, divisible, room) -> None:
    objective = Regression(room=room)
    objective.divisible = divisible
    with pytest.raises(TrainingError, match=r"out of memory with [12] rows(.|\n)*shorter prompts"):
        train(objective, tmp_path)


def test_memory_that_is_short_in_the_evaluation_is_halved_too(tmp_path: Path) -> None:
    class Greedy(Regression):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            self.room = 99 if self.training else 1
            return super().forward(x, y)

    roomy, greedy = Regression(), Greedy()
    settings = SETTINGS.model_copy(update={"epochs": 1})
    expected, result = (train(o, tmp_path / str(i), settings=settings) for i, o in enumerate((roomy, greedy)))
    assert result.best_loss == pytest.approx(expected.best_loss, rel=1e-5)


def test_another_runtime_error_is_not_taken_for_short_memory(tmp_path: Path) -> None:
    class Broken(Regression):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        train(Broken(), tmp_path)


def test_logs_say_how_fast_it_goes_and_what_is_padding(tmp_path: Path) -> None:
    log: list[dict[str, Any]] = []
    train(Regression(), tmp_path, log, SETTINGS.model_copy(update={"epochs": 1, "log_steps": 10}))
    line = next(record for record in log if "loss" in record)
    assert {"grad_norm", "learning_rate", "tokens_per_s"} <= line.keys()
    assert line["tokens_per_s"] > 0
    # Lengths 1 to 5, sorted before they are cut into pairs: 8 rows each of 1 .. 5 tokens leave nothing to pad.
    assert line["padding"] == 0


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_stage_that_was_killed_at_the_end_of_an_epoch_ends_the_same(tmp_path: Path, evaluated: bool) -> None:
    """Its checkpoint was written, and its evaluation was just not done yet, or done and the stage over by patience."""
    settings = SETTINGS.model_copy(update={"learning_rate": 3.0, "epochs": 10, "schedule": "constant_with_warmup"})
    undisturbed = Regression()
    expected = train(undisturbed, tmp_path / "a", settings=settings)
    assert expected.stopped_early
    assert expected.steps % settings.checkpoint_steps == 0
    evaluations = tmp_path / "b" / "stage" / "evaluations.json"
    train(Regression(), tmp_path / "b", settings=settings)
    if not evaluated:
        evaluations.write_text(json.dumps(json.loads(evaluations.read_text())[:-1]))
    resumed = Regression()
    assert train(resumed, tmp_path / "b", settings=settings) == expected
    assert torch.equal(resumed.weight, undisturbed.weight)


@pytest.mark.parametrize(("last", "best_step"), [(0.4, 20), (0.5, 30)])
def test_a_score_chooses_the_best_weights_and_the_loss_among_equals(tmp_path: Path, last: float, best_step) -> None:
    asked: list[int] = []

    def score(step: int) -> float:
        asked.append(step)
        return {10: 0.2, 20: 0.5, 30: last}[step]

    log: list[dict[str, Any]] = []
    settings = SETTINGS.model_copy(update={"patience": 2})
    result = run_stage(
        "fit", Regression(), rows(40), rows(8, 1), collate, settings, tmp_path, context(tmp_path, log), score=score
    )
    assert asked == [10, 20, 30]
    assert (result.best_step, result.best_ndcg) == (best_step, 0.5)
    assert [record["valid/NDCG@10"] for record in log if "eval_loss" in record] == [0.2, 0.5, last]
    losses = {record["step"]: record["eval_loss"] for record in log if "eval_loss" in record}
    assert losses[30] < losses[20]
    assert result.best_loss == losses[best_step]


def test_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        train(Regression(), tmp_path, settings=SETTINGS.model_copy(update={"micro_batch_size": 3}))


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    train(Regression(), tmp_path)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def engine(mixed_precision: str = "no", deepspeed: int | None = None, fsdp: dict[str, Any] | None = None):
    """Return an accelerator with the plugins that accelerate makes of such settings."""
    state = SimpleNamespace(
        deepspeed_plugin=deepspeed and SimpleNamespace(zero_stage=deepspeed),
        fsdp_plugin=None if fsdp is None else FullyShardedDataParallelPlugin(**fsdp),
    )
    return SimpleNamespace(state=state, mixed_precision=mixed_precision)


def test_engines_that_work_are_accepted() -> None:
    check_engine(engine())
    check_engine(engine(deepspeed=2))
    for settings in ({}, {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}, {"reshard_after_forward": False}):
        check_engine(engine(fsdp={"fsdp_version": 2, **settings}))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"fsdp_version": 1}, "fsdp_version: 1"),
        ({"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 1}, "SIZE_BASED_WRAP"),
        (
            {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_cls_names_to_wrap": ["Block"]},
            r"layer_cls_to_wrap: \['Block'\]",
        ),
        ({"activation_checkpointing": True}, "activation_checkpointing: true"),
        ({"cpu_ram_efficient_loading": True}, "cpu_ram_efficient_loading: true"),
        ({"cpu_offload": True}, "offload_params: true"),
    ],
)
def test_settings_of_fsdp_that_do_not_work_are_refused(settings: dict[str, Any], found: str, monkeypatch) -> None:
    # accelerate leaves it behind for transformers.
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    with pytest.raises(ConfigError, match=rf"under FSDP with [^.]*{found}\.(.|\n)*fsdp\.yaml"):
        check_engine(engine(fsdp={"fsdp_version": 2, **settings}))


@pytest.mark.parametrize("version", ["1", None])
def test_the_first_version_of_fsdp_is_refused(tmp_path: Path, version: str | None, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    if version:
        monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(ConfigError, match=r"fsdp_version is 1\.(.|\n)*Set fsdp_version: 2"):
        train(Regression(), tmp_path)


def test_other_engines_that_do_not_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ZeRO-3 leaves(.|\n)*ZeRO-2"):
        check_engine(engine(deepspeed=3))
    with pytest.raises(ConfigError, match="mixed_precision: bf16"):
        check_engine(engine(mixed_precision="bf16", fsdp={"fsdp_version": 2}))


class Watching(Regression):
    """Writes down what it may look at before every step.

    Args:
        room: as there.
    """

    def __init__(self, room: int = 99) -> None:
        super().__init__(room=room)
        self.prepared: list[list[int]] = []
        self.released = 0

    def prepare(self, parts: Sequence[Tensors], gather: Gather) -> None:
        self.prepared.append([len(part["x"]) for part in parts])
        rows = torch.cat([part["x"] for part in parts])
        assert torch.equal(gather(rows), rows)

    def release(self) -> None:
        self.released += 1


def test_an_objective_sees_all_passes_of_a_step_first_and_again_when_they_shrink(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 8, "micro_batch_size": 4, "epochs": 1})
    roomy, narrow = Watching(), Watching(room=2)
    train(roomy, tmp_path / "a", settings=settings)
    train(narrow, tmp_path / "b", settings=settings)
    assert roomy.prepared == [[4, 4]] * 5
    assert narrow.prepared == [[4, 4], *[[2, 2, 2, 2]] * 5]
    assert (roomy.released, narrow.released) == (0, 1)


def test_the_rows_of_a_step_come_together_in_the_order_of_its_batches() -> None:
    """Two processes take the micro-batches of a step in turns; each has two of two rows."""
    ours, theirs = torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3, 6, 7])
    trainer = SimpleNamespace(
        args=SimpleNamespace(world_size=2, per_device_train_batch_size=2, device="cpu"),
        accelerator=SimpleNamespace(gather=lambda rows: torch.cat([rows, theirs])),
    )
    assert StageTrainer._gather(trainer, ours).tolist() == list(range(8))
