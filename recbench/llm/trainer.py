"""``transformers.Trainer`` with the batches, losses and checkpoints of a stage.

Its loop, optimizer, schedule, gradient accumulation, DDP and resuming stay as they are. What is ours: one micro-batch
size for the order and a smaller one for memory, a loss that is divided by what the whole optimizer step has, a check
of every step's loss before the optimizer sees it, and checkpoints that hold trainable weights only.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from recbench.artifacts.files import read_json, write_json
from recbench.contracts.errors import TrainingError
from recbench.llm.batches import (
    Collate,
    MicroBatch,
    Row,
    StepBatches,
    answer_length,
    make_batch,
    row_length,
    sorted_batches,
    training_loader,
)
from recbench.llm.checkpoints import (
    checkpoint_folder,
    load_trainable,
    mark_complete,
    save_trainable,
    trainable,
    weights_file,
)
from recbench.llm.monitor import Meter
from recbench.llm.objective import Objective, count_labels
from recbench.llm.sharding import (
    OrdinaryModules,
    check_engine,
    check_version,
    gathered,
    load_optimizer_state,
    name_layers,
    own_part,
    shard_on_cpu,
    whole_optimizer_state,
    whole_tensor,
)

log = logging.getLogger(__name__)


class StageTrainer(Trainer):
    """Trains an :class:`Objective`.

    Args:
        objective: what is trained, in place.
        args: Trainer's; ``per_device_train_batch_size`` rows are a micro-batch.
        name: of the stage, for messages.
        rows: training rows.
        collate: rows -> batch of the objective.
        meter: counts tokens.
        repeats: optimizer steps taken in a row on the same rows.

    Raises:
        ConfigError: the processes were started with an engine, or settings of it, that stages cannot work with.
    """

    def __init__(
        self,
        objective: Objective,
        args: TrainingArguments,
        name: str,
        rows: Sequence[Row],
        collate: Collate,
        meter: Meter,
        repeats: int = 1,
    ) -> None:
        super().__init__(model=objective, args=args, data_collator=collate)
        check_engine(self.accelerator)
        # All losses come out divided by what the whole step has, so Trainer must not divide them again.
        self.model_accepts_loss_kwargs = True
        self.objective = objective
        self.name = name
        self.rows = rows
        self.meter = meter
        self.batches = StepBatches(
            np.array([row_length(row) for row in rows]),
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps * args.world_size,
            args.seed,
            args.dataloader_drop_last,
            repeats,
            args.process_index,
            args.world_size,
            np.array([answer_length(row) for row in rows]),
        )
        self._ordinary: OrdinaryModules | None = None
        self._limit = _Limit(Path(args.output_dir) / "micro_batch.json", args.per_device_train_batch_size)
        self._step_batches: list[MicroBatch] = []
        self._begun = 0
        self._step_loss = torch.zeros(())

    @property
    def rows_per_pass(self) -> int:
        """Rows of a forward pass: those of a micro-batch, or fewer where these did not fit into memory."""
        return self._limit.n_rows

    def total_over_processes(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return self.accelerator.reduce(values.to(self.args.device), "sum")

    # --- training -----------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of this process's share of every step."""
        return training_loader(self.rows, self.batches, self.data_collator)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, Tensor]:
        """Return the micro-batches of a step, and what its loss is divided by: labels or micro-batches, of all."""
        self._step_batches = list(itertools.islice(epoch_iterator, num_batches))
        self._begun, self._step_loss = 0, torch.zeros((), device=self.args.device)
        if self.objective.accepts_loss_kwargs:
            count = sum(count_labels(batch.tensors["labels"]) for batch in self._step_batches if batch.weight)
        else:
            count = sum(batch.weight > 0 for batch in self._step_batches)
        # Trainer looks for names in what it hands on.
        return [{"batch": b} for b in self._step_batches], self.total_over_processes(torch.tensor(count))

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Add the gradients of the step's next micro-batch; in parts, and all of the step again, if memory is short."""
        self._begun += 1
        first = self._begun - 1
        while True:
            losses = self._attempt(model, self._step_batches[first : self._begun], num_items_in_batch)
            if losses is not None:
                break
            self._read_less_at_once()
            # A pass that broke off may have left a part of its gradients.
            model.zero_grad()
            first = 0
        self.meter.count(self._step_batches[self._begun - 1])
        self._step_loss = self._step_loss + losses[-1]
        if self._begun == len(self._step_batches):
            self._check_step(self._step_loss)
        return losses[-1]

    def _attempt(self, model: nn.Module, batches: Sequence[MicroBatch], divisor: Any) -> list[Tensor] | None:
        """Return the losses of micro-batches after their backward passes; None if memory ran out."""
        losses = []
        try:
            if batches[0] is self._step_batches[0]:
                parts = [part for batch in self._step_batches for part in batch.parts(self.rows_per_pass)]
                self.objective.prepare([self._on_device(part) for part in parts], self._gather)
            for batch in batches:
                parts = batch.parts(self.rows_per_pass)
                loss = torch.zeros((), device=self.args.device)
                for part in parts:
                    last = part is parts[-1]
                    with nullcontext() if last else self.accelerator.no_sync(model):
                        loss = loss + super().training_step(model, {"part": part}, divisor)
                losses.append(loss)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None
        return losses

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return a part's share of the step's loss, times the processes (whose gradients are averaged)."""
        part: MicroBatch = inputs["part"]
        tensors = self._on_device(part)
        if self.objective.accepts_loss_kwargs:
            loss = model(**tensors, num_items_in_batch=num_items_in_batch)["loss"]
            loss = loss if part.weight else loss * 0.0
        else:
            loss = model(**tensors)["loss"]
            loss = loss * part.weight if part.weight != 1 else loss
            loss = loss / num_items_in_batch
        return loss * self.args.world_size if self.args.world_size > 1 else loss

    def _on_device(self, part: MicroBatch) -> dict[str, Tensor]:
        return {name: tensor.to(self.args.device) for name, tensor in part.tensors.items()}

    def _gather(self, rows: Tensor) -> Tensor:
        """Return the rows of the whole step: processes take its micro-batches in turns."""
        processes = self.args.world_size
        if processes == 1:
            return rows
        size = self.args.per_device_train_batch_size
        gathered = self.accelerator.gather(rows.to(self.args.device))
        return gathered.unflatten(0, (processes, -1, size)).transpose(0, 1).flatten(0, 2)

    def _read_less_at_once(self) -> None:
        advice = "Lower micro_batch_size (it does not change the size of a step), or train with LoRA (sft.lora)."
        if self.args.world_size > 1:
            raise TrainingError(f"The {self.name} stage ran out of memory in one of several processes.", advice)
        if not self.objective.divisible or self.rows_per_pass == 1:
            raise TrainingError(
                f"The {self.name} stage ran out of memory with {self.rows_per_pass} rows in a forward pass, and "
                "these cannot be read in parts.",
                "Give it fewer rows or samples at once, shorter prompts (max_prompt_tokens) or a smaller backbone.",
            )
        self._limit.halve()
        self.objective.release()
        log.warning(
            "Stage %s ran out of memory: from now on %d rows in a forward pass instead of %d. An optimizer step "
            "still has %d rows.",
            self.name, self.rows_per_pass, self.args.per_device_train_batch_size,
            self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps,
        )  # fmt: skip
        free_memory()

    def _check_step(self, local_loss: Tensor) -> None:
        """Stop before the optimizer takes a step on a loss that makes no sense.

        Raises:
            TrainingError: it is not finite, or larger than the objective allows.
        """
        loss = float(self.total_over_processes(local_loss)) / self.args.world_size
        if math.isfinite(loss) and loss <= self.objective.diverged_above:
            return
        limit, rate = self.objective.diverged_above, self.lr_scheduler.get_last_lr()[0]
        what = f"above {limit:.3g}, far too large," if math.isfinite(loss) else "not finite"
        raise TrainingError(
            f"The {self.name} stage's loss is {what} at step {self.state.global_step + 1}: {loss:.4g} (learning rate "
            f"{rate:.3g}, gradients clipped to {self.args.max_grad_norm:g}).",
            f"Lower the learning rate (its peak is {self.args.learning_rate:.3g}), raise warmup_steps "
            f"({self.args.warmup_steps:g}), or lower max_grad_norm. {self._kept()}",
        )

    def _kept(self) -> str:
        step = self.state.global_step // self.args.save_steps * self.args.save_steps
        if step == 0:
            return "There was no checkpoint yet."
        return f"The last good weights are kept in {checkpoint_folder(Path(self.args.output_dir), int(step))}."

    # --- sharded weights ----------------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """Set up the engine that the processes were started with."""
        check_version()
        super().create_accelerator_and_postprocess()
        shard_on_cpu(self.accelerator)
        self.is_fsdp_enabled = getattr(self.accelerator.state, "fsdp_plugin", None) is not None

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        from torch.distributed.fsdp import register_fsdp_forward_method

        log.info("Stage %s: %d processes share the weights (FSDP).", self.name, self.args.world_size)
        name_layers(self.objective)
        self._ordinary = OrdinaryModules(self.objective)
        prepared = super()._prepare_for_training(*args, **kwargs)
        # It runs the model outside of its forward method.
        register_fsdp_forward_method(self.objective, "prepare")
        return prepared

    def make_ordinary(self) -> None:
        """Give every process a whole and ordinary model after training; all of them call it together."""
        if self._ordinary is not None:
            self._ordinary.restore()
            self._ordinary = None

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        return whole_tensor(norm) if isinstance(norm, Tensor) else norm

    # --- evaluation ---------------------------------------------------------------------------------------------

    def mean_loss(self, rows: Sequence[Row]) -> float:
        """Return the mean loss of rows, over all their answer tokens (or rows); the same for any batches.

        Raises:
            TrainingError: it is not finite.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        self.model.eval()
        size, args = self.args.per_device_eval_batch_size, self.args
        # Processes may have different numbers of batches.
        with torch.no_grad(), gathered(self.objective):
            for chosen in sorted_batches(rows, size, args.process_index, args.world_size):
                sums += self._batch_total(make_batch(chosen, self.data_collator))
        total, count = self.total_over_processes(sums).tolist()
        if not math.isfinite(total):
            raise TrainingError(
                f"The {self.name} stage's validation loss is not finite at step {self.state.global_step}.",
                f"Lower the learning rate (its peak is {self.args.learning_rate:.3g}). {self._kept()}",
            )
        return total / count

    def _batch_total(self, batch: MicroBatch) -> Tensor:
        while True:
            try:
                sums = torch.zeros(2, dtype=torch.float64)
                for part in batch.parts(self.rows_per_pass):
                    loss, count = self.objective.total(self._on_device(part))
                    sums += torch.tensor([float(loss), count], dtype=torch.float64)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            else:
                return sums
            self._read_less_at_once()

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trainable weights; all processes call it together."""
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        save_trainable(self.objective, weights_file(target), self.args.should_save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The file that one process would write, so that any number of processes can go on from it, sharded or not.
        state = whole_optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_optimizer_state(self.optimizer, state)
        self.lr_scheduler.load_state_dict(schedule)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(self.objective, weights_file(Path(resume_from_checkpoint)))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        weights = trainable(self.objective)
        broken = torch.stack([(~torch.isfinite(own_part(weight))).any() for weight in weights.values()]).double()
        if self.total_over_processes(broken).any():
            name = next(name for name, count in zip(weights, self.total_over_processes(broken), strict=True) if count)
            raise TrainingError(
                f"After step {self.state.global_step} of the {self.name} stage, weights are not finite ({name}).",
                f"Lower the learning rate (its peak is {self.args.learning_rate:.3g}). No checkpoint of them was kept.",
            )
        super()._save_checkpoint(model, trial)
        # Every process writes a file of its own.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(checkpoint_folder(Path(self.args.output_dir), self.state.global_step))


class _Limit:
    """Rows of a forward pass, remembered so that a resumed stage does not run out of memory again."""

    def __init__(self, path: Path, n_rows: int) -> None:
        self.path = path
        self.n_rows = min(n_rows, read_json(path)["rows"]) if path.exists() else n_rows

    def halve(self) -> None:
        self.n_rows //= 2
        write_json(self.path, {"rows": self.n_rows})


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or should_reduce_batch_size(error)


def free_memory() -> None:
    """Give back what the objects of a broken pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
