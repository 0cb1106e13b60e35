"""What a training stage tells and when it ends: log lines, progress, evaluations, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from recbench.contracts.errors import TrainingError
from recbench.contracts.method import RunContext
from recbench.contracts.progress import Bar
from recbench.llm.batches import MicroBatch, StepBatches
from recbench.llm.checkpoints import History
from recbench.llm.objective import Objective

Total = Callable[[Tensor], Tensor]


class Meter:
    """Counts the tokens and the seconds of optimizer steps; evaluations and checkpoints are not in the seconds."""

    def __init__(self) -> None:
        self._tokens = 0
        self._cells = 0
        self._seconds = 0.0
        self._started = 0.0

    def start(self) -> None:
        """Begin an optimizer step."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End an optimizer step."""
        self._seconds += time.perf_counter() - self._started

    def count(self, batch: MicroBatch) -> None:
        """Add a micro-batch that was trained on."""
        self._tokens += batch.tokens
        self._cells += batch.cells

    def take(self, total: Total) -> dict[str, float]:
        """Return tokens per second of all processes and the share of padding, since the last call.

        Args:
            total: sums a tensor over all processes.
        """
        tokens, cells = total(torch.tensor([self._tokens, self._cells], dtype=torch.float64)).tolist()
        seconds, self._tokens, self._cells, self._seconds = self._seconds, 0, 0, 0.0
        if not cells or not seconds:
            return {}
        return {"tokens_per_s": tokens / seconds, "padding": 1 - tokens / cells}


class Reporter(TrainerCallback):
    """Passes on logs and progress, tells the objective its step, and stops a run whose gradient is not a number.

    Args:
        stage: its name.
        objective: what is trained.
        meter: counts tokens.
        total: sums a tensor over all processes.
        ctx: gets the log.
        bar: gets the progress.
    """

    def __init__(self, stage: str, objective: Objective, meter: Meter, total: Total, ctx: RunContext, bar: Bar) -> None:
        self.stage = stage
        self.objective = objective
        self.meter = meter
        self.total = total
        self.ctx = ctx
        self.bar = bar

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin an optimizer step."""
        self.objective.step = state.global_step
        self.meter.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End an optimizer step."""
        self.meter.stop()
        self.bar.advance()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """Write one line.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        record: dict[str, Any] = {"stage": self.stage, "step": state.global_step}
        record.update({key: float(value) for key, value in (logs or {}).items() if _is_number(value)})
        record.update(self.meter.take(self.total))
        record.update(self._notes())
        wrong = [key for key in ("loss", "grad_norm") if not math.isfinite(record.get(key, 0.0))]
        if wrong:
            self._write(state, {key: str(value) for key, value in record.items()})
            raise TrainingError(
                f"The {self.stage} stage's {wrong[0]} is not finite at step {state.global_step} (learning rate "
                f"{record.get('learning_rate', args.learning_rate):.3g}).",
                f"Lower the learning rate (its peak is {args.learning_rate:.3g}) or max_grad_norm "
                f"({args.max_grad_norm:g}); the last good checkpoint was kept.",
            )
        self._write(state, record)
        if "loss" in record:
            self.bar.note(f"loss {record['loss']:.4f}")

    def _write(self, state: TrainerState, record: dict[str, Any]) -> None:
        if state.is_world_process_zero:
            self.ctx.log(record)

    def _notes(self) -> dict[str, float]:
        """Return the means of the objective's notes over all processes."""
        notes = sorted(self.objective.take_notes().items())
        if not notes:
            return {}
        # Some notes are made on the CPU, some on the GPU.
        sums = [torch.stack(values).double().sum().cpu() for _, values in notes]
        counts = [float(len(values)) for _, values in notes]
        summed, counted = self.total(torch.stack([torch.stack(sums), sums[0].new_tensor(counts)])).tolist()
        return {name: s / c for (name, _), s, c in zip(notes, summed, counted, strict=True)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Order(TrainerCallback):
    """Tells the batches which epoch it is."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Choose the order."""
        self.batches.set_epoch(state.global_step // self.batches.steps)


class Evaluation(TrainerCallback):
    """Evaluates after every epoch, keeps the best weights, and ends the stage when patience is over.

    Args:
        measure: evaluates the weights as they are after the optimizer step that it is given.
        history: of evaluations.
        objective: whose weights are kept.
        patience: evaluations without a gain before the stage ends; None: never.
        tell: gets the step and the values of every evaluation.
    """

    def __init__(
        self,
        measure: Callable[[int], dict[str, float]],
        history: History,
        objective: Objective,
        patience: int | None,
        tell: Callable[[int, dict[str, float]], None],
    ) -> None:
        self.measure = measure
        self.history = history
        self.objective = objective
        self.patience = patience
        self.tell = tell

    def at(self, step: int) -> bool:
        """Evaluate after ``step`` if that was not done yet; return whether the stage is to end."""
        if step not in self.history:
            values = self.measure(step)
            self.history.add(step, values, self.objective)
            self.tell(step, values)
        return self.history.exhausted(self.patience)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate."""
        if self.at(state.global_step):
            control.should_training_stop = True
