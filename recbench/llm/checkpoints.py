"""What a training stage keeps on disk: trainable weights as safetensors, and the evaluations so far."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recbench.artifacts.files import atomic_path, write_json
from recbench.contracts.errors import TrainingError
from recbench.llm.sharding import share_like, whole_tensor

_MARKER = "complete"
_WEIGHTS = "trainable.safetensors"
_PREFIX = "checkpoint-"


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require gradients, by name."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def save_trainable(module: nn.Module, path: Path, writes: bool = True) -> None:
    """Write the trainable parameters, whole ones also where processes share them.

    Args:
        writes: whether this process writes the file (one of several does); all of them call it together.
    """
    weights = {}
    for name, weight in trainable(module).items():
        whole = whole_tensor(weight)
        if writes:
            weights[name] = whole if whole is weight else whole.cpu()
    if writes:
        with atomic_path(path) as temporary:
            save_file(weights, temporary)


def load_trainable(module: nn.Module, path: Path) -> None:
    """Read what :func:`save_trainable` wrote into ``module``.

    Raises:
        TrainingError: the file holds other parameters.
    """
    parameters = trainable(module)
    stored = load_file(path)
    if stored.keys() != parameters.keys():
        raise TrainingError(f"{path} was written for another model.", "Delete the run's work folder and run again.")
    with torch.no_grad():
        for name, tensor in stored.items():
            parameters[name].copy_(share_like(tensor, parameters[name]))


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return where ``transformers.Trainer`` puts the checkpoint of a step."""
    return folder / f"{_PREFIX}{step}"


def weights_file(checkpoint: Path) -> Path:
    """Return the file with the trainable weights of a checkpoint."""
    return checkpoint / _WEIGHTS


def mark_complete(checkpoint: Path) -> None:
    """Say that a checkpoint was written to its end."""
    with atomic_path(checkpoint / _MARKER):
        pass


def last_checkpoint(folder: Path, clean: bool = True) -> tuple[Path | None, int]:
    """Return the newest checkpoint that was written to its end, and its step; None and 0 where there is none.

    Args:
        folder: of the stage.
        clean: delete those that were not written to their end.
    """
    found: dict[int, Path] = {}
    for checkpoint in folder.glob(f"{_PREFIX}*"):
        if (checkpoint / _MARKER).exists():
            found[int(checkpoint.name.removeprefix(_PREFIX))] = checkpoint
        elif clean:
            shutil.rmtree(checkpoint)
    step = max(found, default=0)
    return found.get(step), step


class History:
    """Evaluations so far and the best weights, on disk, so that a resumed stage ends like an undisturbed one.

    Args:
        folder: of the stage.
        steps_done: of the checkpoint that the stage goes on from; evaluations after it will be repeated.
        by: the value that the best evaluation is chosen by.
        higher_is_better: whether it is a gain, not a loss.
        writes: whether this process writes the files (one of several does).
    """

    def __init__(self, folder: Path, steps_done: int, by: str, higher_is_better: bool, writes: bool = True) -> None:
        self.path = folder / "evaluations.json"
        self.weights = folder / "best.safetensors"
        self.by = by
        self.sign = -1.0 if higher_is_better else 1.0
        self.writes = writes
        stored = json.loads(self.path.read_text()) if self.path.exists() else []
        self.evaluations: list[dict[str, float]] = [entry for entry in stored if entry["step"] <= steps_done]

    def __contains__(self, step: int) -> bool:
        return any(entry["step"] == step for entry in self.evaluations)

    @property
    def best(self) -> Mapping[str, float] | None:
        """The best evaluation; among equals the one of least loss, then the earliest."""
        return min(
            self.evaluations, key=lambda entry: (self.sign * entry[self.by], entry["loss"], entry["step"]), default=None
        )

    def add(self, step: int, values: Mapping[str, float], module: nn.Module) -> None:
        """Note one evaluation; keep the weights if it is the best. All processes call it together."""
        entry = {"step": step, **values}
        self.evaluations.append(entry)
        if self.best is entry:
            save_trainable(module, self.weights, self.writes)
        if self.writes:
            write_json(self.path, self.evaluations)

    def exhausted(self, patience: int | None) -> bool:
        """Return whether ``patience`` evaluations in a row were no better than the best one before them."""
        best = self.best
        if best is None or patience is None:
            return False
        return sum(entry["step"] > best["step"] for entry in self.evaluations) >= patience
