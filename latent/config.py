"""Configuration of LatentR3."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from latent.rl_config import RlSettings
from recbench.contracts.method import MethodConfig
from recbench.llm.codec import TemplateChoice
from recbench.llm.decode import DecodingConfig
from recbench.llm.sft import SftSettings

LENGTH_PENALTY = {"bigrec": 1.0, "d3": 0.0}


class LatentR3Config(MethodConfig):
    """Configuration of LatentR3."""

    flavour: Literal["bigrec", "d3"] = Field("bigrec", description="sets decoding.length_penalty to 1.0 or 0.0")
    thoughts: int = Field(1, ge=1, description="N, latent thoughts before the answer")
    sft: SftSettings = Field(SftSettings(), description="stage 1: everything trains")
    rl: RlSettings = Field(RlSettings(), description="stage 2: only LatentRATT trains")
    decoding: DecodingConfig = Field(DecodingConfig(), description="from prompt to list")
    template: TemplateChoice = Field(
        "auto", description="prompt: 'alpaca' (the published one), 'chat' (the model's chat template), auto: by model"
    )
    max_prompt_tokens: int = Field(512, ge=16, description="longer prompts lose their oldest titles")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of weights; auto: bfloat16 on CUDA")

    @model_validator(mode="before")
    @classmethod
    def _apply_flavour(cls, values: Any) -> Any:
        """Give decoding the flavour's length penalty where the user gave none."""
        if not isinstance(values, dict):
            return values
        penalty = LENGTH_PENALTY.get(values.get("flavour", "bigrec"))
        decoding = values.get("decoding", {})
        if penalty is None or not isinstance(decoding, dict):
            return values
        return {**values, "decoding": {"length_penalty": penalty, **decoding}}
