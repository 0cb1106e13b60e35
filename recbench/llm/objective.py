"""What a training stage makes smaller: a module that returns a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

#: A batch: its first dimension is rows.
Tensors = Mapping[str, Tensor]
#: From what this process has of a step's rows, (R, ...), to all rows of the step in the order of the batches, (N, ...).
Gather = Callable[[Tensor], Tensor]


class Objective(nn.Module):
    """A module whose ``forward(**batch)`` returns ``{"loss": scalar}``; the first dimension of a batch is rows.

    Attributes:
        accepts_loss_kwargs: whether ``forward`` takes ``num_items_in_batch``, the labels of the whole optimizer step
            (all micro-batches of all processes), and divides by it; otherwise micro-batches are averaged.
        divisible: whether the loss is a mean or sum of what every row gives by itself. A micro-batch that does not
            fit into memory may then be read in parts.
        diverged_above: a step with a larger loss has left all reason, and the run is stopped.
        step: optimizer steps done so far, kept by the stage and right after a resume too.
    """

    accepts_loss_kwargs = False
    divisible = False
    diverged_above = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._notes: dict[str, list[Tensor]] = {}

    def prepare(self, parts: Sequence[Tensors], gather: Gather) -> None:
        """Look at an optimizer step before its first pass; called again if the step has to begin anew.

        Args:
            parts: the batches of all passes of this process. Their rows are in the order in which ``forward`` gets
                them.
            gather: needs as many rows in every process, and is called by all processes or none.
        """

    def release(self) -> None:
        """Give back memory that is held for speed alone, and hold no more: it was short."""

    def note(self, name: str, value: Tensor) -> None:
        """Add a scalar to the next line of ``train.jsonl``, where the mean of all notes since the last line stands."""
        self._notes.setdefault(name, []).append(value.detach())

    def take_notes(self) -> dict[str, list[Tensor]]:
        """Return all notes by name, and forget them."""
        notes, self._notes = self._notes, {}
        return notes

    def total(self, batch: Tensors) -> tuple[Tensor, int]:
        """Return the loss of a batch as a sum, and the number of things it is the sum of (answer tokens, or rows)."""
        if self.accepts_loss_kwargs:
            labels = batch["labels"]
            return self(**batch, num_items_in_batch=torch.ones((), device=labels.device))["loss"], count_labels(labels)
        rows = len(next(iter(batch.values())))
        return self(**batch)["loss"] * rows, rows


def count_labels(labels: Tensor) -> int:
    """Return how many labels are no padding (-100)."""
    return int((labels != -100).sum())
