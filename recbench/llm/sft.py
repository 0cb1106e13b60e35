"""Supervised fine-tuning of a title writer: the loss stands on the answer's tokens only."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import derive_seed, numpy_rng
from recbench.llm.background import Background
from recbench.llm.codec import RowCodec, TitleCodec, split_labels
from recbench.llm.decode import DecodingConfig
from recbench.llm.lora import LoraSettings, add_lora, merge_lora
from recbench.llm.objective import Objective
from recbench.llm.select import validation_ndcg
from recbench.llm.train import StageResult, TrainSettings, isolated_randomness, run_stage
from recbench.llm.writer import TitleWriter

log = logging.getLogger(__name__)


class SftSettings(TrainSettings):
    """Fine-tuning settings; defaults are those of the published D3/LatentR3 code."""

    max_rows: int | None = Field(None, ge=1, description="training rows used, drawn at random; unset: all")
    eval_rows: int | None = Field(None, ge=1, description="validation rows of the validation loss; unset: all")
    select: Literal["loss", "ndcg"] = Field(
        "loss", description="what chooses the best epoch: validation loss, or NDCG@10 of validation rows as decoded"
    )
    select_rows: int | None = Field(
        500, ge=1, description="validation rows decoded after every epoch with select=ndcg, drawn at random; null: all"
    )
    lora: LoraSettings | None = Field(None, description="train low-rank adapters only; null: all weights")


class SftObjective(Objective):
    """Mean negative log-likelihood of the answers over all tokens of the (accumulated, global) batch.

    Args:
        writer: any title writer; with a latent thought the gradient flows through both uses of the model.
    """

    accepts_loss_kwargs = True
    divisible = True

    def __init__(self, writer: TitleWriter) -> None:
        super().__init__()
        self.writer = writer
        # Guessing any token alike costs ln V.
        self.diverged_above = 3 * math.log(writer.lm.get_output_embeddings().weight.shape[0])

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


def usable_rows(examples: Examples, codec: RowCodec, max_rows: int | None, seed: int, purpose: str) -> np.ndarray:
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
    examples: Examples, codec: RowCodec, max_rows: int | None, seed: int, purpose: str
) -> list[dict[str, Any]]:
    """Return :func:`usable_rows` with prompt tokens ("input_ids") and answer tokens ("answer")."""
    chosen = examples.take(usable_rows(examples, codec, max_rows, seed, purpose))
    answer = codec.answers.of_item[chosen.target]
    prompts = codec.prompts(chosen)
    return [
        {"example_id": int(chosen.example_id[row]), "input_ids": prompt, "answer": codec.answers.tokens[answer[row]]}
        for row, prompt in enumerate(prompts)
    ]


def collate_rows(codec: RowCodec, rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pad rows of :func:`training_rows` into a batch of :class:`SftObjective`."""
    ids, mask = codec.pad_prompts([row["input_ids"] for row in rows])
    return {"prompt_ids": ids, "prompt_mask": mask, "labels": codec.pad_answers([row["answer"] for row in rows])}


def fine_tune(
    writer: TitleWriter,
    codec: RowCodec,
    train: Examples,
    valid: Examples,
    settings: SftSettings,
    folder: Path,
    ctx: RunContext,
    decoding: DecodingConfig | None = None,
) -> StageResult:
    """Fine-tune ``writer`` in place and keep the weights of the best epoch on validation rows.

    With ``settings.lora`` only adapters in the language model train, and whatever the writer has beside it; they are
    merged at the end, so the model is a plain one before and after.

    Args:
        decoding: how the method makes its lists; needed for ``select=ndcg``.

    Raises:
        DataError: there is no usable training row.
    """
    train_rows = training_rows(train, codec, settings.max_rows, ctx.seed, "sft")
    if not train_rows:
        raise DataError("There is no training row with a titled target.", "Check the data set's titles and split.")
    valid_rows = training_rows(valid, codec, settings.eval_rows, ctx.seed, "sft-valid")
    score = None
    if settings.select == "ndcg":
        if decoding is None or not isinstance(codec, TitleCodec):
            raise ConfigError("This method cannot choose by select=ndcg.", "Use select=loss.")
        background = Background.of(train, valid, len(ctx.catalog))
        rows = settings.select_rows
        score = validation_ndcg(writer, codec, background, rows, decoding, folder / "select", ctx)
    with ctx.stage("sft"), _adapted(writer, settings.lora, ctx.seed):
        result = run_stage(
            "sft",
            SftObjective(writer),
            train_rows,
            valid_rows,
            lambda rows: collate_rows(codec, rows),
            settings,
            folder,
            ctx,
            score=score,
        )
        writer.eval()
    return result


@contextmanager
def _adapted(writer: TitleWriter, settings: LoraSettings | None, seed: int) -> Iterator[None]:
    """Inside, the writer's language model has adapters, if any are asked for; afterwards they are merged."""
    if settings is None:
        yield
        return
    with isolated_randomness(derive_seed(seed, "lora")):
        adapted = add_lora(writer.lm, settings)
    yield
    merge_lora(adapted)
