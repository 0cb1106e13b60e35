"""Which rows go together: the order of an epoch, the share of each process, and batches of like length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from recbench.contracts.seeding import numpy_rng

Row = Mapping[str, Any]
Collate = Callable[[list[Row]], dict[str, Tensor]]

# Rows are sorted by prompt in pools of this many batches, then by answer in strips of that many.
_BATCHES_PER_POOL = 200
_BATCHES_PER_STRIP = 5


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass.

    Attributes:
        tensors: what the objective takes; the first dimension is rows.
        weight: its part of the micro-batch that it was cut from (1: all of it; 0: stands in where a process has no
            rows, and counts nowhere).
        tokens, cells: real tokens, and those with padding.
    """

    tensors: dict[str, Tensor]
    weight: float
    tokens: int
    cells: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.tensors.values())))

    def parts(self, n_rows: int) -> list[MicroBatch]:
        """Cut it into parts of at most ``n_rows`` rows, whose weights add up to its own."""
        total = self.n_rows
        if total <= n_rows:
            return [self]
        return [
            replace(
                self,
                tensors={name: tensor[start : start + n_rows] for name, tensor in self.tensors.items()},
                weight=self.weight * min(n_rows, total - start) / total,
            )
            for start in range(0, total, n_rows)
        ]


def row_length(row: Row) -> int:
    """Return the number of tokens of the part of a row that is put together with rows of like length."""
    return len(row["input_ids"])


def answer_length(row: Row) -> int:
    """Return the number of tokens of a row's "answer", 0 where it has none."""
    return len(row.get("answer", ()))


def make_batch(rows: Sequence[Row], collate: Collate, weight: float = 1.0) -> MicroBatch:
    """Collate rows; a row's tokens are its "input_ids" and, where it has one, its "answer"."""
    sides = [[row_length(row) for row in rows], [answer_length(row) for row in rows]]
    return MicroBatch(
        collate(list(rows)),
        weight,
        tokens=sum(map(sum, sides)),
        cells=len(rows) * sum(map(max, sides)),
    )


class StepBatches(Sampler[list[int]]):
    """The micro-batches of one process: row numbers, in a new random order every epoch.

    The rows of a micro-batch have prompts and answers of like lengths, so that little is padding. The order depends on
    the seed, the epoch and the size of micro-batches alone: a stage that is resumed inside an epoch goes on with the
    batches it would have had, and an optimizer step has the same rows on one process as on several, which take its
    micro-batches in turn. A process that has none in an epoch's last step gets an empty one.

    Args:
        lengths: int (n_rows,), of the rows' prompts.
        size: rows of a micro-batch.
        per_step: micro-batches of an optimizer step, a multiple of ``processes``.
        seed: of the order.
        drop_last: leave out an incomplete last micro-batch.
        repeats: optimizer steps taken in a row on the same rows.
        process, processes: number of this process, and how many there are.
        answers: int (n_rows,), lengths of their answers, which are padded apart; unset: there are none.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        size: int,
        per_step: int,
        seed: int,
        drop_last: bool = False,
        repeats: int = 1,
        process: int = 0,
        processes: int = 1,
        answers: np.ndarray | None = None,
    ) -> None:
        self.lengths = lengths
        self.answers = np.zeros_like(lengths) if answers is None else answers
        self.size = size
        self.per_step = per_step
        self.seed = seed
        self.drop_last = drop_last
        self.repeats = repeats
        self.process = process
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.epoch = epoch

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch; at least one."""
        return max(1, self.repeats * -(-self._n_batches // self.per_step))

    @property
    def _n_batches(self) -> int:
        whole, rest = divmod(len(self.lengths), self.size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        whole, rest = divmod(self._n_batches, self.per_step)
        return self.repeats * (whole * self.per_step // self.processes + -(-rest // self.processes))

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order(self.epoch)
        batches = [order[start : start + self.size].tolist() for start in range(0, len(order), self.size)]
        for start in range(0, self._n_batches, self.per_step):
            step = batches[start : min(start + self.per_step, self._n_batches)]
            step += [[]] * (-len(step) % self.processes)
            yield from itertools.chain.from_iterable([step[self.process :: self.processes]] * self.repeats)

    def padding(self) -> float:
        """Return the share of padding in the micro-batches of the first epoch, of all processes."""
        order = self._order(0)[: self._n_batches * self.size]
        if not len(order):
            return 0.0
        starts = np.arange(0, len(order), self.size)
        n_rows = np.diff([*starts, len(order)])
        sides = [side[order] for side in (self.lengths, self.answers)]
        cells = sum(int((np.maximum.reduceat(side, starts) * n_rows).sum()) for side in sides)
        return 1 - sum(int(side.sum()) for side in sides) / cells

    def _order(self, epoch: int) -> np.ndarray:
        rng = numpy_rng(self.seed, "order", epoch)
        order = rng.permutation(len(self.lengths))
        for lengths, n_batches in ((self.lengths, _BATCHES_PER_POOL), (self.answers, _BATCHES_PER_STRIP)):
            parts = np.split(order, range(self.size * n_batches, len(order), self.size * n_batches))
            order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
        # Only whole batches change places, so the incomplete one stays last.
        n_whole = len(order) // self.size
        batches = order[: n_whole * self.size].reshape(n_whole, self.size)
        return np.concatenate([batches[rng.permutation(n_whole)].ravel(), order[n_whole * self.size :]])


class _Rows(Dataset):
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def training_loader(rows: Sequence[Row], batches: StepBatches, collate: Collate) -> DataLoader:
    """Return a loader of :class:`MicroBatch`; an empty micro-batch is row 0 with weight 0."""

    def together(chosen: list[Row]) -> MicroBatch:
        return make_batch(chosen, collate) if chosen else replace(make_batch(rows[:1], collate, 0.0), tokens=0, cells=0)

    return DataLoader(_Rows(rows), batch_sampler=batches, collate_fn=together)


def sorted_batches(rows: Sequence[Row], size: int, process: int, processes: int) -> Iterator[list[Row]]:
    """Yield a process's share of all rows, longest first, in batches of like length; no order matters in evaluation."""
    order = np.argsort([-row_length(row) for row in rows], kind="stable")
    for start in range(process * size, len(order), processes * size):
        yield [rows[index] for index in order[start : start + size]]
