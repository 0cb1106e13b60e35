"""CoT-RL's training stage: which prompts it sees, what it starts from, and how many of them taught nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.llm.cot_rl_config import CotRlSettings
from baselines.llm.cot_rl_policy import ReasoningPolicy, Reference
from baselines.llm.reasoning import reasoning_prompts
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import derive_seed
from recbench.llm.codec import TitleCodec
from recbench.llm.experience import GroupCount
from recbench.llm.lora import add_lora, merge_lora, without_lora
from recbench.llm.rl import whole_steps
from recbench.llm.sft import usable_rows
from recbench.llm.train import StageResult, isolated_randomness, run_stage
from recbench.llm.writer import TitleWriter


def stage_rows(train: Examples, codec: TitleCodec, max_rows: int | None, seed: int) -> list[dict[str, Any]]:
    """Return reasoning prompts ("input_ids") of at most ``max_rows`` rows whose target has a title, at random."""
    chosen = train.take(usable_rows(train, codec, max_rows, seed, "rl"))
    prompts = reasoning_prompts(codec, chosen).ids
    return [
        {"example_id": int(example), "target": int(target), "input_ids": prompt}
        for example, target, prompt in zip(chosen.example_id, chosen.target, prompts, strict=True)
    ]


def collate_prompts(codec: TitleCodec, rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pad rows of :func:`stage_rows` into a batch of :class:`~baselines.llm.cot_rl_policy.ReasoningPolicy`."""
    ids, mask = codec.pad_prompts([row["input_ids"] for row in rows])
    numbers = {key: torch.tensor([row[key] for row in rows]) for key in ("example_id", "target")}
    return {"prompt_ids": ids, "prompt_mask": mask, **numbers}


@contextmanager
def trainable_policy(writer: TitleWriter, settings: CotRlSettings, seed: int) -> Iterator[Reference | None]:
    """Inside, ``writer`` has float32 weights to train: all of its own, or adapters that are merged into it at the end.

    Steps of common learning rates are lost in bfloat16's rounding; so all weights train in float32 and get the
    model's own precision back at the end. Adapters are float32 whatever the model's precision.

    Yields:
        The starting model for the KL: the model without its adapters, or a frozen copy. None where ``beta`` is 0.
    """
    lm = writer.lm
    if settings.lora is not None:
        with isolated_randomness(derive_seed(seed, "lora")):
            adapted = add_lora(lm, settings.lora)

        @contextmanager
        def start() -> Iterator[TitleWriter]:
            with without_lora(adapted):
                yield writer

        yield start if settings.beta else None
        merge_lora(adapted)
        return
    dtype = lm.dtype
    lm.float()
    # As exact as the policy: in another precision it would differ from the policy before the first step.
    frozen = TitleWriter(deepcopy(lm).requires_grad_(False)).eval() if settings.beta else None
    yield None if frozen is None else lambda: nullcontext(frozen)
    lm.to(dtype)


def reinforce_reasoning(
    writer: TitleWriter, codec: TitleCodec, train: Examples, settings: CotRlSettings, folder: Path, ctx: RunContext
) -> tuple[StageResult, dict[str, int]]:
    """Train ``writer`` in place; the last weights are kept, and validation rows are not looked at.

    Incomplete last optimizer steps are left out.

    Returns:
        What the stage did, and the counts of :class:`GroupCount`.

    Raises:
        DataError: there are fewer usable rows than ``micro_batch_size``.
    """
    rows = stage_rows(train, codec, settings.max_rows, ctx.seed)
    names = ("rl.batch_size", "rl.micro_batch_size")
    batch_size, usable = whole_steps(len(rows), settings.batch_size, settings.micro_batch_size, names)
    if usable < len(rows):
        rows = stage_rows(train, codec, usable, ctx.seed)
    count = GroupCount(folder / "groups.json")
    with ctx.stage("rl"), trainable_policy(writer, settings, ctx.seed) as reference:
        result = run_stage(
            "rl",
            ReasoningPolicy(writer, reference, codec, settings, ctx.seed, count.add, ctx.log),
            rows,
            None,
            lambda batch: collate_prompts(codec, batch),
            settings.training(batch_size, settings.micro_batch_size),
            folder,
            ctx,
            drop_last=True,
            repeats=settings.updates,
        )
    writer.eval()
    return result, count.totals()
