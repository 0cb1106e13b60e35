"""Low-rank adapters (peft): train small matrices beside frozen weights, then add them to the weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). The adapters are put into the model
in place, so everything that holds the model (a writer, a trainer) sees them without knowing of them; once they are
merged it is a plain model again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from peft import LoraConfig, LoraModel
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from recbench.contracts.config import StrictModel
from recbench.contracts.errors import ConfigError

_ADAPTER = "default"


class LoraSettings(StrictModel):
    """Which layers get an adapter, and of what size. BIGRec's published one has ``targets: [q_proj, v_proj]``."""

    rank: int = Field(8, ge=1, description="rank of the update of a weight matrix")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of an adapter's inputs dropped in training")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="names of the linear layers (q_proj, v_proj), or all of the decoder blocks"
    )


def add_lora(lm: PreTrainedModel, settings: LoraSettings) -> LoraModel:
    """Put fresh adapters into ``lm`` in place and freeze all its other weights; its outputs stay what they were.

    Adapters are float32 whatever the model's precision: small updates would be lost in bfloat16. Their first weights
    are drawn from torch's global generator.

    Returns:
        The handle for :func:`merge_lora` and :func:`without_lora`.

    Raises:
        ConfigError: a target is no linear layer of the model, or is tied to another weight.
    """
    targets = settings.targets if settings.targets == "all-linear" else list(settings.targets)
    if targets != "all-linear":
        check_targets(lm, settings.targets)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
    )
    adapted = LoraModel(lm, config, _ADAPTER)
    # The new modules begin in training mode.
    lm.train(lm.training)
    for weight in lm.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return adapted


def check_targets(lm: PreTrainedModel, targets: tuple[str, ...] | str) -> None:
    """Refuse names that are no linear layers which may have an adapter.

    Args:
        lm: the model, with or without weights.

    Raises:
        ConfigError: a target is no linear layer of the model, or is tied to another weight.
    """
    # The output layer shares its weights with the input embedding in many models: merging would change both.
    head = lm.get_output_embeddings()
    known = {
        name.rsplit(".", 1)[-1]
        for name, layer in lm.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head
    }
    wrong = sorted(set(targets) - known)
    if wrong or not targets:
        raise ConfigError(
            f"lora.targets: {', '.join(wrong) or 'none'} is no linear layer of {type(lm).__name__}'s decoder blocks.",
            f"Choose among {', '.join(sorted(known))}, or 'all-linear'.",
        )


def merge_lora(adapted: LoraModel) -> None:
    """Add the adapters to the weights they stand beside; the model is plain again, and all its weights train."""
    # Merging works with whole matrices in the precision of the adapters; gradients have no place in it.
    with torch.no_grad():
        lm = adapted.merge_and_unload()
    lm.requires_grad_(True)


@contextmanager
def without_lora(adapted: LoraModel) -> Iterator[None]:
    """Inside, the model is the one that the adapters were put into (the reference of a KL penalty, say)."""
    adapted.disable_adapter_layers()
    try:
        yield
    finally:
        adapted.enable_adapter_layers()
