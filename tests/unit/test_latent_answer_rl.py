"""Original GRPO on thoughts: against a slow reference, what trains, what is counted, and going on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from latent.answer_rl import AnswerPolicy, reinforce_answers
from latent.attention import LatentAttention
from latent.config import LatentRlSettings
from latent.noise import thought_noise
from latent.reasoner import LatentWriter
from latent.trained_part import trained_part
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import build_examples
from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.grpo import group_advantage
from recbench.testing.tiny import tiny_catalog, tiny_split

EXAMPLES = [4, 9]


def writer_of(folder: Path, n_thoughts: int = 1) -> LatentWriter:
    lm = AutoModelForCausalLM.from_pretrained(folder)
    attention = LatentAttention(lm.config.hidden_size, init_std=0.3)
    attention.reset(torch.Generator().manual_seed(1))
    return LatentWriter(lm, attention, n_thoughts).eval()


@pytest.fixture(scope="module")
def codec(tiny_llm_folder) -> TitleCodec:
    return TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())


def settings(**changes: Any) -> LatentRlSettings:
    values = {"reward": "match", "advantage": "group", "samples": 4, "sigma": 0.5, "learning_rate": 1e-2}
    return LatentRlSettings(**{**values, **changes})


def batch(codec: TitleCodec) -> dict[str, torch.Tensor]:
    rows = tiny_split().train.take([3, 40])
    ids, mask = codec.pad_prompts(codec.prompts(rows))
    answer = torch.from_numpy(codec.answers.of_item[rows.target]).long()
    return {"prompt_ids": ids, "prompt_mask": mask, "example_id": torch.tensor(EXAMPLES), "answer": answer}


def policy_of(writer, codec, chosen: LatentRlSettings, start=None) -> AnswerPolicy:
    return AnswerPolicy(writer, None if start is None else lambda: start, codec, chosen, 3, lambda *counts: None)


def reference_loss(policy: AnswerPolicy, rows: dict, rewards: torch.Tensor, samples: int) -> torch.Tensor:
    """One prompt and one sample at a time: think, add the noise, read the written title, weigh its mean log-prob."""
    noise = thought_noise(3, EXAMPLES, 0, samples, 32, 0.5)
    advantages = group_advantage(rewards)
    loss = torch.zeros(())
    for group, example in enumerate(EXAMPLES):
        kept = rows["prompt_mask"][group].bool()
        prompt = rows["prompt_ids"][group, kept][None]
        for sample, tokens in enumerate(policy.experiences[example].tokens):
            prefix = policy.writer.read(prompt, torch.ones_like(prompt))
            prefix.pending = prefix.pending + noise[group, sample]
            ids = torch.tensor([tokens])
            logprobs = policy.writer.answer_logprobs(prefix, ids, torch.ones_like(ids))
            ratio = torch.exp(logprobs - logprobs.detach())
            loss = loss - (ratio * advantages[group, sample]).mean() / (len(EXAMPLES) * samples)
    return loss


@pytest.mark.parametrize(("trains", "n_thoughts"), [("latent_ratt", 1), ("model", 1), ("model", 2)])
def test_loss_and_gradients_are_those_of_one_sample_at_a_time(
    tiny_llm_folder, codec, trains: str, n_thoughts: int
) -> None:
    writer, rows = writer_of(tiny_llm_folder, n_thoughts), batch(codec)
    chosen = settings(trains=trains)
    policy = policy_of(writer, codec, chosen)
    # Titles that really are written, one of each group declared the true one, so that there is something to learn.
    with torch.no_grad():
        policy(**rows)
    written = [policy.experiences[example].tokens for example in EXAMPLES]
    answers = [codec.answers.tokens.index(tuple(tokens[1])) for tokens in written]
    rows["answer"] = torch.tensor(answers)
    rewards = torch.tensor([[float(t == tokens[1]) for t in tokens] for tokens in written])
    assert 0 < rewards.sum() < rewards.numel()

    with trained_part(writer, chosen.trains, keeps_start=False):
        fresh = policy_of(writer, codec, chosen)
        loss = fresh(**rows)["loss"]
        loss.backward()
        ours = {name: p.grad.clone() for name, p in writer.named_parameters() if p.grad is not None}
        writer.zero_grad()
        expected = reference_loss(fresh, rows, rewards, chosen.samples)
        expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-4)
    assert any(name.startswith("lm.") for name in ours) == (trains == "model")
    for name, gradient in ours.items():
        theirs = dict(writer.named_parameters())[name].grad
        assert (gradient - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6, name
    assert ours["attention.value.weight"].norm() > 0


def test_the_divergence_is_from_the_policy_before_the_stage(tiny_llm_folder, codec) -> None:
    writer, rows = writer_of(tiny_llm_folder), batch(codec)
    found = {}
    for beta in (0.0, 2.0):
        with trained_part(writer, "latent_ratt", keeps_start=True) as start:
            assert start is not None
            assert start.lm is writer.lm
            with torch.no_grad():
                writer.attention.value.bias += 3.0
            policy = policy_of(writer, codec, settings(beta=beta), start if beta else None)
            found[beta] = float(policy(**rows)["loss"].detach())
            if beta:
                (kl,) = policy.take_notes()["kl"]
            with torch.no_grad():
                writer.attention.value.bias -= 3.0
    assert float(kl) > 1e-6
    assert found[2.0] == pytest.approx(found[0.0] + 2.0 * float(kl), rel=1e-4)


def test_second_update_learns_from_the_same_titles(tiny_llm_folder, codec) -> None:
    writer, rows = writer_of(tiny_llm_folder), batch(codec)
    policy = policy_of(writer, codec, settings(num_iterations=2))
    policy(**rows)
    first = {example: policy.experiences[example] for example in EXAMPLES}
    with torch.no_grad():
        writer.attention.value.bias += 0.5
    policy.step = 1
    policy(**rows)
    assert all(policy.experiences[example] is first[example] for example in EXAMPLES)
    policy.step = 2
    policy(**rows)
    assert all(policy.experiences[example] is not first[example] for example in EXAMPLES)


def test_titles_and_noise_do_not_depend_on_batch_mates(tiny_llm_folder, codec) -> None:
    writer, rows = writer_of(tiny_llm_folder), batch(codec)
    together, alone = (policy_of(writer, codec, settings()) for _ in range(2))
    with torch.no_grad():
        together(**rows)
        for row in range(2):
            alone(**{name: tensor[row : row + 1] for name, tensor in rows.items()})
    for example in EXAMPLES:
        assert alone.experiences[example].tokens == together.experiences[example].tokens
    tokens = [tuple(t) for example in EXAMPLES for t in together.experiences[example].tokens]
    assert len(set(tokens)) > 1
    assert set(tokens) <= set(codec.answers.tokens)


STAGE = {"batch_size": 4, "micro_batch_size": 2, "checkpoint_steps": 1, "log_steps": 1}


def stage(folder: Path, llm: Path, log: list, **changes: Any) -> tuple[LatentWriter, dict, Any]:
    """Train on 13 rows of a catalogue of four titles, so that true titles are often written."""
    catalog = ItemCatalog(tuple("abcd"), tuple(tiny_catalog().titles[:4]), "films")
    numbers = np.arange(13)
    train = build_examples(numbers, numbers, numbers, [[n % 3, 3] for n in numbers], numbers % 4)
    writer = writer_of(llm)
    codec = TitleCodec(AutoTokenizer.from_pretrained(llm), catalog)
    ctx = RunContext(catalog, 3, "cpu", folder / "work", folder / "cache", log=lambda record: log.append(dict(record)))
    result, counts = reinforce_answers(writer, codec, train, settings(**{**STAGE, **changes}), folder / "rl", ctx)
    return writer, counts, result


@pytest.mark.parametrize("trains", ["latent_ratt", "model"])
def test_only_what_is_named_moves_and_groups_without_a_difference_are_counted(
    tmp_path: Path, tiny_llm_folder, trains: str
) -> None:
    log: list = []
    before = writer_of(tiny_llm_folder)
    writer, counts, result = stage(tmp_path, tiny_llm_folder, log, trains=trains)
    assert result.steps == 3
    assert counts["groups"] == 12
    assert 0 < counts["zero_variance_groups"] < 12
    steps = [record for record in log if "loss" in record]
    for record in steps:
        assert 0 <= record["reward_unperturbed"] <= 1
        assert 0 <= record["reward_perturbed"] <= 1
        assert record["noise_norm"] == pytest.approx(0.5 * 32**0.5, rel=0.2)
    rate = sum(record["zero_variance_rate"] for record in steps) / len(steps)
    assert counts["zero_variance_groups"] == pytest.approx(12 * rate)
    moved = {
        name.split(".")[0]
        for (name, new), old in zip(writer.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert moved == ({"lm", "attention"} if trains == "model" else {"attention"})
    assert all(parameter.requires_grad for parameter in writer.parameters())


def test_equal_rewards_teach_nothing(tmp_path: Path, tiny_llm_folder) -> None:
    # Greedy writing behind thoughts that hardly differ: all samples of a prompt write the same title.
    before = writer_of(tiny_llm_folder)
    writer, counts, _ = stage(tmp_path, tiny_llm_folder, [], temperature=0.0, sigma=1e-6)
    assert counts == {"groups": 12, "zero_variance_groups": 12}
    for new, old in zip(writer.parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old)


def test_an_interruption_changes_nothing(tmp_path: Path, tiny_llm_folder, monkeypatch) -> None:
    expected, counts, _ = stage(tmp_path / "whole", tiny_llm_folder, [])
    forward = AnswerPolicy.forward

    def dying(self, **tensors):
        if self.step >= 2:
            raise KeyboardInterrupt
        return forward(self, **tensors)

    monkeypatch.setattr(AnswerPolicy, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "cut", tiny_llm_folder, [])
    monkeypatch.setattr(AnswerPolicy, "forward", forward)
    resumed, counts_resumed, _ = stage(tmp_path / "cut", tiny_llm_folder, [])
    assert counts_resumed == counts
    for new, old in zip(resumed.parameters(), expected.parameters(), strict=True):
        assert torch.equal(new, old)
