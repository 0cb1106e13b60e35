"""LatentR3 as a whole on a tiny random model: what trains, what the noise depends on, resume, flavours."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latent.attention import LatentAttention
from latent.config import LatentR3Config
from latent.method import LatentR3
from latent.policy import LatentPolicy
from latent.reasoner import LatentWriter
from latent.rl_config import RlSettings
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.testing.tiny import tiny_catalog, tiny_split

CONFIG = {
    "sft": {
        "epochs": 1,
        "batch_size": 32,
        "micro_batch_size": 16,
        "learning_rate": 1e-3,
        "max_rows": 64,
        "eval_rows": 16,
    },
    "rl": {"max_rows": 17, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_steps": 2, "log_steps": 1},
}


def context(folder: Path, llm: Path, log: list | None = None) -> RunContext:
    sink = (lambda record: None) if log is None else (lambda record: log.append(dict(record)))
    return RunContext(
        tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", BackboneSpec(name=str(llm)), log=sink
    )


def fitted(folder: Path, llm: Path, log: list | None = None, **changes) -> tuple[LatentR3, RunContext]:
    method = LatentR3(build_config(LatentR3Config, {**CONFIG, **changes}, "test"))
    ctx, split = context(folder, llm, log), tiny_split()
    method.fit(split.train, split.valid, ctx)
    return method, ctx


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llm_folder):
    folder, log = tmp_path_factory.mktemp("latent"), []
    method, ctx = fitted(folder, tiny_llm_folder, log)
    return method, ctx, log


def test_reinforcement_moves_latent_attention_and_nothing_else(run) -> None:
    method, ctx, _ = run
    warmed_up = LatentR3.load(ctx.start_model, method.config, ctx)
    before = dict(warmed_up._model.writer.named_parameters())
    for name, parameter in method._model.writer.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == name.startswith("attention."), name


def test_reinforcement_leaves_out_the_incomplete_step_and_logs_rewards(run) -> None:
    method, _, log = run
    assert method.summary()["rl"]["steps"] == 4
    steps = [record for record in log if record["stage"] == "rl" and "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    for record in steps:
        assert record["reward_unperturbed"] <= -1
        assert record["noise_norm"] == pytest.approx(1.5 * np.sqrt(32), rel=0.2)


def test_lists_hold_titles_of_the_catalogue_with_shared_titles_tied(run) -> None:
    method, ctx, _ = run
    split = tiny_split()
    rankings = method.rank(split.test.queries(), 10, ctx)
    rankings.check(split.test.example_id, len(ctx.catalog))
    assert (rankings.lengths >= 10).all()
    for row in range(len(rankings)):
        items = rankings.items[rankings.offsets[row] : rankings.offsets[row + 1]].tolist()
        scores = dict(zip(items, rankings.scores[rankings.offsets[row] : rankings.offsets[row + 1]], strict=True))
        assert (5 in scores) == (17 in scores)
        assert scores.get(5) == scores.get(17)
        assert 23 not in scores
        assert len(rankings.generations[row]["titles"]) == 10


def test_decoding_goes_on_from_finished_shards(run, monkeypatch) -> None:
    method, ctx, _ = run
    split = tiny_split()
    expected = method.rank(split.test.queries(), 10, ctx)
    shards = sorted((ctx.work_dir / "decode").glob("*.npz"))
    assert shards
    monkeypatch.setattr("recbench.llm.decode.beam_search", None)
    again = method.rank(split.test.queries(), 10, ctx)
    assert np.array_equal(again.items, expected.items)
    shards[0].unlink()
    with pytest.raises(TypeError):
        method.rank(split.test.queries(), 10, ctx)


def test_masked_lists_stay_full_and_hold_nothing_of_the_history(run) -> None:
    method, ctx, _ = run
    queries = tiny_split().test.queries()
    masked = method.rank(queries, 10, replace(ctx, mask_history=True))
    masked.check(queries.example_id, len(ctx.catalog))
    for row in range(len(queries)):
        items = masked.items[masked.offsets[row] : masked.offsets[row + 1]].tolist()
        assert not set(items) & set(queries.history(row).tolist())
        titles = [ctx.catalog.title_group[item] for item in items]
        assert len(set(titles)) == 10


def test_an_interruption_in_rl_changes_nothing(run, tmp_path: Path, tiny_llm_folder, monkeypatch) -> None:
    method, _, _ = run
    forward = LatentPolicy.forward

    def dying(self, **batch):
        if self.step >= 3:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(LatentPolicy, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, tiny_llm_folder)
    monkeypatch.setattr(LatentPolicy, "forward", forward)
    log: list = []
    resumed, _ = fitted(tmp_path, tiny_llm_folder, log)
    assert {record["stage"] for record in log} == {"rl"}
    assert min(record["step"] for record in log) == 3
    expected = dict(method._model.writer.named_parameters())
    for name, parameter in resumed._model.writer.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_without_rl_the_fit_is_what_stage_two_begins_with(run, tmp_path: Path, tiny_llm_folder) -> None:
    method, ctx, _ = run
    alone, _ = fitted(tmp_path, tiny_llm_folder, rl={"enabled": False})
    assert "rl" not in alone.summary()
    assert alone.starts_from() is None
    assert alone.fit_identity() == method.starts_from().fit_identity()
    start = dict(LatentR3.load(ctx.start_model, alone.config, ctx)._model.writer.named_parameters())
    for name, parameter in alone._model.writer.named_parameters():
        assert torch.equal(parameter, start[name]), name


def test_a_kept_start_is_not_made_again(run, tmp_path: Path, tiny_llm_folder) -> None:
    method, ctx, _ = run
    log: list = []
    again = LatentR3(method.config)
    fresh = context(tmp_path, tiny_llm_folder, log)
    shutil.copytree(ctx.start_model, fresh.start_model)
    split = tiny_split()
    again.fit(split.train, split.valid, fresh)
    assert {record["stage"] for record in log} == {"rl"}
    expected = dict(method._model.writer.named_parameters())
    for name, parameter in again._model.writer.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_too_few_rows_for_a_group_is_a_clear_error(tmp_path: Path, tiny_llm_folder) -> None:
    with pytest.raises(DataError, match="adv_groups = 2"):
        fitted(tmp_path, tiny_llm_folder, rl={**CONFIG["rl"], "max_rows": 1})


def policy(tiny_llm_folder: Path, **changes) -> LatentPolicy:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(tiny_llm_folder).requires_grad_(False)
    attention = LatentAttention(lm.config.hidden_size)
    attention.reset(torch.Generator().manual_seed(0))
    return LatentPolicy(LatentWriter(lm, attention), RlSettings(**changes), seed=0)


def batch(examples: list[int], pad: int = 0) -> dict[str, torch.Tensor]:
    """Rows that depend on the example alone, with ``pad`` more columns on each side."""
    prompts = torch.stack([torch.arange(5) + 3 * example for example in examples])
    labels = torch.stack([torch.tensor([40 + example, 41, 0]) for example in examples])
    zeros = torch.zeros((len(examples), pad), dtype=torch.int64)
    return {
        "prompt_ids": torch.cat([zeros, prompts], 1),
        "prompt_mask": torch.cat([zeros, torch.ones_like(prompts)], 1),
        "labels": torch.cat([labels, zeros - 100], 1),
        "example_id": torch.tensor(examples),
    }


def test_loss_and_gradient_do_not_depend_on_padding_or_on_the_order_of_groups(tiny_llm_folder) -> None:
    objective = policy(tiny_llm_folder)
    gradients = []
    for rows in (batch([1, 2]), batch([1, 2], pad=4), batch([2, 1])):
        objective.zero_grad()
        objective(**rows)["loss"].backward()
        gradients.append(objective.writer.attention.value.weight.grad.clone())
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-6, rtol=1e-3)
    assert gradients[0].norm() > 0


def test_noise_depends_on_seed_example_and_step_alone(tiny_llm_folder) -> None:
    objective = policy(tiny_llm_folder)
    pending = torch.zeros(2, 1, 32)
    first = objective.noise([4, 9], pending)
    assert (first[:, 0] == 0).all()
    assert torch.equal(objective.noise([9, 4], pending), first.flip(0))
    objective.step = 1
    assert not torch.equal(objective.noise([4, 9], pending)[:, 1:], first[:, 1:])


def test_group_advantage_is_another_update(tiny_llm_folder) -> None:
    gradients = []
    for kind in ("batch", "group"):
        objective = policy(tiny_llm_folder, advantage=kind)
        objective(**batch([1, 2]))["loss"].backward()
        gradients.append(objective.writer.attention.value.weight.grad)
    assert not torch.allclose(gradients[0], gradients[1], rtol=0.1, atol=0)


def test_flavour_sets_the_length_penalty_and_an_explicit_one_wins() -> None:
    assert build_config(LatentR3Config, {}, "x").decoding.length_penalty == 1.0
    assert build_config(LatentR3Config, {"flavour": "d3"}, "x").decoding.length_penalty == 0.0
    both = {"flavour": "d3", "decoding": {"length_penalty": 0.5, "beams": 3}}
    assert build_config(LatentR3Config, both, "x").decoding.length_penalty == 0.5
    config = build_config(LatentR3Config, {"flavour": "d3"}, "x")
    assert LatentR3Config.model_validate(config.model_dump()) == config


def test_wrong_keys_are_named_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"rl\.samplez: unknown key\. Did you mean 'samples'"):
        build_config(LatentR3Config, {"rl": {"samplez": 3}}, "method 'latentr3'")
