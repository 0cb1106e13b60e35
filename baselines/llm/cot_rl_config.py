"""Settings of CoT-RL's reinforcement learning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recbench.llm.lora import LoraSettings
from recbench.llm.rl import GrpoSettings
from recbench.llm.train import require_whole_micro_batches


class CotRlSettings(GrpoSettings):
    """GRPO on explicit reasoning. A row is a prompt; each is completed ``samples`` times.

    The paper names the method (COT-RL, in R1-zero style: no supervision of the reasoning) and gives no settings; these
    are our choice, after common GRPO recipes.
    """

    max_rows: int | None = Field(2048, ge=1, description="training prompts used, drawn at random; null: all")
    reward: Literal["match+format", "perplexity"] = Field(
        "match+format",
        description="match+format: 1 for the exact title plus format_weight for the form; perplexity: minus the "
        "perplexity of the true title behind the sampled reasoning",
    )
    format_weight: float = Field(
        0.1, ge=0, description="reward of a completion of the right form: reasoning, one header, one quoted title"
    )
    samples: int = Field(8, ge=2, description="K, completions per prompt")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of the log-probabilities that are learned")
    top_p: float = Field(1.0, gt=0, le=1, description="completions are sampled from the likeliest tokens of this mass")
    max_new_tokens: int = Field(256, ge=1, description="budget of tokens per completion")
    beta: float = Field(0.01, ge=0, description="weight of KL(policy || starting model); 0: no reference model is kept")
    updates: int = Field(
        1, ge=1, description="optimizer steps on each rollout; with 1 the ratio is 1 and nothing is ever clipped"
    )
    lora: LoraSettings | None = Field(None, description="train low-rank adapters only; null: all weights, in float32")
    micro_batch_size: int = Field(4, ge=1, description="prompts per forward pass and process")
    warmup_steps: int = Field(10, ge=0, description="optimizer steps of linear warm-up, at most a third")
    checkpoint_steps: int = Field(10, ge=1, description="optimizer steps between checkpoints for resuming")
    log_steps: int = Field(1, ge=1, description="optimizer steps between lines of train.jsonl")

    @model_validator(mode="after")
    def _whole_parts(self) -> CotRlSettings:
        require_whole_micro_batches(self.batch_size, self.micro_batch_size)
        if self.checkpoint_steps % self.updates:
            raise ValueError(
                f"rl.checkpoint_steps {self.checkpoint_steps} is no multiple of rl.updates {self.updates}, and a "
                "rollout cannot be resumed in its middle"
            )
        return self
