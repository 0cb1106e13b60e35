"""The LR-GRPO loss of a few prompts (paper section 3.2.2).

Dimensions: G groups (one prompt each), K samples per group, P prompt columns, N inputs before an answer, T answer
tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from latent.noise import thought_logprob, thought_noise
from latent.objective import scoped_advantage
from latent.reasoner import LatentWriter
from latent.rl_config import RlSettings
from recbench.llm.codec import split_labels
from recbench.llm.experience import Experience, cut_experiences, experience_loss
from recbench.llm.grpo import perplexity_reward
from recbench.llm.objective import Gather, Objective, Tensors
from recbench.llm.samples import sample_logprobs
from recbench.llm.writer import beginning_first, copy_cache


@dataclass(frozen=True)
class Reading:
    """G prompts that the language model has read.

    Attributes:
        cache: keys and values of the P columns.
        hidden: (G, P, H), what thoughts are made of.
        mask: int64 (G, P).
    """

    cache: DynamicCache
    hidden: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Samples:
    """K thoughts per prompt, and what the model makes of the true answer behind each of them.

    Attributes:
        thought: (G, H), the last thought without noise.
        logprobs: float32 (G, K, T), of the answer's tokens; 0 where masked.
        mask: int64 (G, K, T).
        policy: float32 (G, K, S), log-probabilities that the loss raises or lowers: ``logprobs``, or (S = 1) those of
            the thoughts.
    """

    thought: Tensor
    logprobs: Tensor
    mask: Tensor
    policy: Tensor

    @property
    def policy_mask(self) -> Tensor:
        """int64 (G, K, S)."""
        return self.mask if self.policy.shape == self.mask.shape else torch.ones_like(self.policy, dtype=torch.int64)


class LatentPolicy(Objective):
    """The LR-GRPO loss of a few prompts.

    While the language model is frozen, a prompt is read once, without gradients; its K samples share that reading, and
    one pass over [r + noise, answer] gives the reward and the log-probabilities, old and new (which are equal in the
    first update of a rollout). Where the advantages of a pass depend on prompts outside it, the rewards of the whole
    optimizer step are computed before, over all processes; the passes with gradients then use the readings again.
    Dropout is off, so that the model that is rewarded is the model that learns.

    Args:
        writer: the model; whatever in it is not to be trained must be frozen.
        settings: of the stage; ``batch_size`` is the one that is really used.
        seed: of the noise, which depends on it, the example and the rollout's number alone.
        reference: the frozen policy before this stage; None without KL.
    """

    divisible = True
    # While the ratio is near 1 the loss is no larger than 1.
    diverged_above = 100.0

    def __init__(
        self, writer: LatentWriter, settings: RlSettings, seed: int, reference: LatentWriter | None = None
    ) -> None:
        super().__init__()
        self.writer = writer
        self.reference = reference
        self.settings = settings
        self.seed = seed
        self._frozen = settings.trains != "model"
        self._roomy = True
        self._rollout = -1
        self._advantages: dict[int, Tensor] = {}
        self._experiences: dict[int, Experience] = {}
        self._readings: dict[tuple[int, ...], Reading] = {}

    # --- a step -------------------------------------------------------------------------------------------------

    def prepare(self, parts: Sequence[Tensors], gather: Gather) -> None:
        """Compute the advantages of the whole step, where a part alone does not have all that they depend on."""
        rollout, update = divmod(self.step, self.settings.num_iterations)
        if rollout != self._rollout:
            self._rollout, self._experiences = rollout, {}
        self._advantages, self._readings = {}, {} if update == 0 else self._readings
        if update or all(len(part["example_id"]) % self.settings.scope == 0 for part in parts):
            return
        self.writer.eval()
        with torch.no_grad():
            rewards = torch.cat([self._rewards(**part) for part in parts])
        examples = gather(torch.cat([part["example_id"] for part in parts]))
        self._advantages = dict(zip(examples.tolist(), self._scoped(gather(rewards)), strict=True))

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, labels: Tensor, example_id: Tensor) -> dict[str, Tensor]:
        """Return the loss of G prompts: the clipped policy loss + beta KL(policy || policy before this stage).

        Args:
            prompt_ids, prompt_mask: int64 (G, P), padded on the left.
            labels: int64 (G, T), the true answers, -100 where padded.
            example_id: int64 (G,).
        """
        self.writer.eval()
        examples = example_id.tolist()
        last_update = (self.step + 1) % self.settings.num_iterations == 0
        reading = self._read(prompt_ids, prompt_mask, examples, keep=not last_update)
        noise = self.noise(examples, reading.hidden)
        samples = self._sample(self.writer, reading, noise, labels)
        past = [self._experiences[example] for example in examples if example in self._experiences]
        if len(past) < len(examples):
            reference = self._reference_logprobs(prompt_ids, prompt_mask, reading, noise, labels)
            past = self._learn(examples, samples, reference, noise)
        return {"loss": self._loss(samples, past)}

    def release(self) -> None:
        """Forget the readings that were kept, and keep none any more."""
        self._roomy = False
        self._readings = {}

    # --- its parts ----------------------------------------------------------------------------------------------

    def _read(self, prompt_ids: Tensor, prompt_mask: Tensor, examples: Sequence[int], keep: bool) -> Reading:
        """Read prompts, or take their reading out of those that were kept."""
        key = tuple(examples)
        reading = self._readings.pop(key, None) or self._fresh(self.writer, prompt_ids, prompt_mask)
        if keep and self._roomy and self._frozen:
            self._readings[key] = reading
        return reading

    def _fresh(self, writer: LatentWriter, prompt_ids: Tensor, prompt_mask: Tensor) -> Reading:
        with torch.no_grad() if self._frozen else nullcontext():
            ids, mask = beginning_first(writer.lm, prompt_ids, prompt_mask)
            cache, hidden = writer.read_hidden(ids, mask)
        return Reading(cache, hidden, mask)

    def _sample(self, writer: LatentWriter, reading: Reading, noise: Tensor, labels: Tensor) -> Samples:
        """Put noise on the last thought, and read the true answer behind every sample."""
        prefix = writer.think(copy_cache(reading.cache), reading.hidden, reading.mask)
        thought = prefix.pending[:, -1]
        pending = prefix.pending.unsqueeze(1).repeat(1, noise.shape[1], 1, 1)
        pending = torch.cat([pending[:, :, :-1], pending[:, :, -1:] + noise.unsqueeze(2)], dim=2)
        ids, mask = (part.unsqueeze(1).expand(-1, noise.shape[1], -1) for part in split_labels(labels))
        of_thoughts = self.settings.policy == "thought"
        with torch.no_grad() if of_thoughts else nullcontext():
            logprobs = sample_logprobs(writer, prefix, pending, ids, mask)
        if not of_thoughts:
            return Samples(thought, logprobs, mask, logprobs)
        return Samples(thought, logprobs, mask, thought_logprob(thought, noise, self.settings.sigma).unsqueeze(2))

    def _rewards(self, prompt_ids: Tensor, prompt_mask: Tensor, labels: Tensor, example_id: Tensor) -> Tensor:
        """Return float32 (G, K)."""
        examples = example_id.tolist()
        reading = self._read(prompt_ids, prompt_mask, examples, keep=True)
        samples = self._sample(self.writer, reading, self.noise(examples, reading.hidden), labels)
        return perplexity_reward(samples.logprobs, samples.mask)

    def _reference_logprobs(
        self, prompt_ids: Tensor, prompt_mask: Tensor, reading: Reading, noise: Tensor, labels: Tensor
    ) -> Tensor | None:
        """Return (G K, T) of the policy before this stage under the same noise on its own thoughts."""
        if self.reference is None:
            return None
        with torch.no_grad():
            if not self._frozen:
                reading = self._fresh(self.reference, prompt_ids, prompt_mask)
            return self._sample(self.reference, reading, noise, labels).logprobs.flatten(0, 1)

    def _learn(
        self, examples: Sequence[int], samples: Samples, reference: Tensor | None, noise: Tensor
    ) -> list[Experience]:
        """Judge new samples; keep what the next updates on them need."""
        old = samples.policy.detach()
        rewards = perplexity_reward(samples.logprobs.detach(), samples.mask)
        self._tell(samples, rewards, noise)
        if examples[0] in self._advantages:
            advantages = torch.stack([self._advantages[example] for example in examples])
        else:
            advantages = self._scoped(rewards)
        # The texts are the true answers, which every batch brings along.
        past = cut_experiences([()] * old.shape[:2].numel(), old.flatten(0, 1), reference, advantages)
        if self.settings.num_iterations > 1:
            self._experiences.update(zip(examples, past, strict=True))
        return past

    def _scoped(self, rewards: Tensor) -> Tensor:
        """Return the advantages of (R, K) rewards, where R is a multiple of the scope."""
        advantages = scoped_advantage(rewards, self.settings.scope, self.settings.advantage)
        scopes = advantages.view(-1, self.settings.scope * rewards.shape[1])
        self.note("advantage_spread", (scopes.amax(dim=1) - scopes.amin(dim=1)).mean())
        return advantages

    def _loss(self, samples: Samples, past: Sequence[Experience]) -> Tensor:
        """Eq. 8, with its KL term."""
        clips = (self.settings.clip_low, self.settings.clip_high)
        logprobs, mask = samples.policy.flatten(0, 1), samples.policy_mask.flatten(0, 1)
        loss, notes = experience_loss(logprobs, mask, past, clips, self.settings.beta)
        for name, value in notes.items():
            self.note(name, value)
        return loss

    def noise(self, examples: Sequence[int], like: Tensor) -> Tensor:
        """Return (G, K, H) noise (Eq. 5); sample 0 has none."""
        settings = self.settings
        rollout = self.step // settings.num_iterations
        return thought_noise(self.seed, examples, rollout, settings.samples, like.shape[-1], settings.sigma).to(like)

    def _tell(self, samples: Samples, rewards: Tensor, noise: Tensor) -> None:
        self.note("reward_unperturbed", rewards[:, 0].mean())
        self.note("reward_perturbed", rewards[:, 1:].mean())
        self.note("log_perplexity_unperturbed", (-rewards[:, 0]).log().mean())
        self.note("log_perplexity_perturbed", (-rewards[:, 1:]).log().mean())
        self.note("thought_norm", samples.thought.norm(dim=-1).mean())
        self.note("noise_norm", noise[:, 1:].norm(dim=-1).mean())
