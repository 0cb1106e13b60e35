"""Configuration of LatentR3: every variant of the paper is a set of values here, never a copy of the code."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from latent.altered import ThoughtChoice
from latent.reasoner import HiddenChoice
from latent.rl_config import RlSettings
from recbench.contracts.config import StrictModel
from recbench.contracts.method import MethodConfig
from recbench.llm.codec import TemplateChoice
from recbench.llm.decode import DecodingConfig
from recbench.llm.sft import SftSettings

LENGTH_PENALTY = {"bigrec": 1.0, "d3": 0.0}


class LatentRlSettings(RlSettings):
    """Stage 2 of LatentR3: LR-GRPO, or the original GRPO that the paper compares it with (appendix L)."""

    reward: Literal["perplexity", "match"] = Field(
        "perplexity",
        description="perplexity: of the true title (Eq. 6); match: an answer is written for every thought, worth 1 "
        "if it is the true title, else 0 (original GRPO)",
    )
    temperature: float = Field(
        1.0,
        ge=0,
        description="with reward=match: answers are drawn among the catalogue's titles at this temperature; 0: the "
        "likeliest token each time",
    )

    @model_validator(mode="after")
    def _reward_and_advantage_fit_together(self) -> LatentRlSettings:
        """Refuse what contradicts each other or would have no effect."""
        if self.reward == "match" and self.advantage != "group":
            raise ValueError("reward=match is compared within its group, as in the original GRPO: set advantage=group")
        if self.reward == "match" and self.policy != "answer":
            raise ValueError("reward=match makes written answers more or less likely: leave policy out")
        if self.reward == "perplexity" and self.temperature != 1.0:
            raise ValueError("temperature is that of written answers: set reward=match, or leave it out")
        if self.advantage == "group" and self.adv_groups != type(self).model_fields["adv_groups"].default:
            raise ValueError("advantage=group leaves adv_groups no meaning: leave one of them out")
        return self


class StartFrom(StrictModel):
    """The fully trained model with fewer thoughts that reinforcement learning goes on from (paper appendix K)."""

    thoughts: int = Field(1, ge=1, description="N of the model to start from; its LatentRATT makes all later thoughts")
    rl: LatentRlSettings | None = Field(None, description="that model's stage 2 (keys as in rl); unset: as here")


class LatentR3Config(MethodConfig):
    """Configuration of LatentR3."""

    flavour: Literal["bigrec", "d3"] = Field("bigrec", description="sets decoding.length_penalty to 1.0 or 0.0")
    thoughts: int = Field(
        1, ge=0, description="N, latent thoughts before the answer; 0: none, which is BIGRec ('w/o Reasoning')"
    )
    reasoner: Literal["latent_ratt", "last_hidden"] = Field(
        "latent_ratt",
        description="what makes a thought: LatentRATT, or the last hidden state itself ('w/o LatentRATT', as Coconut)",
    )
    hidden: HiddenChoice = Field(
        "after_norm",
        description="hidden states behind thoughts: after the final norm (as published), or before",
    )
    window: int | None = Field(None, ge=1, description="LatentRATT looks at this many last positions; unset: all")
    thought_at_inference: ThoughtChoice = Field(
        "normal",
        description="when ranking alone: normal; masked: attention never sees the thoughts; absent: the answer follows "
        "the prompt; zero, token_embedding: that vector in their place",
    )
    start_from: StartFrom | None = Field(
        None,
        description="begin with this fully trained model, then reinforcement learning alone; unset: with SFT",
    )
    sft: SftSettings = Field(SftSettings(), description="stage 1: everything trains")
    rl: LatentRlSettings = Field(LatentRlSettings(), description="stage 2, see rl.trains for what trains")
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

    @model_validator(mode="after")
    def _parts_fit_together(self) -> LatentR3Config:
        """Refuse settings that contradict each other or would have no effect."""
        problems = self._without_thoughts() if self.thoughts == 0 else self._with_thoughts()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _without_thoughts(self) -> list[str]:
        problems = []
        if self.rl.enabled:
            problems.append("thoughts=0 leaves nothing for stage 2 to train: set rl.enabled=false")
        for name in ("reasoner", "hidden", "window", "thought_at_inference", "start_from"):
            if getattr(self, name) != type(self).model_fields[name].default:
                problems.append(f"thoughts=0 has no thoughts for {name} to be about: leave it out")
        return problems

    def _with_thoughts(self) -> list[str]:
        problems = []
        if self.reasoner == "last_hidden":
            if self.window is not None:
                problems.append("window is LatentRATT's: leave it out with reasoner=last_hidden")
            if self.rl.enabled and self.rl.trains != "model":
                problems.append(
                    "reasoner=last_hidden has no LatentRATT for stage 2 to train: set rl.enabled=false, or "
                    "rl.trains=model to train the language model"
                )
        if self.start_from is not None:
            if not self.rl.enabled:
                problems.append("start_from is followed by reinforcement learning alone: set rl.enabled=true")
            if self.start_from.thoughts >= self.thoughts:
                problems.append(
                    f"start_from.thoughts {self.start_from.thoughts} must be fewer than thoughts {self.thoughts}"
                )
            elif self.begins_with is not None:
                problems += [f"start_from: {problem}" for problem in self.begins_with._with_thoughts()]
        return problems

    @property
    def begins_with(self) -> LatentR3Config | None:
        """The configuration whose fitted model stage 2 goes on from; None without stage 2."""
        if not self.rl.enabled:
            return None
        if self.start_from is None:
            return self.model_copy(update={"rl": self.rl.model_copy(update={"enabled": False})})
        update = {"thoughts": self.start_from.thoughts, "rl": self.start_from.rl or self.rl, "start_from": None}
        return self.model_copy(update=update)

    @property
    def fit_identity(self) -> dict[str, Any]:
        """What determines the fitted model: no setting that ranking alone reads, and none of a stage that is left out.

        The decoding, and so the flavour, is part of it only where it chooses the best epoch of fine-tuning. Without
        thoughts it is BIGRec's own, so the two share their fits.
        """
        names = {"sft", "template", "max_prompt_tokens", "precision"}
        if self.sft.select == "ndcg":
            names.add("decoding")
        if self.thoughts == 0:
            return {"fit": "fine-tuned title writer", **self.model_dump(mode="json", include=names)}
        names |= {"thoughts", "reasoner", "hidden", "window"}
        if self.rl.enabled:
            names.add("rl")
        begins = self.begins_with if self.start_from is not None else None
        return {
            "fit": "LatentR3",
            **self.model_dump(mode="json", include=names),
            "begins_with": None if begins is None else begins.fit_identity,
        }
