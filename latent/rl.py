"""Stage 2, LR-GRPO: only LatentRATT trains, rewarded by how likely it makes the true title (paper section 3.2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent.rl_config import RlSettings
from latent.objective import batch_advantage
from latent.reasoner import LatentWriter
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import derive_seed
from recbench.llm.codec import TitleCodec, split_labels
from recbench.llm.grpo import group_advantage, perplexity_reward, policy_loss
from recbench.llm.rl import whole_steps
from recbench.llm.sft import collate_rows, training_rows
from recbench.llm.train import Objective, StageResult, run_stage
from recbench.llm.writer import Prefix


class LatentPolicy(Objective):
    """The LR-GRPO loss of a few prompts.

    The language model is frozen, so each prompt is read once, without gradients; its K samples share that reading,
    and one pass over [r + noise, answer] gives the reward and the old and new log-probabilities (they are equal with
    one update per rollout).

    Args:
        writer: the model; everything but its LatentRATT must be frozen.
        settings: of the stage.
        seed: of the noise, which depends on it, the example and the optimizer step alone.
    """

    def __init__(self, writer: LatentWriter, settings: RlSettings, seed: int) -> None:
        super().__init__()
        self.writer = writer
        self.settings = settings
        self.seed = seed

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, labels: Tensor, example_id: Tensor) -> dict[str, Tensor]:
        """Return the loss of G prompts.

        Args:
            prompt_ids, prompt_mask: int64 (G, P), padded on the left.
            labels: int64 (G, T), the true answers, -100 where padded.
            example_id: int64 (G,).
        """
        samples = self.settings.samples
        with torch.no_grad():
            cache, hidden = self.writer.read_hidden(prompt_ids, prompt_mask)
        prefix = self.writer.think(cache, hidden, prompt_mask)
        noise = self._noise(example_id, prefix.pending)
        thoughts = prefix.pending[:, -1].unsqueeze(1) + noise
        shared = prefix.repeat(samples)
        noisy = Prefix(shared.cache, shared.mask, thoughts.flatten(0, 1).unsqueeze(1))
        answer_ids, answer_mask = split_labels(labels.repeat_interleave(samples, dim=0))
        logprobs = self.writer.answer_logprobs(noisy, answer_ids, answer_mask)
        logprobs = logprobs.unflatten(0, (-1, samples))
        mask = answer_mask.unflatten(0, (-1, samples))
        rewards = perplexity_reward(logprobs.detach(), mask)
        advantage = batch_advantage if self.settings.advantage == "batch" else group_advantage
        advantages = advantage(rewards)
        loss = policy_loss(
            logprobs, logprobs.detach(), advantages, mask, self.settings.clip_low, self.settings.clip_high
        )
        self._record(rewards, advantages, prefix.pending, noise)
        return {"loss": loss}

    def _noise(self, example_id: Tensor, pending: Tensor) -> Tensor:
        """Return (G, K, H) noise (Eq. 5); sample 0 has none."""
        width = pending.shape[-1]
        draws = []
        for example in example_id.tolist():
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "noise", example, self.step))
            drawn = torch.randn((self.settings.samples - 1, width), generator=generator) * self.settings.sigma
            draws.append(torch.cat([torch.zeros(1, width), drawn]))
        return torch.stack(draws).to(pending)

    def _record(self, rewards: Tensor, advantages: Tensor, thought: Tensor, noise: Tensor) -> None:
        self.note("reward_unperturbed", rewards[:, 0].mean())
        self.note("reward_perturbed", rewards[:, 1:].mean())
        self.note("log_perplexity_unperturbed", (-rewards[:, 0]).log().mean())
        self.note("log_perplexity_perturbed", (-rewards[:, 1:]).log().mean())
        self.note("advantage_spread", advantages.max() - advantages.min())
        self.note("thought_norm", thought.detach().norm(dim=-1).mean())
        self.note("noise_norm", noise[:, 1:].norm(dim=-1).mean())


def _collate(codec: TitleCodec, rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {**collate_rows(codec, rows), "example_id": torch.tensor([row["example_id"] for row in rows])}


def reinforce(
    writer: LatentWriter, codec: TitleCodec, train: Examples, settings: RlSettings, folder: Path, ctx: RunContext
) -> StageResult:
    """Train LatentRATT in place. The last weights are kept, as published; there is no validation in this stage.

    An incomplete last optimizer step is left out.

    Raises:
        DataError: there are fewer usable rows than ``adv_groups``.
    """
    rows = training_rows(train, codec, settings.max_rows, ctx.seed, "rl")
    names = ("rl.batch_size", "rl.adv_groups")
    batch_size, usable = whole_steps(len(rows), settings.batch_size, settings.adv_groups, names)
    if usable < len(rows):
        rows = training_rows(train, codec, usable, ctx.seed, "rl")
    writer.lm.requires_grad_(False)
    with ctx.stage("rl"):
        result = run_stage(
            "rl",
            LatentPolicy(writer, settings, ctx.seed),
            rows,
            None,
            lambda batch: _collate(codec, batch),
            settings.training(batch_size, settings.adv_groups),
            folder,
            ctx,
            drop_last=True,
        )
    writer.lm.requires_grad_(True)
    writer.eval()
    return result
