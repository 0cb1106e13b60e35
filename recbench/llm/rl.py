"""What the reinforcement learning stages of all methods share: their settings, and how rows are cut into steps."""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import Field

from recbench.contracts.config import StrictModel
from recbench.contracts.errors import DataError
from recbench.llm.train import TrainSettings

log = logging.getLogger(__name__)


class GrpoSettings(StrictModel):
    """Settings of a GRPO stage. A row is a prompt; each is sampled ``samples`` times.

    There is no validation in such a stage and no early stopping: the last weights are kept.
    """

    max_rows: int | None = Field(None, ge=1, description="training prompts used, drawn at random; unset: all")
    samples: int = Field(8, ge=2, description="K, samples per prompt")
    clip_low: float = Field(0.2, ge=0, lt=1, description="ratio clipped below 1 - this")
    clip_high: float = Field(0.28, ge=0, description="ratio clipped above 1 + this")
    epochs: float = Field(1, gt=0, description="passes over the rows")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; unset: the backbone's default")
    batch_size: int = Field(32, ge=1, description="prompts per optimizer step, over all processes")
    warmup_steps: int = Field(200, ge=0, description="optimizer steps of linear warm-up, at most a third")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("cosine", description="after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this L2 norm; 0: not at all")
    checkpoint_steps: int = Field(200, ge=1, description="optimizer steps between checkpoints for resuming")
    log_steps: int = Field(10, ge=1, description="optimizer steps between lines of train.jsonl")

    def training(self, batch_size: int, micro_batch_size: int) -> TrainSettings:
        """Return how the stage is trained, with ``micro_batch_size`` prompts in a forward pass."""
        shared = self.model_dump(include=TrainSettings.model_fields.keys() & GrpoSettings.model_fields.keys())
        shared["batch_size"] = batch_size
        return TrainSettings(**shared, micro_batch_size=micro_batch_size, patience=None)


def whole_steps(n_rows: int, batch_size: int, unit: int, names: tuple[str, str]) -> tuple[int, int]:
    """Cut rows into whole optimizer steps; an incomplete last one is left out.

    Args:
        batch_size: prompts per optimizer step, as asked for.
        unit: prompts per forward pass, of which a step must be a multiple.
        names: of the settings that ask for ``batch_size`` and ``unit``, for messages.

    Returns:
        The batch size to use, smaller where there are fewer rows, and the number of rows to use.

    Raises:
        DataError: there are fewer rows than ``unit``.
    """
    used = min(batch_size, n_rows // unit * unit)
    if used == 0:
        raise DataError(
            f"This stage needs at least {names[1]} = {unit} training rows with a titled target; there are {n_rows}.",
            f"Lower {names[1]}, or give more training rows.",
        )
    if used < batch_size:
        log.warning("%s is %d, but there are only %d rows: %d is used.", names[0], batch_size, n_rows, used)
    return used, n_rows // used * used
