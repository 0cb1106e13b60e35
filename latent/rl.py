"""Stage 2, LR-GRPO: only LatentRATT trains, rewarded by how likely it makes the true title (paper section 3.2.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent.policy import LatentPolicy
from latent.reasoner import LatentWriter
from latent.rl_config import RlSettings
from latent.trained_part import trained_part
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.llm.codec import RowCodec
from recbench.llm.rl import whole_steps
from recbench.llm.sft import collate_rows, training_rows
from recbench.llm.train import StageResult, check_batch, run_stage


def check_processes(settings: RlSettings) -> None:
    """Refuse settings that the processes of this run cannot share (:func:`recbench.llm.train.check_batch`)."""
    check_batch(settings.batch_size, math.gcd(settings.batch_size, settings.micro_batch_size))


def reinforce(
    writer: LatentWriter, codec: RowCodec, train: Examples, settings: RlSettings, folder: Path, ctx: RunContext
) -> StageResult:
    """Train LatentRATT in place, and the language model with it where ``settings.trains`` says so.

    The last weights are kept, as published; there is no validation in this stage. An incomplete last optimizer step
    is left out.

    Raises:
        DataError: there are fewer usable rows than one scope of the advantage has.
    """
    rows = training_rows(train, codec, settings.max_rows, ctx.seed, "rl")
    names = ("rl.batch_size", "rl.adv_groups")
    unit = 1 if settings.adv_groups == "batch" else settings.scope
    batch_size, usable = whole_steps(len(rows), settings.batch_size, unit, names)
    if usable < len(rows):
        rows = training_rows(train, codec, usable, ctx.seed, "rl")
    settings = settings.model_copy(update={"batch_size": batch_size})
    with ctx.stage("rl"), trained_part(writer, settings.trains, settings.beta > 0) as reference:
        result = run_stage(
            "rl",
            LatentPolicy(writer, settings, ctx.seed, reference),
            rows,
            None,
            lambda batch: _collate(codec, batch),
            settings.training(batch_size, math.gcd(batch_size, settings.micro_batch_size)),
            folder,
            ctx,
            drop_last=True,
            repeats=settings.num_iterations,
        )
    writer.eval()
    return result


def _collate(codec: RowCodec, rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {**collate_rows(codec, rows), "example_id": torch.tensor([row["example_id"] for row in rows])}
