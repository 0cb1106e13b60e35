"""Settings of stage 2, LR-GRPO."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recbench.llm.rl import GrpoSettings


class RlSettings(GrpoSettings):
    """LR-GRPO (paper section 3.2.2). A row here is a prompt; each is sampled ``samples`` times.

    Defaults are those of the published script: 32 prompts of 8 samples per optimizer step, one epoch, cosine.
    """

    enabled: bool = Field(True, description="false: stop after fine-tuning (the paper's 'w/o RL')")
    samples: int = Field(8, ge=2, description="K, thoughts per prompt; the first is without noise")
    sigma: float = Field(1.5, gt=0, description="standard deviation of the noise, per coordinate (Eq. 5)")
    advantage: Literal["batch", "group"] = Field("batch", description="Eq. 7, or classic GRPO within each group")
    adv_groups: Annotated[int, Field(ge=1)] | Literal["batch"] = Field(
        2, description="prompts whose rewards share a baseline in Eq. 7 (2: what the code does; batch: batch_size)"
    )
    policy: Literal["answer", "thought"] = Field(
        "answer",
        description="whose probability an advantage raises: that of the true answer behind the sampled thought (Eq. 8, "
        "published), or that of the sampled thought itself (the policy gradient of the sampling; ours)",
    )
    beta: float = Field(0.0, ge=0, description="weight of KL(policy || policy before this stage); 0: none (published)")
    num_iterations: int = Field(
        1, ge=1, description="optimizer steps on each rollout; with 1 the ratio is 1 and nothing is ever clipped"
    )
    trains: Literal["latent_ratt", "model"] = Field(
        "latent_ratt", description="what learns: LatentRATT alone (as published), or the language model with it"
    )
    micro_batch_size: int = Field(
        8, ge=1, description="prompts per forward pass and process (memory permitting), each with all its samples"
    )

    @model_validator(mode="after")
    def _thoughts_are_sampled_once(self) -> RlSettings:
        """Refuse what the policy of thoughts has no form of."""
        if self.policy == "thought" and (self.beta or self.num_iterations > 1):
            raise ValueError(
                "policy=thought has no KL term and one update per rollout: set beta=0 and num_iterations=1"
            )
        return self

    @model_validator(mode="after")
    def _whole_parts(self) -> RlSettings:
        """Refuse a batch that is no whole number of advantage scopes, and checkpoints inside a rollout."""
        if self.batch_size % self.scope:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of adv_groups {self.adv_groups}")
        if self.checkpoint_steps % self.num_iterations:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} is no multiple of num_iterations {self.num_iterations}, and "
                "a rollout cannot be resumed in its middle"
            )
        return self

    @property
    def scope(self) -> int:
        """Prompts whose advantages depend on each other, in a full optimizer step."""
        if self.advantage == "group":
            return 1
        return self.batch_size if self.adv_groups == "batch" else self.adv_groups
