"""Training of AlphaRec, with checkpoints from which it goes on to the same result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from baselines.alpharec.config import AlphaRecTraining
from baselines.alpharec.model import GraphInputs, SharedHead, info_nce, pair_scores
from baselines.alpharec.sampling import NegativeSampler, epoch_pairs
from recbench.artifacts.files import atomic_path
from recbench.contracts.errors import TrainingError
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import numpy_rng


@dataclass(frozen=True)
class Progressed:
    """How far training is.

    Attributes:
        epoch: epochs done.
        step: optimizer steps done.
        best_epoch, best_metric: the evaluation whose weights are kept; None before the first one.
        stale: evaluations since then.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int | None = None
    best_metric: float | None = None
    stale: int = 0


def train_head(
    head: SharedHead,
    inputs: GraphInputs,
    layers: int,
    evaluate: Callable[[SharedHead], float] | None,
    settings: AlphaRecTraining,
    checkpoint: Path,
    ctx: RunContext,
) -> Progressed:
    """Train the head in place; afterwards it has the weights of its best evaluation (of the last epoch without any).

    Args:
        head: freshly initialised, on the run's device.
        inputs: texts and graph.
        layers: steps of graph convolution.
        evaluate: gives the validation metric, higher is better; None where there are no validation rows.
        settings: how.
        checkpoint: file to go on from if it exists; written after every evaluation.
        ctx: seed, log and progress.

    Raises:
        TrainingError: the loss is not finite, or no pair can be drawn.
    """
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.learning_rate)
    at, best = _read(checkpoint, head, optimizer) if checkpoint.exists() else (Progressed(), _weights(head))
    sampler = NegativeSampler(inputs.graph)
    with ctx.progress.bar("alpharec", settings.epochs, done=at.epoch) as bar:
        while at.epoch < settings.epochs and not _is_over(at, settings):
            loss, at = _epoch(head, inputs, layers, sampler, optimizer, settings, at, ctx)
            bar.advance()
            record: dict[str, Any] = {"stage": "train", "step": at.step, "epoch": at.epoch, "loss": loss}
            if at.epoch % settings.eval_epochs == 0 or at.epoch == settings.epochs:
                if evaluate is not None:
                    metric = evaluate(head)
                    record[f"valid/{settings.metric}"] = metric
                    at, improved = _judged(at, metric)
                    best = _weights(head) if improved else best
                _write(checkpoint, head, optimizer, at, best)
                bar.note(f"loss {loss:.4f}")
            ctx.log(record)
    if at.best_epoch is not None:
        head.load_state_dict(best)
    return at


def _is_over(at: Progressed, settings: AlphaRecTraining) -> bool:
    return settings.patience is not None and at.stale >= settings.patience


def _judged(at: Progressed, metric: float) -> tuple[Progressed, bool]:
    if at.best_metric is None or metric > at.best_metric:
        return replace(at, best_epoch=at.epoch, best_metric=metric, stale=0), True
    return replace(at, stale=at.stale + 1), False


def _epoch(
    head: SharedHead,
    inputs: GraphInputs,
    layers: int,
    sampler: NegativeSampler,
    optimizer: torch.optim.Optimizer,
    settings: AlphaRecTraining,
    at: Progressed,
    ctx: RunContext,
) -> tuple[float, Progressed]:
    """Take the steps of one epoch; an incomplete last batch is dropped. Return the mean loss and the new state."""
    rng = numpy_rng(ctx.seed, "alpharec", "epoch", at.epoch)
    users, positives = epoch_pairs(inputs.graph, rng)
    if not len(users):
        raise TrainingError(
            "AlphaRec has nothing to learn from: every user of the training rows has every item of the catalogue.",
            "Use a data set with more items.",
        )
    size = min(settings.batch_size, len(users))
    n_steps = len(users) // size
    device = inputs.texts.vectors.device
    total = torch.zeros((), device=device)
    for step in range(n_steps):
        part = slice(step * size, (step + 1) * size)
        negatives = sampler.draw(users[part], settings.negatives, rng)
        user = torch.from_numpy(users[part]).to(device)
        item = torch.from_numpy(np.column_stack([positives[part], negatives])).to(device)
        user_vectors, item_vectors = inputs.vectors(head, layers)
        loss = info_nce(pair_scores(user_vectors, item_vectors, user, item), settings.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    mean = float(total) / n_steps
    at = replace(at, epoch=at.epoch + 1, step=at.step + n_steps)
    if not math.isfinite(mean):
        raise TrainingError(
            f"AlphaRec's loss is not finite in epoch {at.epoch}.",
            "Lower training.learning_rate or raise training.temperature.",
        )
    return mean, at


def _weights(head: SharedHead) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in head.state_dict().items()}


def _write(
    path: Path, head: SharedHead, optimizer: torch.optim.Optimizer, at: Progressed, best: Mapping[str, Tensor]
) -> None:
    tensors = {f"head.{name}": value for name, value in head.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in moments.items()}
    with atomic_path(path) as temporary:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={"at": json.dumps(asdict(at))})


def _read(path: Path, head: SharedHead, optimizer: torch.optim.Optimizer) -> tuple[Progressed, dict[str, Tensor]]:
    with safe_open(path, framework="pt") as stored:
        at = Progressed(**json.loads(stored.metadata()["at"]))
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (not a mapping)
    head.load_state_dict(_under("head.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("adam.", tensors).items():
        number, _, moment = name.partition(".")
        state.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return at, _under("best.", tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
