"""Training of a RecBole model: a plain loop over its loss, with early stopping and a checkpoint after every epoch.

RecBole's own trainer pickles its checkpoints (which torch >= 2.6 refuses to read back), samples and collates row by
row, and ranks with top-k lists. Here a batch is a slice of tensors, and validation needs only the target's place.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from baselines.recbole.isolate import (
    HISTORY,
    ITEM,
    LABEL,
    LENGTH,
    NEGATIVE,
    USER,
    build_dataset,
    build_model,
    peak_memory_bytes,
    seed_everything,
)
from baselines.recbole.job import (
    CHECKPOINT,
    OUTCOME,
    TRAIN,
    VALID,
    VOCABULARY,
    WEIGHTS,
    FitJob,
    read_arrays,
    read_examples,
    write_arrays,
)
from baselines.recbole.ranking import score_vocabulary
from baselines.recbole.vocabulary import Vocabulary, example_rows
from recbench.artifacts.files import write_json
from recbench.contracts.errors import TrainingError
from recbench.contracts.examples import Examples
from recbench.contracts.seeding import derive_seed, numpy_rng

_CUTOFF = 10
_VALID_SCORES_AT_ONCE = 4_000_000


@dataclass
class Progress:
    """How far training has come.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch of the best validation, from 1; 0 before the first.
        best_value: its NDCG@10; None without validation rows.
        seconds: spent on training and validation so far.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    seconds: float = 0.0

    def over(self, epochs: int, patience: int) -> bool:
        """Say whether all epochs are done, or the last ``patience`` of them brought nothing."""
        return self.epoch >= epochs or (self.best_value is not None and self.epoch - self.best_epoch >= patience)


def fit(folder: Path, job: FitJob, emit: Callable[..., None]) -> None:
    """Train, going on from a checkpoint of the same job; write weights, vocabulary and outcome.

    All that is random in epoch e depends on the run's seed and e alone: an interrupted run ends as an undisturbed one.

    Raises:
        TrainingError: the loss is not finite.
    """
    train, valid = read_examples(folder / TRAIN), read_examples(folder / VALID)
    rows = {"train": example_rows(train), "valid": example_rows(valid)}
    config, dataset = build_dataset(folder, job.spec, {part: lines for part, lines in rows.items() if lines})
    parts = dataset.build()
    vocabulary = Vocabulary.of(dataset)
    seed_everything(derive_seed(job.seed, "recbole", "init"))
    model = build_model(config, parts[0], job.spec)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    best, progress = resume(folder / CHECKPOINT, job, model, optimizer)
    batches = _Batches(config, parts[0], job, len(vocabulary.items))
    emit("start", epoch=progress.epoch, epochs=job.epochs)
    while not progress.over(job.epochs, job.patience):
        start = time.perf_counter()
        progress.epoch += 1
        loss = _train_epoch(model, optimizer, batches, progress.epoch)
        value = ndcg(model, vocabulary, valid, job) if len(valid) else None
        if value is None or progress.best_value is None or value > progress.best_value:
            progress.best_epoch, progress.best_value = progress.epoch, value
            best = _weights(model)
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        save_checkpoint(folder / CHECKPOINT, job, model, optimizer, best, progress)
        emit("epoch", epoch=progress.epoch, loss=loss, ndcg=value, seconds=seconds)
    write_arrays(folder / WEIGHTS, {name: tensor.cpu().numpy() for name, tensor in best.items()})
    write_arrays(folder / VOCABULARY, {"items": vocabulary.items, "users": vocabulary.users})
    facts = {
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "worker_peak_memory_bytes": peak_memory_bytes(config["device"]),
    }
    write_json(folder / OUTCOME, {**asdict(progress), **facts})


class _Batches:
    """Training batches of one epoch after the other, from RecBole's own tensors."""

    def __init__(self, config: Any, part: Any, job: FitJob, n_known: int) -> None:
        from recbole.data.transform import construct_transform
        from recbole.utils import InputType

        feat = part.inter_feat
        self.columns = {name: feat[name].to(config["device"]) for name in (USER, HISTORY, LENGTH, ITEM)}
        self.part = part
        self.job = job
        self.n_known = n_known
        self.transform = construct_transform(config)
        input_type = getattr(config.model_class, "input_type", None)
        # Models with one loss of their own learn from labelled pairs (DIN) or from a negative beside each target.
        self.labelled = job.spec.loss == "own" and input_type == InputType.POINTWISE
        self.negatives = self.labelled or job.spec.loss in ("bpr", "bce") or input_type == InputType.PAIRWISE

    def of_epoch(self, epoch: int) -> Iterator[Any]:
        """Yield all rows once, in an order and with negatives that depend on seed and epoch alone."""
        from recbole.data.interaction import Interaction

        n_rows, size = len(self.columns[ITEM]), self.job.train_batch_size
        device = self.columns[ITEM].device
        order = torch.from_numpy(numpy_rng(self.job.seed, "recbole", "order", epoch).permutation(n_rows)).to(device)
        columns = dict(self.columns)
        if self.negatives:
            rng = numpy_rng(self.job.seed, "recbole", "negatives", epoch)
            columns[NEGATIVE] = sample_negatives(self.columns[ITEM], self.n_known, rng)
        for start in range(0, n_rows, size):
            rows = order[start : start + size]
            batch = {name: column[rows] for name, column in columns.items()}
            if self.labelled:
                batch = _label(batch)
            yield self.transform(self.part, Interaction(batch))


def sample_negatives(targets: torch.Tensor, n_known: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw one item per row uniformly from 1..n_known without the row's target.

    Args:
        targets: int64 (N,), RecBole's item numbers.
        n_known: V, items in the vocabulary.
        rng: source of randomness.

    Raises:
        TrainingError: there is no other item.
    """
    if n_known < 2:
        raise TrainingError(
            "The training rows hold one item only, so there is none to be a negative.",
            "Use --set loss=ce, or more data.",
        )
    drawn = torch.from_numpy(rng.integers(1, n_known, size=len(targets))).to(targets.device)
    return drawn + (drawn >= targets)


def _label(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn each row into two: its target with label 1 and its negative with label 0."""
    negative = batch.pop(NEGATIVE)
    labelled = {name: torch.cat([column, column]) for name, column in batch.items()}
    labelled[ITEM] = torch.cat([batch[ITEM], negative])
    labelled[LABEL] = torch.cat([torch.ones(len(negative)), torch.zeros(len(negative))]).to(negative.device)
    return labelled


def _train_epoch(model: Any, optimizer: torch.optim.Optimizer, batches: _Batches, epoch: int) -> float:
    """Train one epoch and return the mean loss of its batches."""
    seed_everything(derive_seed(batches.job.seed, "recbole", "epoch", epoch))
    model.train()
    total, n_batches = torch.zeros((), device=batches.columns[ITEM].device), 0
    for batch in batches.of_epoch(epoch):
        losses = model.calculate_loss(batch)
        loss = torch.stack(losses).sum() if isinstance(losses, tuple) else losses
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach().sum()  # FOSSIL's has one element, but no scalar's shape
        n_batches += 1
    mean = total.item() / n_batches
    if not math.isfinite(mean):
        raise TrainingError(f"The loss of epoch {epoch} is {mean}.", "Try a lower learning_rate.")
    return mean


def ndcg(model: Any, vocabulary: Vocabulary, valid: Examples, job: FitJob) -> float:
    """Return the mean NDCG@10 of the validation rows, full ranking, ties by expectation.

    Every target is in the vocabulary, since the vocabulary is made from training and validation rows.
    """
    model.eval()
    size = max(1, min(2048, _VALID_SCORES_AT_ONCE // len(vocabulary.items)))
    total = 0.0
    for start in range(0, len(valid), size):
        part = valid.take(np.arange(start, min(start + size, len(valid))))
        scores = score_vocabulary(model, vocabulary, part, job.spec.max_history)
        target = torch.from_numpy(vocabulary.item_numbers(part.target) - 1).to(scores.device)
        if job.mask_history:
            row = np.repeat(np.arange(len(part)), part.history_length)
            seen = vocabulary.item_numbers(part.items) - 1
            scores[row[seen >= 0], seen[seen >= 0]] = -torch.inf
        total += float(expected_ndcg(scores, target).sum())
    return total / len(valid)


def expected_ndcg(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return float64 (N,): NDCG@10 of one relevant item, averaged over the orders of its tie.

    Args:
        scores: float (N, V).
        target: int64 (N,), column of the relevant item; a target with a score of -inf is not in the list.
    """
    own = scores.gather(1, target[:, None])
    above = (scores > own).sum(dim=1)
    tied = (scores == own).sum(dim=1)
    gain = 1.0 / torch.log2(torch.arange(2, _CUTOFF + 2, dtype=torch.float64, device=scores.device))
    cumulative = torch.cat([gain.new_zeros(1), gain.cumsum(0)])
    last = cumulative[(above + tied).clamp(max=_CUTOFF)]
    result = (last - cumulative[above.clamp(max=_CUTOFF)]) / tied
    return torch.where(torch.isfinite(own[:, 0]), result, 0.0)


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}


def save_checkpoint(
    path: Path,
    job: FitJob,
    model: Any,
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
    progress: Progress,
) -> None:
    """Write one safetensors file with the model, the best weights so far, the optimizer and the progress."""
    arrays = {f"model/{name}": tensor for name, tensor in _weights(model).items()}
    arrays.update({f"best/{name}": tensor for name, tensor in best.items()})
    for number, state in optimizer.state_dict()["state"].items():
        arrays.update({f"optimizer/{number}/{name}": tensor for name, tensor in state.items()})
    metadata = {"identity": job.identity, "progress": json.dumps(asdict(progress))}
    write_arrays(path, {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}, metadata)


def resume(
    path: Path, job: FitJob, model: Any, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], Progress]:
    """Load a checkpoint of the same job into model and optimizer; without one, leave them as they are."""
    if not path.exists():
        return _weights(model), Progress()
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    if metadata["identity"] != job.identity:
        return _weights(model), Progress()
    groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for key, array in read_arrays(path).items():
        group, _, name = key.partition("/")
        groups[group][name] = torch.from_numpy(array)
    model.load_state_dict(groups["model"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        number, _, quantity = name.partition("/")
        state.setdefault(int(number), {})[quantity] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return groups["best"], Progress(**json.loads(metadata["progress"]))
