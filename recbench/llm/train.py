"""Training loops on ``transformers.Trainer``: checkpoints, resume, accumulation, mixed precision and DDP are its work.

A stage trains an :class:`Objective`. Only parameters that require gradients are stored in checkpoints.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from recbench.artifacts.files import atomic_path, write_json
from recbench.contracts.config import StrictModel
from recbench.contracts.errors import ConfigError, TrainingError
from recbench.contracts.method import RunContext
from recbench.contracts.progress import Bar
from recbench.contracts.seeding import derive_seed, numpy_rng

_MARKER = "complete"
_WEIGHTS = "trainable.safetensors"


class TrainSettings(StrictModel):
    """How a stage is trained."""

    epochs: float = Field(3, gt=0, description="passes over the rows, at most")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; unset: the backbone's default")
    batch_size: int = Field(128, ge=1, description="rows per optimizer step, over all processes")
    micro_batch_size: int = Field(16, ge=1, description="rows per forward pass and process")
    warmup_steps: int = Field(20, ge=0, description="optimizer steps of linear warm-up, at most a third")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", description="after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this L2 norm; 0: not at all")
    patience: int | None = Field(1, ge=1, description="evaluations without a better loss before it stops; null: never")
    checkpoint_steps: int = Field(200, ge=1, description="optimizer steps between checkpoints for resuming")
    log_steps: int = Field(10, ge=1, description="optimizer steps between lines of train.jsonl")


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        steps: optimizer steps taken.
        best_step, best_loss: the evaluation whose weights were kept; None where nothing was evaluated.
        stopped_early: whether patience ended it.
    """

    steps: int
    best_step: int | None
    best_loss: float | None
    stopped_early: bool


class Objective(nn.Module):
    """A module whose ``forward(**batch)`` returns ``{"loss": scalar}``.

    Attributes:
        accepts_loss_kwargs: whether ``forward`` takes ``num_items_in_batch``, the labels of the whole optimizer step,
            and divides by it; otherwise micro-batches are averaged.
        step: optimizer steps done so far, kept by the stage and right after a resume too.
    """

    accepts_loss_kwargs = False

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._notes: dict[str, list[Tensor]] = {}

    def note(self, name: str, value: Tensor) -> None:
        """Add a scalar to the next line of ``train.jsonl``, where the mean of all notes since the last line stands."""
        self._notes.setdefault(name, []).append(value.detach())

    def take_notes(self) -> dict[str, float]:
        """Return the means of all notes and forget them."""
        means = {name: float(torch.stack(values).mean()) for name, values in self._notes.items()}
        self._notes.clear()
        return means


def run_stage(
    name: str,
    objective: Objective,
    train: Sequence[Mapping[str, Any]],
    valid: Sequence[Mapping[str, Any]] | None,
    collate: Callable[[list[Mapping[str, Any]]], dict[str, Tensor]],
    settings: TrainSettings,
    folder: Path,
    ctx: RunContext,
    drop_last: bool = False,
    repeats: int = 1,
) -> StageResult:
    """Train ``objective`` in place; resume from ``folder`` if an earlier attempt left checkpoints there.

    Args:
        name: stage name in logs ("sft").
        train, valid: rows; each has "input_ids", whose length is used to put rows of like length together. With
            ``valid`` the loss on it is computed after every epoch and the best weights are restored at the end.
        collate: rows -> batch of the objective.
        settings: its ``learning_rate`` must be set.
        folder: for checkpoints and the evaluation history.
        drop_last: whether an incomplete last batch is left out.
        repeats: optimizer steps taken in a row on the same rows; more than one needs as many rows as make whole steps.

    Raises:
        TrainingError: the loss is not finite.
        ConfigError: the batch size does not divide into micro-batches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(settings, len(train) * repeats, folder, ctx, bool(valid), drop_last)
    resume_from = _last_checkpoint(folder)
    steps_done = int(resume_from.name.rsplit("-", 1)[1]) if resume_from else 0
    history = _History(folder, steps_done)
    with isolated_randomness(derive_seed(ctx.seed, name)):
        trainer = _StageTrainer(
            model=objective,
            args=arguments,
            train_dataset=_Rows(train),
            eval_dataset=_Rows(valid) if valid else None,
            data_collator=collate,
        )
        trainer.repeats = repeats
        # An objective returns its loss whatever its inputs are called.
        trainer.can_return_loss = True
        total = math.ceil(_steps_per_epoch(trainer) * settings.epochs)
        with ctx.progress.bar(name, total, done=steps_done) as bar:
            # Trainer prints its logs to stdout, which belongs to results.
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_Reporter(name, objective, ctx, bar))
            if valid:
                trainer.add_callback(_KeepBest(history, settings.patience))
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if history.best is not None:
        _load_trainable(objective, history.weights)
    return StageResult(
        steps=trainer.state.global_step,
        best_step=history.best[0] if history.best else None,
        best_loss=history.best[1] if history.best else None,
        stopped_early=trainer.state.global_step < total,
    )


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators that libraries draw from, and put their states back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _arguments(
    settings: TrainSettings, n_rows: int, folder: Path, ctx: RunContext, evaluates: bool, drop_last: bool
) -> TrainingArguments:
    if settings.learning_rate is None:
        raise ValueError("run_stage needs settings with a learning rate.")
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=min(settings.micro_batch_size, settings.batch_size),
        per_device_eval_batch_size=settings.micro_batch_size,
        warmup_steps=min(settings.warmup_steps, int(settings.epochs * n_rows / settings.batch_size / 3)),
        lr_scheduler_type=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="epoch" if evaluates else "no",
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        dataloader_drop_last=drop_last,
        dataloader_pin_memory=ctx.device != "cpu",
        remove_unused_columns=False,
        label_names=[],
        use_cpu=ctx.device == "cpu",
        seed=derive_seed(ctx.seed, "trainer") % 2**31,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )
    per_forward = arguments.per_device_train_batch_size * arguments.world_size
    if settings.batch_size % per_forward:
        raise ConfigError(
            f"batch_size {settings.batch_size} does not divide into {arguments.world_size} processes with "
            f"micro_batch_size {arguments.per_device_train_batch_size}.",
            f"Choose a batch_size that is a multiple of {per_forward}.",
        )
    arguments.gradient_accumulation_steps = settings.batch_size // per_forward
    # One process uses one device; several devices are used through accelerate launch, never through DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _steps_per_epoch(trainer: Trainer) -> int:
    batches = len(trainer.get_train_dataloader())
    return max(1, math.ceil(batches / trainer.args.gradient_accumulation_steps))


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; delete those that were not."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _MARKER).exists():
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def _load_trainable(module: nn.Module, path: Path) -> None:
    parameters = _trainable(module)
    stored = load_file(path)
    if stored.keys() != parameters.keys():
        raise TrainingError(f"{path} was written for another model.", "Delete the run's work folder and run again.")
    with torch.no_grad():
        for name, tensor in stored.items():
            parameters[name].copy_(tensor)


class _Rows(torch.utils.data.Dataset):
    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]


class _LengthBuckets(torch.utils.data.Sampler[int]):
    """A new random order every epoch in which the rows of a batch have like lengths, so that little is padding.

    The order depends on the seed and the epoch alone, so a stage that is resumed inside an epoch goes on with the
    batches it would have had.
    """

    _BATCHES_PER_POOL = 50

    def __init__(self, rows: Sequence[Mapping[str, Any]], batch_size: int, seed: int) -> None:
        self.lengths = np.array([len(row["input_ids"]) for row in rows])
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the dataloader calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = numpy_rng(self.seed, "order", self.epoch)
        pool = self.batch_size * self._BATCHES_PER_POOL
        order = rng.permutation(len(self.lengths))
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        ordered = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        # Only whole batches change places, so the incomplete one stays last.
        n_whole = len(ordered) // self.batch_size
        batches = ordered[: n_whole * self.batch_size].reshape(n_whole, self.batch_size)
        yield from batches[rng.permutation(n_whole)].ravel().tolist()
        yield from ordered[n_whole * self.batch_size :].tolist()


class _Repeated(torch.utils.data.Sampler[int]):
    """The order of another sampler in which every block of ``size`` rows comes ``times`` times in a row."""

    def __init__(self, order: _LengthBuckets, size: int, times: int) -> None:
        self.order = order
        self.size = size
        self.times = times

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the dataloader calls this."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order) * self.times

    def __iter__(self) -> Iterator[int]:
        rows = list(self.order)
        for start in range(0, len(rows), self.size):
            for _ in range(self.times):
                yield from rows[start : start + self.size]


class _StageTrainer(Trainer):
    """Stores trainable parameters only, as safetensors, and marks a checkpoint once it is whole.

    Attributes:
        repeats: optimizer steps in a row on the same rows.
    """

    repeats = 1

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        rows, micro_batch_size = self.train_dataset.rows, self.args.per_device_train_batch_size
        order = _LengthBuckets(rows, micro_batch_size, self.args.seed)
        if self.repeats == 1:
            return order
        step = micro_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return _Repeated(order, step, self.repeats)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        save_file(_trainable(self.accelerator.unwrap_model(self.model)), target / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        _load_trainable(self.model, Path(resume_from_checkpoint) / _WEIGHTS)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            with atomic_path(checkpoint / _MARKER):
                pass


class _Reporter(TrainerCallback):
    """Passes on logs and progress, and stops a run whose loss is not a number."""

    def __init__(self, stage: str, objective: Objective, ctx: RunContext, bar: Bar) -> None:
        self.stage = stage
        self.objective = objective
        self.ctx = ctx
        self.bar = bar

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.objective.step = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.advance()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        record: dict[str, Any] = {"stage": self.stage, "step": state.global_step}
        record.update({key: float(value) for key, value in (logs or {}).items() if _is_number(value)})
        record.update(self.objective.take_notes())
        wrong = [key for key in ("loss", "grad_norm", "eval_loss") if not math.isfinite(record.get(key, 0.0))]
        if wrong:
            self.ctx.log({key: str(value) for key, value in record.items()})
            raise TrainingError(
                f"The {self.stage} stage's {wrong[0]} is not finite at step {state.global_step}.",
                "Lower the learning rate or the gradient norm limit; the last good checkpoint was kept.",
            )
        self.ctx.log(record)
        if "loss" in record:
            self.bar.note(f"loss {record['loss']:.4f}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _History:
    """Evaluations so far and the best weights, on disk, so that a resumed stage ends like an undisturbed one."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self.path = folder / "evaluations.json"
        self.weights = folder / "best.safetensors"
        stored = json.loads(self.path.read_text()) if self.path.exists() else []
        # Evaluations after the checkpoint will be repeated.
        self.evaluations: list[tuple[int, float]] = [(s, v) for s, v in stored if s <= steps_done]

    @property
    def best(self) -> tuple[int, float] | None:
        """The step and loss of the best evaluation, the earliest among equals."""
        return min(self.evaluations, key=lambda entry: (entry[1], entry[0]), default=None)

    def add(self, step: int, loss: float, module: nn.Module) -> None:
        """Note one evaluation; keep the weights if it is the best."""
        if any(step == known for known, _ in self.evaluations):
            return
        self.evaluations.append((step, loss))
        if self.best == (step, loss):
            with atomic_path(self.weights) as temporary:
                save_file(_trainable(module), temporary)
        write_json(self.path, self.evaluations)

    def without_gain(self) -> int:
        """Return how many evaluations in a row ended without a better loss."""
        best = self.best
        return 0 if best is None else sum(step > best[0] for step, _ in self.evaluations)


class _KeepBest(TrainerCallback):
    def __init__(self, history: _History, patience: int | None) -> None:
        self.history = history
        self.patience = patience

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, model: Any = None, **_: Any
    ) -> None:
        self.history.add(state.global_step, float(metrics["eval_loss"]), model)
        if self.patience is not None and self.history.without_gain() >= self.patience:
            control.should_training_stop = True
