"""Which rows an optimizer step has, on one process and on several, and how micro-batches are cut."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.llm.batches import MicroBatch, StepBatches, make_batch, sorted_batches, training_loader


def collate(rows: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {"row": torch.tensor([row["number"] for row in rows])}


def make_rows(lengths: list[int]) -> list[dict[str, Any]]:
    return [{"number": number, "input_ids": [0] * length, "answer": (1, 2)} for number, length in enumerate(lengths)]


@settings(max_examples=50, deadline=None)
@given(
    n_rows=st.integers(1, 60),
    size=st.integers(1, 5),
    share=st.integers(1, 3),
    processes=st.sampled_from([1, 2, 3, 4]),
    drop_last=st.booleans(),
    epoch=st.integers(0, 2),
)
def test_every_step_has_the_same_rows_on_any_number_of_processes(
    n_rows: int, size: int, share: int, processes: int, drop_last: bool, epoch: int
) -> None:
    lengths = np.random.default_rng(n_rows).integers(1, 9, n_rows)
    per_step = share * processes

    def batches_of(process: int, of: int) -> list[list[int]]:
        batches = StepBatches(lengths, size, per_step, 7, drop_last, 1, process, of)
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(listed) == len(batches)
        return listed

    alone = batches_of(0, 1)
    together = [batches_of(process, processes) for process in range(processes)]
    assert len({len(part) for part in together}) == 1, "a process that ends before the others would leave them waiting"
    assert len(list(chain.from_iterable(alone))) == (n_rows // size * size if drop_last else n_rows)
    for step in range(-(-len(alone) // per_step)):
        ours = alone[step * per_step : (step + 1) * per_step]
        theirs = [batch for part in together for batch in part[step * share : (step + 1) * share] if batch]
        assert sorted(ours) == sorted(theirs)


def test_another_epoch_has_another_order_and_batches_have_like_lengths() -> None:
    lengths = np.repeat(np.arange(1, 11), 4)
    batches = StepBatches(lengths, 4, 2, seed=1)
    first = list(batches)
    assert first == list(batches)
    assert all(len(set(lengths[batch])) == 1 for batch in first)
    batches.set_epoch(1)
    assert list(batches) != first
    assert sorted(chain.from_iterable(batches)) == list(range(40))


def test_repeated_steps_have_the_same_rows() -> None:
    batches = list(StepBatches(np.ones(8), 2, 2, seed=0, repeats=3))
    once = list(StepBatches(np.ones(8), 2, 2, seed=0))
    assert batches == once[:2] * 3 + once[2:] * 3
    assert StepBatches(np.ones(8), 2, 2, seed=0, repeats=3).steps == 6


def test_parts_hold_all_rows_and_their_weights_add_up() -> None:
    batch = make_batch(make_rows([3] * 7), collate)
    parts = batch.parts(3)
    assert [part.tensors["row"].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [part.weight for part in parts] == pytest.approx([3 / 7, 3 / 7, 1 / 7])
    assert batch.parts(7) == [batch]


def test_padding_is_counted_on_both_sides() -> None:
    rows: list[Mapping[str, Any]] = [
        {"number": 0, "input_ids": [1, 2, 3], "answer": (1,)},
        {"number": 1, "input_ids": [1], "answer": (1, 2)},
    ]
    batch = make_batch(rows, collate)
    assert (batch.tokens, batch.cells) == (3 + 1 + 1 + 2, 2 * (3 + 2))


def test_a_process_without_rows_gets_a_batch_that_counts_nowhere() -> None:
    rows = make_rows([2] * 3)
    loaded: list[MicroBatch] = list(
        training_loader(rows, StepBatches(np.full(3, 2), 1, 2, 0, process=1, processes=2), collate)
    )
    assert [batch.weight for batch in loaded] == [1.0, 0.0]
    assert loaded[1].tokens == 0


def test_evaluation_reads_every_row_once_and_long_ones_first() -> None:
    rows = make_rows([5, 1, 4, 2, 3, 3, 1])
    parts = [list(sorted_batches(rows, 2, process, 2)) for process in (0, 1)]
    assert [row["number"] for row in parts[0][0]] == [0, 2]
    assert sorted(row["number"] for part in parts for batch in part for row in batch) == list(range(7))


def test_padding_by_hand() -> None:
    # Sorted by prompt and then, in a strip as long as this, by answer: 4-1 3-1 | 2-1 9-2 | 1-5 (prompt-answer).
    prompts, answers = np.array([4, 1, 9, 3, 2]), np.array([1, 5, 2, 1, 1])
    batches = StepBatches(prompts, 2, 1, seed=0, answers=answers)
    lengths = sorted([(int(prompts[row]), int(answers[row])) for row in batch] for batch in batches)
    cells = sum(len(batch) * sum(max(side) for side in zip(*batch, strict=True)) for batch in lengths)
    assert [sum(answer for _, answer in batch) for batch in lengths if len(batch) == 1] == [5]
    assert batches.padding() == pytest.approx(1 - (19 + 10) / cells)
    whole = StepBatches(prompts, 2, 1, seed=0, drop_last=True, answers=answers)
    assert whole.padding() == pytest.approx(1 - (18 + 5) / (cells - 6))
    assert StepBatches(prompts, 2, 1, seed=0).padding() == pytest.approx(1 - 19 / (2 * 2 + 2 * 4 + 9))
    assert StepBatches(prompts, 9, 1, seed=0, drop_last=True).padding() == 0


@settings(max_examples=30, deadline=None)
@given(n_rows=st.integers(1, 200), size=st.integers(1, 8), epoch=st.integers(0, 2))
def test_padding_is_that_of_the_batches_and_far_less_than_in_random_order(n_rows: int, size: int, epoch: int) -> None:
    rng = np.random.default_rng(n_rows)
    prompts, answers = rng.integers(1, 99, n_rows), rng.integers(1, 20, n_rows)
    rows = [
        {"number": i, "input_ids": [0] * p, "answer": [0] * a}
        for i, (p, a) in enumerate(zip(prompts.tolist(), answers.tolist(), strict=True))
    ]
    batches = StepBatches(prompts, size, 1, seed=3, answers=answers)
    made = [make_batch([rows[row] for row in batch], collate) for batch in batches]
    padding = batches.padding()
    assert padding == pytest.approx(1 - sum(b.tokens for b in made) / sum(b.cells for b in made))
    batches.set_epoch(epoch)
    assert batches.padding() == padding, "a stage that is resumed later says the same"
    if size > 1 and n_rows >= 100:
        parts = np.split(rng.permutation(n_rows), range(size, n_rows, size))
        cells = sum(len(part) * (prompts[part].max() + answers[part].max()) for part in parts)
        assert padding < (1 - (prompts.sum() + answers.sum()) / cells) / 2
