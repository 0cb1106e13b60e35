"""The GRPO objective of CoT-RL on a tiny random model: sampling, rewards, loss and gradient against slow references."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from baselines.llm.cot_rl_config import CotRlSettings
from baselines.llm.cot_rl_policy import ReasoningPolicy
from baselines.llm.cot_rl_stage import collate_prompts, stage_rows
from baselines.llm.reasoning import answer_prompts
from recbench.llm.codec import TitleCodec
from recbench.llm.grpo import group_advantage, kl_penalty, policy_loss
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split

SETTINGS = CotRlSettings(samples=3, max_new_tokens=7, reward="perplexity", beta=0.5, temperature=0.7, updates=2)


@pytest.fixture(scope="module")
def codec(tiny_llm_folder: Path) -> TitleCodec:
    return TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())


def new_writer(folder: Path) -> TitleWriter:
    return TitleWriter(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def new_policy(folder: Path, codec: TitleCodec, records: list | None = None, **changes: Any) -> ReasoningPolicy:
    settings = SETTINGS.model_copy(update=changes)
    writer, start = new_writer(folder), new_writer(folder)
    with torch.no_grad():  # so that the KL is not 0 in the first step
        for parameter in start.parameters():
            parameter.mul_(1.1)
    reference = (lambda: nullcontext(start)) if settings.beta else None
    counts: list[tuple[int, int, int]] = []
    policy = ReasoningPolicy(
        writer, reference, codec, settings, 5, lambda *count: counts.append(count), (records or []).append
    )
    policy.counts = counts
    policy.start = start
    return policy


@pytest.fixture(scope="module")
def rows(codec: TitleCodec) -> list[dict[str, Any]]:
    rows = stage_rows(tiny_split().train, codec, 12, 0)
    return sorted(rows, key=lambda row: len(row["input_ids"]))[::5]


def slow_logprobs(writer: TitleWriter, prompt: list[int], written: list[int], temperature: float) -> Tensor:
    """One whole sequence without padding and without a cache."""
    logits = writer.lm(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(dim=-1)[torch.arange(len(written)), torch.tensor(written)]


def completions(policy: ReasoningPolicy) -> list[list[int]]:
    return [tokens for experience in policy.experiences.values() for tokens in experience.tokens]


def advantages(policy: ReasoningPolicy) -> Tensor:
    return torch.cat([experience.advantages for experience in policy.experiences.values()])


def notes(policy: ReasoningPolicy) -> dict[str, float]:
    return {name: float(torch.stack(values).mean()) for name, values in policy.take_notes().items()}


def test_loss_and_gradient_equal_those_of_whole_unpadded_sequences(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    policy = new_policy(tiny_llm_folder, codec)
    batch = collate_prompts(codec, rows)
    assert len({len(row["input_ids"]) for row in rows}) > 1, "the prompts must need padding"
    loss = policy(**batch)["loss"]
    loss.backward()

    slow, slow_loss = new_writer(tiny_llm_folder), torch.zeros(())
    for row, written in enumerate(completions(policy)):
        prompt = rows[row // SETTINGS.samples]["input_ids"]
        logprobs = slow_logprobs(slow, prompt, written, SETTINGS.temperature).view(1, -1)
        reference = slow_logprobs(policy.start, prompt, written, SETTINGS.temperature).view(1, -1).detach()
        ones = torch.ones_like(logprobs)
        slow_loss = slow_loss + policy_loss(logprobs, logprobs.detach(), advantages(policy)[row : row + 1], ones)
        slow_loss = slow_loss + SETTINGS.beta * kl_penalty(logprobs, reference, ones)
    slow_loss = slow_loss / (row + 1)
    slow_loss.backward()
    assert loss.item() == pytest.approx(slow_loss.item(), abs=1e-5)
    theirs = dict(slow.named_parameters())
    for name, parameter in policy.writer.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-6, rtol=1e-3)


def test_perplexity_rewards_equal_those_of_whole_sequences(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    policy = new_policy(tiny_llm_folder, codec)
    policy(**collate_prompts(codec, rows))
    prompts = [row["input_ids"] for row in rows for _ in range(SETTINGS.samples)]
    # None of these random texts holds a header or ends early, so what was written is what is kept.
    second = answer_prompts(codec, prompts, [[t for t in w if t != codec.eos] for w in completions(policy)])
    rewards = []
    for place, prompt in enumerate(second):
        item = rows[place // SETTINGS.samples]["target"]
        answer = codec.answers.tokens[codec.answers.of_item[item]]
        rewards.append(-torch.exp(-slow_logprobs(policy.writer, prompt, list(answer), 1.0).mean()).item())
    expected = group_advantage(torch.tensor(rewards).view(len(rows), -1)).flatten()
    torch.testing.assert_close(advantages(policy), expected, atol=1e-2, rtol=1e-2)
    assert notes(policy)["reward"] == pytest.approx(np.mean(rewards), rel=1e-5)


def test_groups_of_equal_rewards_have_exactly_no_gradient(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    # Random text has no header: every reward is 0.
    policy = new_policy(tiny_llm_folder, codec, reward="match+format", beta=0.0)
    policy(**collate_prompts(codec, rows))["loss"].backward()
    assert all((parameter.grad == 0).all() for parameter in policy.writer.parameters())
    seen = notes(policy)
    assert (seen["zero_variance_rate"], seen["match_rate"], seen["format_rate"]) == (1, 0, 0)
    assert policy.counts == [(0, len(rows), len(rows))]


def test_completions_depend_on_seed_rollout_and_example_alone(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    def written(batch: list[dict[str, Any]], step: int, disturb: int) -> dict[int, list[list[int]]]:
        policy = new_policy(tiny_llm_folder, codec, beta=0.0)
        policy.step = step
        torch.manual_seed(disturb)
        policy(**collate_prompts(codec, batch))
        return {example: experience.tokens for example, experience in policy.experiences.items()}

    together = written(rows, 4, disturb=1)
    for row in rows:
        alone = written([row], 4, disturb=2)
        assert alone[row["example_id"]] == together[row["example_id"]]
    assert written(rows, 5, disturb=1) == together, "two steps learn from one rollout"
    assert written(rows, 6, disturb=1) != together
    assert all(len({tuple(text) for text in texts}) > 1 for texts in together.values()), "samples differ"


def test_a_rollout_is_kept_for_its_updates_and_measured_against_the_model_that_wrote_it(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    policy = new_policy(tiny_llm_folder, codec, beta=0.0)
    batch = collate_prompts(codec, rows)
    policy(**batch)["loss"].backward()
    first = dict(policy.experiences)
    assert notes(policy)["clip_fraction"] == 0, "the model that wrote the texts is the one that learns"
    with torch.no_grad():
        for parameter in policy.writer.parameters():
            parameter -= 2 * parameter.grad
    policy.step = 1
    loss = policy(**batch)["loss"].item()
    assert policy.experiences == first
    assert loss < 0, "a step along the gradient raises what has an advantage"
    assert 0 < notes(policy)["clip_fraction"] < 1
    policy.step = 2
    policy(**batch)
    assert policy.experiences != first
    assert policy.counts == [(0, len(rows), 0), (2, len(rows), 0)]


def test_a_rollout_that_is_read_in_parts_later_gives_the_same_loss(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    policy = new_policy(tiny_llm_folder, codec)
    whole = policy(**collate_prompts(codec, rows))["loss"].item()
    parts = [policy(**collate_prompts(codec, [row]))["loss"].item() for row in rows]
    assert whole == pytest.approx(np.mean(parts), abs=1e-5)
    assert len(policy.counts) == 1, "nothing was sampled again"


def test_one_text_of_each_logged_step_is_shown(
    tiny_llm_folder: Path, codec: TitleCodec, rows: list[dict[str, Any]]
) -> None:
    records: list[dict[str, Any]] = [{}]
    policy = new_policy(tiny_llm_folder, codec, records, log_steps=4, updates=1)
    for policy.step in (2, 3):
        for row in rows:
            policy(**collate_prompts(codec, [row]))
    (record,) = records[1:]
    assert record["step"] == 4
    assert record["example_id"] == rows[0]["example_id"]
    assert record["title"] == tiny_catalog().titles[rows[0]["target"]]
    assert record["completion"]
    assert record["worth"] < -1
