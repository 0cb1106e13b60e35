"""Settings of stage 2, LR-GRPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recbench.llm.rl import GrpoSettings


class RlSettings(GrpoSettings):
    """LR-GRPO (paper section 3.2.2). A row here is a prompt; each is sampled ``samples`` times.

    Defaults are those of the published script: 32 prompts of 8 samples per optimizer step, one epoch, cosine. A
    forward pass holds ``adv_groups`` prompts.
    """

    enabled: bool = Field(True, description="false: stop after fine-tuning (the paper's 'w/o RL')")
    samples: int = Field(8, ge=2, description="K, thoughts per prompt; the first is without noise")
    sigma: float = Field(1.5, gt=0, description="standard deviation of the noise, per coordinate (Eq. 5)")
    adv_groups: int = Field(2, ge=1, description="prompts whose rewards share a baseline (2: what the code does)")
    advantage: Literal["batch", "group"] = Field("batch", description="Eq. 7, or classic GRPO within each group")
