"""Configuration of SASRec with latent reasoning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latent.rl_config import RlSettings
from recbench.contracts.method import MethodConfig
from recbench.llm.sft import SftSettings


class SequenceSftSettings(SftSettings):
    """Stage 1, everything trains; defaults are those usual for SASRec."""

    epochs: float = Field(200, gt=0, description="passes over the rows, at most")
    learning_rate: float | None = Field(1e-3, gt=0, description="peak learning rate")
    batch_size: int = Field(1024, ge=1, description="rows per optimizer step, over all processes")
    micro_batch_size: int = Field(1024, ge=1, description="rows per forward pass and process (memory permitting)")
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up, at most a third")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "constant_with_warmup", description="after the warm-up"
    )
    max_grad_norm: float = Field(0.0, ge=0, description="gradients are clipped to this L2 norm; 0: not at all")
    patience: int | None = Field(5, ge=1, description="epochs without a lower validation loss; null: never stops early")
    select: Literal["loss"] = Field("loss", description="what chooses the best epoch: validation loss")
    lora: None = Field(None, description="has no meaning here: the model is small")


class SequenceRlSettings(RlSettings):
    """Stage 2, LR-GRPO on LatentRATT; one prompt is one history, one answer is one item."""

    learning_rate: float | None = Field(1e-4, gt=0, description="peak learning rate")
    batch_size: int = Field(256, ge=1, description="histories per optimizer step, over all processes")
    micro_batch_size: int = Field(256, ge=1, description="histories per forward pass and process (memory permitting)")
    warmup_steps: int = Field(20, ge=0, description="optimizer steps of linear warm-up, at most a third")


class SasRecLatentConfig(MethodConfig):
    """Configuration of SASRec with latent reasoning."""

    thoughts: int = Field(1, ge=0, description="N, latent thoughts behind the history; 0: plain SASRec, without RL")
    width: int = Field(64, ge=2, description="width of item embeddings and of all layers")
    inner_width: int = Field(256, ge=1, description="width of the feed-forward layers")
    layers: int = Field(2, ge=1, description="transformer layers")
    heads: int = Field(2, ge=1, description="attention heads; must divide width")
    dropout: float = Field(0.5, ge=0, lt=1, description="of embeddings, attention weights and layer outputs")
    max_history: int = Field(50, ge=1, description="longer histories lose their oldest items")
    sft: SequenceSftSettings = Field(SequenceSftSettings(), description="stage 1: everything trains")
    rl: SequenceRlSettings = Field(SequenceRlSettings(), description="stage 2: only LatentRATT trains")

    @model_validator(mode="after")
    def _fits_together(self) -> SasRecLatentConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 2:
            raise ValueError(f"width {self.width} is odd; LatentRATT rotates pairs of coordinates")
        return self
