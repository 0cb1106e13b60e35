"""Training stages on ``transformers.Trainer``: checkpoints, resume, accumulation, mixed precision and DDP are its work.

A stage trains an :class:`~recbench.llm.objective.Objective`. Only parameters that require gradients are stored in
checkpoints. One process, several (``torchrun``, ``accelerate launch``), and one that had to read less at once for want
of memory take the same optimizer steps, up to rounding.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from recbench.contracts.config import StrictModel
from recbench.contracts.errors import ConfigError, TrainingError
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import derive_seed
from recbench.llm.batches import Collate, Row
from recbench.llm.checkpoints import History, last_checkpoint, load_trainable, trainable, weights_file
from recbench.llm.monitor import Evaluation, Meter, Order, Reporter
from recbench.llm.objective import Objective
from recbench.llm.sharding import gathered
from recbench.llm.trainer import StageTrainer, out_of_memory

__all__ = [
    "Objective",
    "StageResult",
    "TrainSettings",
    "check_batch",
    "isolated_randomness",
    "micro_batches",
    "run_stage",
]

LOSS = "loss"
SCORE = "NDCG@10"


class TrainSettings(StrictModel):
    """How a stage is trained."""

    epochs: float = Field(3, gt=0, description="passes over the rows, at most")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; unset: the backbone's default")
    batch_size: int = Field(128, ge=1, description="rows per optimizer step, over all processes")
    micro_batch_size: int = Field(
        16, ge=1, description="rows of like length that stay together, per forward pass and process (memory permitting)"
    )
    warmup_steps: int = Field(20, ge=0, description="optimizer steps of linear warm-up, at most a third")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", description="after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this L2 norm; 0: not at all")
    patience: int | None = Field(1, ge=1, description="evaluations without a gain before it stops; null: never")
    checkpoint_steps: int = Field(200, ge=1, description="optimizer steps between checkpoints for resuming")
    log_steps: int = Field(10, ge=1, description="optimizer steps between lines of train.jsonl")

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainSettings:
        require_whole_micro_batches(self.batch_size, self.micro_batch_size)
        return self


def require_whole_micro_batches(batch_size: int, micro_batch_size: int) -> None:
    """Refuse a batch that not even one process can cut into micro-batches (for validators of settings).

    Raises:
        ValueError: it is larger than a micro-batch and no multiple of it.
    """
    if batch_size % min(micro_batch_size, batch_size):
        raise ValueError(f"batch_size {batch_size} is no multiple of micro_batch_size {micro_batch_size}")


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        steps: optimizer steps taken.
        best_step, best_loss: the evaluation whose weights were kept, and its validation loss; None where nothing was
            evaluated.
        stopped_early: whether patience ended it.
        best_ndcg: its validation NDCG@10, where that was measured.
        trainable_parameters: how many numbers were trained.
        rows_per_pass: rows of a forward pass at the end: fewer than a micro-batch where memory was short.
        padding: share of padded tokens in the micro-batches of an epoch.
    """

    steps: int
    best_step: int | None
    best_loss: float | None
    stopped_early: bool
    best_ndcg: float | None
    trainable_parameters: int
    rows_per_pass: int
    padding: float


def run_stage(
    name: str,
    objective: Objective,
    train: Sequence[Row],
    valid: Sequence[Row] | None,
    collate: Collate,
    settings: TrainSettings,
    folder: Path,
    ctx: RunContext,
    drop_last: bool = False,
    repeats: int = 1,
    score: Callable[[int], float] | None = None,
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
        score: returns the validation NDCG@10 of the weights after the optimizer step that it is given; where it is
            given, it and not the loss decides which weights are best. One of several processes calls it.

    Raises:
        TrainingError: the loss is not finite or far too large, or memory is short even for the smallest pass.
        ConfigError: the batch size does not divide into micro-batches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(settings, len(train) * repeats, folder, ctx, drop_last)
    writes = arguments.process_index == 0
    checkpoint, steps_done = last_checkpoint(folder, clean=writes)
    history = History(folder, steps_done, SCORE if score else LOSS, higher_is_better=bool(score), writes=writes)
    with isolated_randomness(derive_seed(ctx.seed, name)):
        meter = Meter()
        trainer = StageTrainer(objective, arguments, name, train, collate, meter, repeats)
        per_epoch = trainer.batches.steps
        total = math.ceil(per_epoch * settings.epochs)
        with ctx.progress.bar(name, total, done=steps_done) as bar:
            # Trainer prints its logs to stdout, which belongs to results.
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(Order(trainer.batches))
            trainer.add_callback(Reporter(name, objective, meter, trainer.total_over_processes, ctx, bar))
            ended = False
            if valid:
                evaluation = _evaluation(trainer, valid, score, history, settings.patience, ctx)
                trainer.add_callback(evaluation)
                if checkpoint and (steps_done % per_epoch == 0 or steps_done == total):
                    # It was stopped at the end of an epoch, before or after its evaluation.
                    load_trainable(objective, weights_file(checkpoint))
                    ended = evaluation.at(steps_done)
            if not ended:
                _train(trainer, name, str(checkpoint) if checkpoint else None)
                steps_done = trainer.state.global_step
                trainer.make_ordinary()
    best = history.best
    if best is not None:
        trainer.accelerator.wait_for_everyone()
        load_trainable(objective, history.weights)
    return StageResult(
        steps=steps_done,
        best_step=int(best["step"]) if best else None,
        best_loss=best[LOSS] if best else None,
        stopped_early=steps_done < total,
        best_ndcg=best.get(SCORE) if best else None,
        trainable_parameters=sum(weight.numel() for weight in trainable(objective).values()),
        rows_per_pass=trainer.rows_per_pass,
        padding=trainer.batches.padding(),
    )


def _train(trainer: StageTrainer, name: str, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"The {name} stage ran out of memory outside a forward pass (in the optimizer, most likely): {error}",
            "Train with LoRA (sft.lora), or take a smaller backbone.",
        ) from error


def _evaluation(
    trainer: StageTrainer,
    valid: Sequence[Row],
    score: Callable[[int], float] | None,
    history: History,
    patience: int | None,
    ctx: RunContext,
) -> Evaluation:
    writes = trainer.args.process_index == 0

    def measure(step: int) -> dict[str, float]:
        values = {LOSS: trainer.mean_loss(valid)}
        if score:
            # One process decodes, all get its value.
            with gathered(trainer.objective):
                ours = score(step) if writes else 0.0
            values[SCORE] = float(trainer.total_over_processes(torch.tensor(ours, dtype=torch.float64)))
        return values

    def tell(step: int, values: dict[str, float]) -> None:
        if writes:
            record = {"stage": trainer.name, "step": step, "eval_loss": values[LOSS]}
            ctx.log({**record, f"valid/{SCORE}": values[SCORE]} if SCORE in values else record)

    return Evaluation(measure, history, trainer.objective, patience, tell)


def micro_batches(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Return how many micro-batches each process takes in an optimizer step.

    Raises:
        ConfigError: it is not a whole number.
    """
    together = micro_batch_size * processes
    if batch_size % together:
        raise ConfigError(
            f"batch_size {batch_size} does not divide into {processes} processes with micro_batch_size "
            f"{micro_batch_size}.",
            f"Choose a batch_size that is a multiple of {together}, or a smaller micro_batch_size.",
        )
    return batch_size // together


def check_batch(batch_size: int, micro_batch_size: int) -> None:
    """Refuse a batch that the processes of this run cannot share, before the stages that come first.

    Raises:
        ConfigError: an optimizer step does not divide into micro-batches for all of them.
    """
    processes = dist.get_world_size() if dist.is_initialized() else 1
    micro_batches(batch_size, min(micro_batch_size, batch_size), processes)


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
    settings: TrainSettings, n_rows: int, folder: Path, ctx: RunContext, drop_last: bool
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
        eval_strategy="no",
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        dataloader_drop_last=drop_last,
        remove_unused_columns=False,
        label_names=[],
        use_cpu=ctx.device == "cpu",
        seed=derive_seed(ctx.seed, "trainer") % 2**31,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )
    micro = arguments.per_device_train_batch_size
    arguments.gradient_accumulation_steps = micro_batches(settings.batch_size, micro, arguments.world_size)
    # One process uses one device; several devices are used through accelerate launch, never through DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
