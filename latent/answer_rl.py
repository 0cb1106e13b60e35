"""Stage 2 as the original GRPO does it: an answer is written for every sampled thought (paper appendix L).

Thoughts are sampled as in LR-GRPO. For each of them the model writes a title of the catalogue; it is worth 1 if it is
the true one, else 0; rewards are compared within their group; the loss makes the written titles more or less likely.

Dimensions: G prompts, K samples per prompt, R = G K rows, P prompt columns, T answer tokens, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent.config import LatentRlSettings
from latent.noise import thought_noise
from latent.reasoner import LatentWriter
from latent.trained_part import trained_part
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import numpy_rng
from recbench.llm.beam import DeviceTrie
from recbench.llm.codec import TitleCodec
from recbench.llm.experience import Experience, GroupCount, cut_experiences, experience_loss, pad_texts
from recbench.llm.grpo import equal_rewards, group_advantage
from recbench.llm.rl import whole_steps
from recbench.llm.samples import sample_logprobs
from recbench.llm.sampling import sample_titles
from recbench.llm.sft import training_rows
from recbench.llm.sharding import gathered
from recbench.llm.train import Objective, StageResult, run_stage
from recbench.llm.writer import Prefix, beginning_first


class AnswerPolicy(Objective):
    """The GRPO loss of a few prompts.

    Log-probabilities of the loss are those of the full vocabulary, as everywhere; the draw is among titles only.

    Args:
        writer: the model; what is to stay has no gradients.
        start: gives the policy before the stage, which is no part of this module; None without KL.
        codec: of prompts and titles.
        settings: of the stage.
        seed: a thought's noise and its answer depend on it, the rollout's number, the example and the sample alone.
        count: called once for every new rollout with the optimizer step, the number of prompts and the number of
            those with equal rewards.

    Attributes:
        experiences: what the rollout under way is learned from, by example id.
    """

    # A prompt's loss depends on its own samples alone.
    divisible = True
    # While the ratio is near 1 the loss is no larger than an advantage.
    diverged_above = 100.0

    def __init__(
        self,
        writer: LatentWriter,
        start: Callable[[], LatentWriter] | None,
        codec: TitleCodec,
        settings: LatentRlSettings,
        seed: int,
        count: Callable[[int, int, int], None],
    ) -> None:
        super().__init__()
        self.writer = writer
        self._start = start
        self.codec = codec
        self.settings = settings
        self.seed = seed
        self._width = writer.lm.config.get_text_config().hidden_size
        self.trie = DeviceTrie.of(codec.answers.trie, writer.device)
        self._count = count
        self._rollout = -1
        self.experiences: dict[int, Experience] = {}

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, example_id: Tensor, answer: Tensor) -> dict[str, Tensor]:
        """Return the loss of G prompts: the clipped policy loss + beta KL(policy || policy before the stage).

        Args:
            prompt_ids, prompt_mask: int64 (G, P), padded on the left.
            example_id: int64 (G,).
            answer: int64 (G,), numbers of the true answers.
        """
        self.writer.eval()
        rollout = self.step // self.settings.num_iterations
        if self._rollout != rollout:
            self._rollout = rollout
            self.experiences.clear()
        examples = example_id.tolist()
        noise = thought_noise(self.seed, examples, rollout, self.settings.samples, self._width, self.settings.sigma)
        prefix, thoughts = self._think(self.writer, prompt_ids, prompt_mask, noise)
        if all(example in self.experiences for example in examples):
            past = [self.experiences[example] for example in examples]
            ids, mask = pad_texts([row for experience in past for row in experience.tokens], prompt_ids.device)
            return {"loss": self._loss(_logprobs(self.writer, prefix, thoughts, ids, mask), mask, past)}
        # How many tokens are read depends on what is drawn, so processes would not keep step.
        with gathered(self.writer.lm):
            written = self._write(prefix, thoughts, examples)
        tokens = [self.codec.answers.tokens[number] for number in written.flatten().tolist()]
        ids, mask = pad_texts(tokens, prompt_ids.device)
        logprobs = _logprobs(self.writer, prefix, thoughts, ids, mask)
        reference = None
        if self._start is not None:
            with torch.no_grad():
                start = self._start()
                reference = _logprobs(start, *self._think(start, prompt_ids, prompt_mask, noise), ids, mask)
        rewards = (written == answer.unsqueeze(1)).float()
        past = cut_experiences(tokens, logprobs.detach(), reference, group_advantage(rewards))
        self.experiences.update(zip(examples, past, strict=True))
        self._tell(rewards, prefix.pending[:, -1], noise)
        return {"loss": self._loss(logprobs, mask, past)}

    def _think(self, writer: LatentWriter, ids: Tensor, mask: Tensor, noise: Tensor) -> tuple[Prefix, Tensor]:
        """Read prompts; return them, and the last thought of each with noise, (G, K, 1, H)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.trains == "model"):
            ids, mask = beginning_first(writer.lm, ids, mask)
            cache, hidden = writer.read_hidden(ids, mask)
        prefix = writer.think(cache, hidden, mask)
        return prefix, (prefix.pending[:, -1:] + noise.to(prefix.pending)).unsqueeze(2)

    def _write(self, prefix: Prefix, thoughts: Tensor, examples: Sequence[int]) -> Tensor:
        """Return int64 (G, K): the number of the answer that is written behind every thought."""
        length = self.trie.max_length
        uniform = np.stack(
            [
                numpy_rng(self.seed, "answer", self._rollout, example, sample).random(length)
                for example in examples
                for sample in range(self.settings.samples)
            ]
        )
        rows = replace(prefix.repeat(self.settings.samples), pending=thoughts.flatten(0, 1))
        points = torch.from_numpy(uniform)
        written = sample_titles(self.writer, rows, self.trie, points, self.settings.temperature)
        return written.unflatten(0, (len(examples), -1))

    def _loss(self, logprobs: Tensor, mask: Tensor, past: Sequence[Experience]) -> Tensor:
        clips = (self.settings.clip_low, self.settings.clip_high)
        loss, notes = experience_loss(logprobs, mask, past, clips, self.settings.beta)
        for name, value in notes.items():
            self.note(name, value)
        return loss

    def _tell(self, rewards: Tensor, thought: Tensor, noise: Tensor) -> None:
        equal = equal_rewards(rewards)
        self._count(self.step, len(equal), int(equal.sum()))
        self.note("reward_unperturbed", rewards[:, 0].mean())
        self.note("reward_perturbed", rewards[:, 1:].mean())
        self.note("zero_variance_rate", equal.float().mean())
        self.note("thought_norm", thought.norm(dim=-1).mean())
        self.note("noise_norm", noise[:, 1:].norm(dim=-1).mean())


def _logprobs(writer: LatentWriter, prefix: Prefix, thoughts: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return (R, T) log-probabilities of R = G K texts (R, T), each behind its own thought of (G, K, 1, H)."""
    answer_ids, answer_mask = (part.unflatten(0, thoughts.shape[:2]) for part in (ids, mask))
    return sample_logprobs(writer, prefix, thoughts, answer_ids, answer_mask).flatten(0, 1)


def reinforce_answers(
    writer: LatentWriter, codec: TitleCodec, train: Examples, settings: LatentRlSettings, folder: Path, ctx: RunContext
) -> tuple[StageResult, dict[str, int]]:
    """Train ``writer`` in place; the last weights are kept, and validation rows are not looked at.

    Incomplete last optimizer steps are left out.

    Returns:
        What the stage did, and the counts of :class:`~recbench.llm.experience.GroupCount`.

    Raises:
        DataError: there is no usable row.
    """
    rows = training_rows(train, codec, settings.max_rows, ctx.seed, "rl")
    names = ("rl.batch_size", "rl.micro_batch_size")
    batch_size, usable = whole_steps(len(rows), settings.batch_size, 1, names)
    if usable < len(rows):
        rows = training_rows(train, codec, usable, ctx.seed, "rl")
    number_of = {tokens: number for number, tokens in enumerate(codec.answers.tokens)}

    def collate(batch: list[Mapping[str, Any]]) -> dict[str, Tensor]:
        ids, mask = codec.pad_prompts([row["input_ids"] for row in batch])
        return {
            "prompt_ids": ids,
            "prompt_mask": mask,
            "example_id": torch.tensor([row["example_id"] for row in batch]),
            "answer": torch.tensor([number_of[row["answer"]] for row in batch]),
        }

    count = GroupCount(folder / "groups.json")
    with ctx.stage("rl"), trained_part(writer, settings.trains, settings.beta > 0) as start:
        result = run_stage(
            "rl",
            AnswerPolicy(writer, None if start is None else lambda: start, codec, settings, ctx.seed, count.add),
            rows,
            None,
            collate,
            settings.training(batch_size, math.gcd(batch_size, settings.micro_batch_size)),
            folder,
            ctx,
            drop_last=True,
            repeats=settings.num_iterations,
        )
    writer.eval()
    return result, count.totals()
