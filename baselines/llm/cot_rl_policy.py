"""The GRPO objective of CoT-RL: completions are sampled, rewarded, and made more or less likely.

Dimensions: G prompts, K completions per prompt, R = G K rows, P prompt columns (left-padded), T completion tokens
(right-padded), H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from baselines.llm.cot_rl_config import CotRlSettings
from baselines.llm.cot_rl_reward import answer_written, is_match, read_completion, text_reward
from baselines.llm.reasoning import ANSWER_OPENING, STOP_STRINGS, without_blank_end
from recbench.llm.codec import TitleCodec, split_labels
from recbench.llm.experience import Experience, cut_experiences, experience_loss, pad_texts
from recbench.llm.generate import END, Generated, GenerationSettings, write_after
from recbench.llm.grpo import equal_rewards, group_advantage, perplexity_reward
from recbench.llm.prompt import RESPONSE_HEADER
from recbench.llm.tokens import encode_plain
from recbench.llm.train import Objective
from recbench.llm.writer import Prefix, TitleWriter, run_body, token_logprobs

#: Gives the frozen starting model for as long as the block lasts.
Reference = Callable[[], AbstractContextManager[TitleWriter]]


@dataclass(frozen=True)
class Reading:
    """Completions that the model has read behind their prompts.

    Attributes:
        logprobs: float32 (R, T), of every completion token at the sampling temperature; 0 where masked.
        cache: keys and values of all columns: prompt, pending inputs, completion.
        mask: int64 (R, columns - T), of the columns before the completion.
    """

    logprobs: Tensor
    cache: DynamicCache
    mask: Tensor


class ReasoningPolicy(Objective):
    """The GRPO loss of a few prompts.

    A prompt is read once, with gradients, and its K samples share that reading for sampling and for the loss. Dropout
    is off, so that the model that samples is the model that learns.

    Args:
        writer: the model to train.
        reference: the frozen starting model; None without KL.
        codec: of prompts, titles and end tokens.
        settings: of the stage.
        seed: of sampling: a draw depends on it, the rollout's number, the example and the sample alone.
        count: called once for every new rollout with the optimizer step, the number of prompts and the number of
            those with equal rewards.
        log: called with a record of one sampled text of each logged step.

    Attributes:
        experiences: what the rollout under way is learned from, by example id.
    """

    # A prompt's loss depends on its own samples alone.
    divisible = True

    def __init__(
        self,
        writer: TitleWriter,
        reference: Reference | None,
        codec: TitleCodec,
        settings: CotRlSettings,
        seed: int,
        count: Callable[[int, int, int], None],
        log: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__()
        self.writer = writer
        self.codec = codec
        self.settings = settings
        self.seed = seed
        self._reference = reference
        self._count = count
        self._log = log
        self._shown_step = -1
        self._rollout = -1
        self.experiences: dict[int, Experience] = {}

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, example_id: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the loss of G prompts: the clipped policy loss + beta KL(policy || starting model).

        Args:
            prompt_ids, prompt_mask: int64 (G, P), reasoning prompts.
            example_id: int64 (G,).
            target: int64 (G,), the true items, all with a title.
        """
        settings = self.settings
        self.writer.eval()
        if self._rollout != self.step // settings.updates:
            self._rollout = self.step // settings.updates
            self.experiences.clear()
        prefix = self.writer.read(prompt_ids, prompt_mask)
        examples = example_id.tolist()
        if all(example in self.experiences for example in examples):
            past = [self.experiences[example] for example in examples]
            ids, mask = pad_texts([row for experience in past for row in experience.tokens], prompt_ids.device)
            return {"loss": self._loss(self._read(prefix, ids, mask).logprobs, mask, past)}
        generated = self._sample(prefix, examples)
        ids, mask = pad_texts(generated.tokens, prompt_ids.device)
        reading = self._read(prefix, ids, mask)
        rewards = self._rewards(generated, reading, target.tolist())
        reference = self._reference_logprobs(prompt_ids, prompt_mask, ids, mask)
        past = cut_experiences(generated.tokens, reading.logprobs.detach(), reference, group_advantage(rewards))
        self.experiences.update(zip(examples, past, strict=True))
        self._tell(generated, rewards, examples[0], int(target[0]))
        return {"loss": self._loss(reading.logprobs, mask, past)}

    def _read(self, prefix: Prefix, ids: Tensor, mask: Tensor) -> Reading:
        return read_completions(self.writer, prefix.repeat(self.settings.samples), ids, mask, self.settings.temperature)

    def _loss(self, logprobs: Tensor, mask: Tensor, past: Sequence[Experience]) -> Tensor:
        clips = (self.settings.clip_low, self.settings.clip_high)
        loss, notes = experience_loss(logprobs, mask, past, clips, self.settings.beta)
        for name, value in notes.items():
            self.note(name, value)
        return loss

    def _sample(self, prefix: Prefix, examples: Sequence[int]) -> Generated:
        """Write K completions of each prompt; rows of a prompt stand together.

        With the reward of texts a row ends with the answer's line; with the reward of perplexity it ends as stage A
        of the evaluation does. In both it ends where the prompt's headers are repeated.
        """
        settings = self.settings
        keys = [
            ("rollout", self._rollout, "example", example, sample)
            for example in examples
            for sample in range(settings.samples)
        ]
        judges_text = settings.reward == "match+format"
        return write_after(
            self.writer,
            self.codec.tokenizer,
            prefix.repeat(settings.samples),
            GenerationSettings(
                max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
            ),
            [text for text in STOP_STRINGS if text != RESPONSE_HEADER or not judges_text],
            self.seed,
            keys,
            self.codec.end_ids,
            done=answer_written if judges_text else None,
        )

    def _reference_logprobs(self, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor | None:
        if self._reference is None:
            return None
        # With gradients switched on, as the policy reads, though nothing here has any: other kernels round otherwise,
        # and of a KL that should be 0 the optimizer would make steps of full size.
        with self._reference() as writer:
            shared = writer.eval().read(prompt_ids, prompt_mask).repeat(self.settings.samples)
            return read_completions(writer, shared, ids, mask, self.settings.temperature).logprobs.detach()

    def _rewards(self, generated: Generated, reading: Reading, items: Sequence[int]) -> Tensor:
        """Return float32 (G, K)."""
        if self.settings.reward == "perplexity":
            rewards = self._perplexity_rewards(generated, reading, items)
        else:
            rewards = self._text_rewards(generated, items).to(reading.mask.device)
        return rewards.unflatten(0, (len(items), -1))

    def _text_rewards(self, generated: Generated, items: Sequence[int]) -> Tensor:
        """Return float32 (R,): match plus weighted format."""
        samples = self.settings.samples
        read = [
            read_completion(text, finish == END) for text, finish in zip(generated.texts, generated.finish, strict=True)
        ]
        titles = [self.codec.catalog.titles[item] for item in items for _ in range(samples)]
        self.note("match_rate", _share([is_match(c, title) for c, title in zip(read, titles, strict=True)]))
        self.note("format_rate", _share([c.well_formed for c in read]))
        weight = self.settings.format_weight
        return torch.tensor([text_reward(c, title, weight) for c, title in zip(read, titles, strict=True)])

    def _perplexity_rewards(self, generated: Generated, reading: Reading, items: Sequence[int]) -> Tensor:
        """Return float32 (R,): minus the perplexity of the true answer behind the sampled reasoning and the header.

        The reasoning's keys and values are those of the policy's own reading; columns behind it (the header as it was
        sampled, white space before it) are masked, and the header that the evaluation appends is read in their place.
        """
        answers = self.codec.answers
        tokens = [answers.tokens[answers.of_item[item]] for item in items for _ in range(self.settings.samples)]
        answer_ids, answer_mask = split_labels(self.codec.pad_answers(tokens).to(reading.mask.device))
        n_kept = torch.tensor([len(without_blank_end(self.codec, ids)) for ids in generated.ids])
        n_tokens = reading.cache.get_seq_length() - reading.mask.shape[1]
        kept = (torch.arange(n_tokens) < n_kept.unsqueeze(1)).to(reading.mask)
        header = torch.tensor(encode_plain(self.codec.tokenizer, [ANSWER_OPENING]), device=reading.mask.device)
        with torch.no_grad():
            pending = self.writer.embed(header).expand(len(tokens), -1, -1)
            prefix = Prefix(reading.cache, torch.cat([reading.mask, kept], dim=1), pending)
            rewards = perplexity_reward(self.writer.answer_logprobs(prefix, answer_ids, answer_mask), answer_mask)
        self.note("log_perplexity", (-rewards).log().mean())
        self.note("header_rate", _share([finish == RESPONSE_HEADER for finish in generated.finish]))
        return rewards

    def _tell(self, generated: Generated, rewards: Tensor, example: int, item: int) -> None:
        """Note what new completions are like; log the first one of a step whose means are logged."""
        equal = equal_rewards(rewards)
        self._count(self.step, len(equal), int(equal.sum()))
        self.note("reward", rewards.mean())
        self.note("reward_std", rewards.std(dim=1).mean())
        self.note("zero_variance_rate", equal.float().mean())
        self.note("completion_tokens", torch.from_numpy(generated.n_tokens).float().mean())
        self.note("truncation_rate", torch.from_numpy(generated.truncated).float().mean())
        done = self.step + 1
        if done % self.settings.log_steps or self._shown_step == done:
            return
        self._shown_step = done
        record = {"stage": "rl-sample", "step": done, "example_id": example, "title": self.codec.catalog.titles[item]}
        written = self.codec.tokenizer.decode(generated.tokens[0], skip_special_tokens=False)
        self._log({**record, "completion": written, "finish": generated.finish[0], "worth": float(rewards[0, 0])})


def read_completions(
    writer: TitleWriter, prefix: Prefix, ids: Tensor, mask: Tensor, temperature: float = 1.0
) -> Reading:
    """Read completions behind their prompts.

    Args:
        prefix: R rows. Its cache grows by the pending inputs and the completions.
        ids, mask: int64 (R, T), padded on the right.
        temperature: logits are divided by it, as in sampling.
    """
    embeds = torch.cat([prefix.pending, writer.embed(ids)], dim=1)
    before = torch.cat([prefix.mask, prefix.mask.new_ones(prefix.pending.shape[:2])], dim=1)
    hidden = run_body(writer.lm, embeds, torch.cat([before, mask.to(before)], dim=1), prefix.cache)
    predicting = hidden[:, prefix.pending.shape[1] - 1 : -1]
    logprobs = token_logprobs(writer.logits(predicting) / temperature, ids) * mask
    return Reading(logprobs, prefix.cache, before)


def _share(hits: Sequence[bool]) -> Tensor:
    return torch.tensor(hits, dtype=torch.float32).mean()
