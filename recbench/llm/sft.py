"""Supervised fine-tuning of a title writer: the loss stands on the answer's tokens only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import numpy_rng
from recbench.llm.codec import TitleCodec, split_labels
from recbench.llm.train import Objective, StageResult, TrainSettings, run_stage
from recbench.llm.writer import TitleWriter

log = logging.getLogger(__name__)


class SftSettings(TrainSettings):
    """Fine-tuning settings; defaults are those of the published D3/LatentR3 code."""

    max_rows: int | None = Field(None, ge=1, description="training rows used, drawn at random; unset: all")
    eval_rows: int | None = Field(None, ge=1, description="validation rows of the early-stopping loss; unset: all")


class SftObjective(Objective):
    """Mean negative log-likelihood of the answers over all tokens of the (accumulated, global) batch.

    Args:
        writer: any title writer; with a latent thought the gradient flows through both uses of the model.
    """

    accepts_loss_kwargs = True

    def __init__(self, writer: TitleWriter) -> None:
        super().__init__()
        self.writer = writer

    def forward(
        self, prompt_ids: Tensor, prompt_mask: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of one micro-batch.

        Args:
            prompt_ids, prompt_mask: int64 (B, P), padded on the left.
            labels: int64 (B, T), -100 where padded.
            num_items_in_batch: answer tokens of the whole optimizer step; unset: of this micro-batch.
        """
        answer_ids, answer_mask = split_labels(labels)
        logprobs = self.writer.answer_logprobs(self.writer.read(prompt_ids, prompt_mask), answer_ids, answer_mask)
        tokens = answer_mask.sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": -logprobs.sum() / tokens}


def usable_rows(examples: Examples, codec: TitleCodec, max_rows: int | None, seed: int, purpose: str) -> np.ndarray:
    """Return int64 numbers of the rows whose target has a title, at most ``max_rows``, drawn at random, ascending.

    Rows whose target has no title cannot be written; they are left out and counted in the log.
    """
    usable = np.flatnonzero(codec.answers.of_item[examples.target] >= 0)
    if len(usable) < len(examples):
        log.warning(
            "%d of %d rows have a target without title and are left out.", len(examples) - len(usable), len(examples)
        )
    if max_rows is not None and len(usable) > max_rows:
        usable = np.sort(numpy_rng(seed, "rows", purpose).choice(usable, max_rows, replace=False))
    return usable


def training_rows(
    examples: Examples, codec: TitleCodec, max_rows: int | None, seed: int, purpose: str
) -> list[dict[str, Any]]:
    """Return :func:`usable_rows` with prompt tokens ("input_ids") and answer tokens ("answer")."""
    chosen = examples.take(usable_rows(examples, codec, max_rows, seed, purpose))
    answer = codec.answers.of_item[chosen.target]
    prompts = codec.prompts(chosen)
    return [
        {"example_id": int(chosen.example_id[row]), "input_ids": prompt, "answer": codec.answers.tokens[answer[row]]}
        for row, prompt in enumerate(prompts)
    ]


def collate_rows(codec: TitleCodec, rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pad rows of :func:`training_rows` into a batch of :class:`SftObjective`."""
    ids, mask = codec.pad_prompts([row["input_ids"] for row in rows])
    return {"prompt_ids": ids, "prompt_mask": mask, "labels": codec.pad_answers([row["answer"] for row in rows])}


def fine_tune(
    writer: TitleWriter,
    codec: TitleCodec,
    train: Examples,
    valid: Examples,
    settings: SftSettings,
    folder: Path,
    ctx: RunContext,
) -> StageResult:
    """Fine-tune all trainable weights of ``writer`` in place, early stopping on the validation loss.

    Raises:
        DataError: there is no usable training row.
    """
    train_rows = training_rows(train, codec, settings.max_rows, ctx.seed, "sft")
    if not train_rows:
        raise DataError("There is no training row with a titled target.", "Check the data set's titles and split.")
    valid_rows = training_rows(valid, codec, settings.eval_rows, ctx.seed, "sft-valid")
    with ctx.stage("sft"):
        writer.train()
        result = run_stage(
            "sft",
            SftObjective(writer),
            train_rows,
            valid_rows,
            lambda rows: collate_rows(codec, rows),
            settings,
            folder,
            ctx,
        )
        writer.eval()
    return result
