"""Validation NDCG@10 from real decoding, for early stopping by what counts in the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from recbench.contracts.gain import mean_ndcg
from recbench.contracts.method import RunContext
from recbench.contracts.progress import SilentProgress
from recbench.llm.background import Background
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.writer import TitleWriter

_PLACES = 10


def validation_ndcg(
    writer: TitleWriter,
    codec: TitleCodec,
    background: Background,
    n_rows: int | None,
    decoding: DecodingConfig,
    folder: Path,
    ctx: RunContext,
) -> Callable[[int], float]:
    """Return a function that decodes a sample of validation rows with the writer's present weights.

    Args:
        writer, codec: the model in training, and its prompts and answers.
        background: of the fit; its validation rows are the only rows that are looked at.
        n_rows: validation rows, drawn at random by the run's seed; None: all.
        decoding: how lists are made, the method's own.
        folder: for finished shards, so that an interrupted evaluation goes on; emptied after each.
        ctx: of the run.

    Returns:
        Optimizer step -> mean item NDCG@10.
    """
    sample = background.valid_sample(n_rows, ctx.seed, "select")
    # The stage that asks has its own clock and bar.
    quiet = replace(ctx, progress=SilentProgress(), timings_s={})

    def score(step: int) -> float:
        # Weights are no part of a shard's name.
        shards = folder / f"step-{step}"
        lists = rank_titles(writer, codec, sample.queries(), decoding, shards, quiet, k=_PLACES, background=background)
        shutil.rmtree(shards)
        return mean_ndcg(lists, sample.target, _PLACES)

    return score
