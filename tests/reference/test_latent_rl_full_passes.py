"""LR-GRPO against a slow reference: every sample is a plain full pass over a sequence of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from latent.attention import LatentAttention
from latent.policy import LatentPolicy
from latent.reasoner import LatentWriter
from latent.rl_config import RlSettings
from latent.trained_part import trained_part
from recbench.testing.tiny import tiny_catalog
from recbench.testing.tiny_llm import make_tiny_llm

SAMPLES, SIGMA, CLIPS = 3, 0.6, (0.2, 0.28)
# Of plain gradient steps: so large that some ratios leave the clips in the second update of a rollout.
RATE = {"latent_ratt": 150.0, "model": 0.5}
# A beginning that all share, which is read once; lengths that differ, so that there is padding in between.
PROMPTS = [[*range(30, 50), *own] for own in ([5, 6, 7], [8], [9, 10, 11, 12], [13, 14])]
ANSWERS = [[20, 21, 0], [22, 0], [23, 24, 25, 0], [26, 0]]
EXAMPLES = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def tiny_llm_folder(tmp_path_factory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"), tiny_catalog().titles, seed=5)


def make_writer(folder: Path, n_thoughts: int = 1) -> LatentWriter:
    lm = AutoModelForCausalLM.from_pretrained(folder)
    attention = LatentAttention(lm.config.hidden_size, init_std=0.3)
    attention.reset(torch.Generator().manual_seed(1))
    return LatentWriter(lm, attention, n_thoughts).eval()


def collate(rows: list[int]) -> dict[str, Tensor]:
    width, length = max(len(PROMPTS[r]) for r in rows), max(len(ANSWERS[r]) for r in rows)
    return {
        "prompt_ids": torch.tensor([[0] * (width - len(PROMPTS[r])) + PROMPTS[r] for r in rows]),
        "prompt_mask": torch.tensor([[0] * (width - len(PROMPTS[r])) + [1] * len(PROMPTS[r]) for r in rows]),
        "labels": torch.tensor([ANSWERS[r] + [-100] * (length - len(ANSWERS[r])) for r in rows]),
        "example_id": torch.tensor([EXAMPLES[r] for r in rows]),
    }


def slow_logprobs(writer: LatentWriter, row: int, noise: Tensor) -> Tensor:
    """Return (T,): full passes over [prompt, thoughts, answer], one per thought and one for the answer."""
    prompt, answer = PROMPTS[row], ANSWERS[row]
    embeds = writer.embed(torch.tensor([prompt]))
    for n in range(writer.n_thoughts):
        hidden = writer.lm.get_decoder()(inputs_embeds=embeds).last_hidden_state
        thought = writer.attention(hidden, torch.ones(hidden.shape[:2]))
        if n == writer.n_thoughts - 1:
            thought = thought + noise
        embeds = torch.cat([embeds, thought[:, None]], dim=1)
    inputs = torch.cat([embeds, writer.embed(torch.tensor([answer[:-1]]))], dim=1)
    logits = writer.lm(inputs_embeds=inputs).logits[0, embeds.shape[1] - 1 :]
    return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


def slow_loss(
    now: list[list[Tensor]], old: list[list[Tensor]], start: list[list[Tensor]], settings: RlSettings
) -> Tensor:
    """Eq. 6 to 8 with the KL term, sample by sample; all arguments are [row][sample] -> (T,)."""
    rewards = [[-float(torch.exp(-logprobs.mean())) for logprobs in row] for row in old]
    total = torch.zeros(())
    for first in range(0, len(now), settings.scope):
        scope = range(first, first + settings.scope)
        baseline = sum(rewards[row][0] for row in scope) / len(scope)
        norm = sum((rewards[row][k] - baseline) ** 2 for row in scope for k in range(SAMPLES)) ** 0.5
        for row in scope:
            mean = sum(rewards[row]) / SAMPLES
            deviation = (sum((value - mean) ** 2 for value in rewards[row]) / (SAMPLES - 1)) ** 0.5
            for k in range(SAMPLES):
                if settings.advantage == "batch":
                    advantage = (rewards[row][k] - baseline) / (norm + 1e-6)
                else:
                    advantage = (rewards[row][k] - mean) / (deviation + 1e-4)
                terms = []
                for new, before, reference in zip(now[row][k], old[row][k], start[row][k], strict=True):
                    ratio = torch.exp(new - before)
                    clipped = ratio.clamp(1 - CLIPS[0], 1 + CLIPS[1])
                    kl = torch.exp(reference - new) - (reference - new) - 1
                    terms.append(-torch.minimum(ratio * advantage, clipped * advantage) + settings.beta * kl)
                total = total + torch.stack(terms).mean()
    return total / (len(now) * SAMPLES)


def gradients(writer: LatentWriter) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in writer.named_parameters() if p.grad is not None}


def train(
    folder: Path, settings: RlSettings, parts: list[list[int]], updates: int, loss_of: Callable[..., Tensor], n: int = 1
) -> list[tuple[float, dict[str, Tensor]]]:
    """Take plain gradient steps; return the loss and the gradients of each."""
    writer = make_writer(folder, n)
    steps = []
    with trained_part(writer, settings.trains, True) as start:
        state: dict[str, Any] = {}
        for step in range(updates):
            writer.zero_grad(set_to_none=True)
            loss = loss_of(writer, start, settings, parts, step, state)
            steps.append((float(loss.detach()), gradients(writer)))
            with torch.no_grad():
                for parameter in writer.parameters():
                    if parameter.grad is not None:
                        parameter -= RATE[settings.trains] * parameter.grad
    return steps


def fast(writer: LatentWriter, start: Any, settings: RlSettings, parts: list, step: int, state: dict) -> Tensor:
    policy = state.setdefault("policy", LatentPolicy(writer, settings, 7, start if settings.beta else None))
    policy.step = step
    batches = [collate(part) for part in parts]
    policy.prepare(batches, lambda rows: rows)
    total = torch.zeros(())
    for batch in batches:
        loss = policy(**batch)["loss"] * len(batch["example_id"]) / len(PROMPTS)
        loss.backward()
        total = total + loss.detach()
    return total


def slow(writer: LatentWriter, start: Any, settings: RlSettings, parts: list, step: int, state: dict) -> Tensor:
    policy = LatentPolicy(writer, settings, 7)
    policy.step = step
    noise = policy.noise(EXAMPLES, torch.zeros(writer.lm.config.hidden_size))
    now = [[slow_logprobs(writer, row, noise[row, k]) for k in range(SAMPLES)] for row in range(len(PROMPTS))]
    if step % settings.num_iterations == 0:
        state["old"] = [[logprobs.detach() for logprobs in row] for row in now]
        with torch.no_grad():
            state["start"] = [[slow_logprobs(start, row, eps) for eps in noise[row]] for row in range(len(PROMPTS))]
    loss = slow_loss(now, state["old"], state["start"], settings)
    loss.backward()
    return loss


WHOLE, HALVES, SINGLES = [[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("values", "parts", "updates", "n_thoughts"),
    [
        ({}, WHOLE, 1, 1),
        ({}, HALVES, 1, 2),
        ({}, SINGLES, 1, 1),
        ({"adv_groups": "batch"}, WHOLE, 1, 1),
        ({"adv_groups": "batch", "num_iterations": 2, "beta": 0.01}, HALVES, 4, 1),
        ({"adv_groups": 4, "beta": 0.3}, SINGLES, 1, 2),
        ({"adv_groups": 1}, HALVES, 1, 1),
        ({"advantage": "group", "num_iterations": 2}, HALVES, 2, 1),
        ({"trains": "model", "adv_groups": "batch", "num_iterations": 2, "beta": 0.3}, HALVES, 3, 1),
    ],
)
def test_losses_and_gradients_are_those_of_plain_full_passes(
    tiny_llm_folder: Path, values: dict[str, Any], parts: list[list[int]], updates: int, n_thoughts: int
) -> None:
    settings = RlSettings(
        samples=SAMPLES, sigma=SIGMA, batch_size=4, checkpoint_steps=6, clip_low=CLIPS[0], clip_high=CLIPS[1], **values
    )
    ours = train(tiny_llm_folder, settings, parts, updates, fast, n_thoughts)
    theirs = train(tiny_llm_folder, settings, parts, updates, slow, n_thoughts)
    for step, ((loss, our_gradients), (expected, their_gradients)) in enumerate(zip(ours, theirs, strict=True)):
        assert loss == pytest.approx(expected, rel=1e-4, abs=1e-5), step
        assert our_gradients.keys() == their_gradients.keys()
        assert any(name.startswith("lm.") for name in our_gradients) == (settings.trains == "model")
        for name, gradient in their_gradients.items():
            assert (our_gradients[name] - gradient).norm() <= 2e-4 * gradient.norm() + 1e-6, (step, name)
    assert theirs[0][1]["attention.value.weight"].norm() > 0


def test_the_settings_make_a_difference(tiny_llm_folder: Path) -> None:
    """Each of them changes the second update of a rollout or the first; otherwise the test above says little."""

    def last(**values: Any) -> Tensor:
        settings = RlSettings(samples=SAMPLES, sigma=SIGMA, batch_size=4, checkpoint_steps=6, **values)
        return train(tiny_llm_folder, settings, WHOLE, 2, fast)[-1][1]["attention.value.weight"]

    plain = last()
    for values in ({"adv_groups": "batch"}, {"adv_groups": 1}, {"beta": 1.0}, {"num_iterations": 2}):
        assert (last(**values) - plain).norm() > 0.01 * plain.norm(), values


def test_a_rollout_with_several_updates_clips_and_reads_its_prompts_once(tiny_llm_folder: Path, monkeypatch) -> None:
    settings = RlSettings(samples=SAMPLES, sigma=SIGMA, batch_size=4, num_iterations=2, checkpoint_steps=2)
    reads = []
    read = LatentWriter.read_hidden
    monkeypatch.setattr(
        LatentWriter, "read_hidden", lambda self, *batch: reads.append(len(batch[0])) or read(self, *batch)
    )
    state: dict[str, Any] = {}
    clipped = []

    def noted(*arguments: Any) -> Tensor:
        loss = fast(*arguments[:-1], state)
        clipped.append(sum(float(v) for v in state["policy"].take_notes()["clip_fraction"]))
        return loss

    train(tiny_llm_folder, settings, HALVES, 4, noted)
    assert reads == [2, 2] * 2, "two rollouts of two passes each"
    assert clipped[0] == clipped[2] == 0
    assert clipped[1] > 0
    assert clipped[3] > 0
