"""LatentR3's training steps as published codes compute them: two full passes, and full copies of the prompt.

Written afresh as a plain baseline. Sequences are [prompt, thought slot, answer], padded on the left; every pass goes
over all of them. The optimizer is not part of a step here: what is compared is the loss and its gradients.

Dimensions: B rows (in reinforcement learning G prompts of K samples), S columns, T answer tokens, H hidden,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from latent.attention import LatentAttention


@dataclass(frozen=True)
class Sequences:
    """Whole sequences of equally long answers.

    Attributes:
        ids, mask: int64 (B, S), padded on the left; the thought's slot is column S - T - 1 and may hold any id.
        n_answer: T, tokens of every answer.
    """

    ids: Tensor
    mask: Tensor
    n_answer: int

    @property
    def slot(self) -> int:
        """Column of the thought."""
        return self.ids.shape[1] - self.n_answer - 1

    def repeat(self, times: int) -> Sequences:
        """Return every row ``times`` times in a row."""
        return Sequences(
            self.ids.repeat_interleave(times, dim=0), self.mask.repeat_interleave(times, dim=0), self.n_answer
        )


def sft_loss(lm: PreTrainedModel, attention: LatentAttention, rows: Sequences) -> Tensor:
    """Return the mean loss over answer tokens: a full pass for the thought, another for the logits of all columns."""
    embeds = lm.get_input_embeddings()(rows.ids)
    thought = _thought(lm, attention, embeds, rows)
    logits = _second_pass(lm, embeds, thought, rows).float()
    labels = rows.ids.clone()
    labels[:, : -rows.n_answer] = -100
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def rl_loss(
    lm: PreTrainedModel, attention: LatentAttention, prompts: Sequences, noise: Tensor, adv_groups: int
) -> tuple[Tensor, Tensor]:
    """Return LR-GRPO's loss and the rewards (G, K): two full passes of all copies for each of them.

    Args:
        prompts: G rows, each of which is copied K times.
        noise: (G, K, H); sample 0 has none.
        adv_groups: prompts whose rewards share a baseline.
    """
    n_groups, samples, _ = noise.shape
    rows = prompts.repeat(samples)
    with torch.no_grad():
        logprobs = _answer_logprobs(lm, attention, rows, noise.flatten(0, 1))
        rewards = -torch.exp(-logprobs.mean(dim=1)).view(n_groups, samples)
    advantages = []
    for scope in rewards.split(adv_groups):
        centred = scope - scope[:, 0].mean()
        advantages.append(centred / (centred.norm() + 1e-6))
    advantage = torch.cat(advantages).flatten()
    logprobs = _answer_logprobs(lm, attention, rows, noise.flatten(0, 1))
    ratio = torch.exp(logprobs - logprobs.detach())
    gain = torch.minimum(ratio * advantage[:, None], ratio.clamp(0.8, 1.28) * advantage[:, None])
    return -gain.mean(), rewards


def _answer_logprobs(lm: PreTrainedModel, attention: LatentAttention, rows: Sequences, noise: Tensor) -> Tensor:
    """Return (B, T); logits are made where answers are predicted only."""
    embeds = lm.get_input_embeddings()(rows.ids)
    thought = _thought(lm, attention, embeds, rows) + noise
    logits = _second_pass(lm, embeds, thought, rows, keep=rows.n_answer + 1)[:, :-1]
    answers = rows.ids[:, -rows.n_answer :]
    return logits.float().log_softmax(dim=-1).gather(2, answers[:, :, None]).squeeze(2)


def _thought(lm: PreTrainedModel, attention: LatentAttention, embeds: Tensor, rows: Sequences) -> Tensor:
    """Return (B, H): LatentRATT over the columns before the slot, after a pass over all of them."""
    body = lm.get_decoder()(
        inputs_embeds=embeds, attention_mask=rows.mask, position_ids=_numbers(rows), use_cache=False
    )
    return attention(body.last_hidden_state[:, : rows.slot], rows.mask[:, : rows.slot])


def _second_pass(lm: PreTrainedModel, embeds: Tensor, thought: Tensor, rows: Sequences, keep: int = 0) -> Tensor:
    """Return the logits (B, S, V), or (B, ``keep``, V) of the last columns, with the thought in its slot."""
    slot = rows.slot
    embeds = torch.cat([embeds[:, :slot], thought[:, None], embeds[:, slot + 1 :]], dim=1)
    return lm(
        inputs_embeds=embeds,
        attention_mask=rows.mask,
        position_ids=_numbers(rows),
        use_cache=False,
        logits_to_keep=keep,
    ).logits


def _numbers(rows: Sequences) -> Tensor:
    return (rows.mask.cumsum(dim=1) - 1).clamp(min=0)
