"""CoT-RL as a whole on a tiny model: it learns what is rewarded, resumes to the same weights, answers as CoT does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from baselines.llm import cot_rl_policy
from baselines.llm.cot import Cot, CotConfig
from baselines.llm.cot_rl import CotRl, CotRlConfig
from baselines.llm.cot_rl_config import CotRlSettings
from baselines.llm.cot_rl_reward import Completion
from baselines.llm.cot_rl_stage import reinforce_reasoning, trainable_policy
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.experience import GroupCount
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split

RL = {
    "reward": "perplexity", "max_rows": 9, "batch_size": 4, "micro_batch_size": 2, "samples": 3, "max_new_tokens": 6,
    "updates": 2, "checkpoint_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0,
}  # fmt: skip
CONFIG = {"rl": RL, "reasoning": {"max_new_tokens": 5}, "decoding": {"beams": 4}}


def context(folder: Path, llm: Path, log: Callable = lambda record: None) -> RunContext:
    return RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", BackboneSpec(name=str(llm)), log=log)


def fitted(folder: Path, llm: Path, log: Callable = lambda record: None, **rl: Any) -> tuple[CotRl, RunContext]:
    method = CotRl(build_config(CotRlConfig, {**CONFIG, "rl": {**RL, **rl}}, "test"))
    ctx, split = context(folder, llm, log), tiny_split()
    method.fit(split.train, split.valid, ctx)
    return method, ctx


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llm_folder):
    log: list[dict[str, Any]] = []
    method, ctx = fitted(tmp_path_factory.mktemp("cot-rl"), tiny_llm_folder, lambda record: log.append(dict(record)))
    return method, ctx, log


def test_whole_steps_are_taken_on_each_rollout_and_the_groups_are_counted(run) -> None:
    method, _, log = run
    facts = method.summary()["rl"]
    assert (facts["steps"], facts["groups"], facts["zero_variance_groups"]) == (4, 8, 0)
    steps = [record for record in log if record["stage"] == "rl" and "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert ["reward" in record for record in steps] == [True, False, True, False], "two steps on each rollout"
    for key in ("grad_norm", "kl", "clip_fraction", "loss"):
        assert all(np.isfinite(record[key]) for record in steps)
    assert steps[0]["kl"] == 0 < steps[1]["kl"], "the policy leaves its starting model"
    assert [record["step"] for record in log if record["stage"] == "rl-sample"] == [1, 3]


@pytest.mark.parametrize("lora", [None, {"rank": 2, "targets": ["q_proj"]}])
def test_where_no_group_teaches_anything_the_model_stays_as_it_was(tmp_path, tiny_llm_folder, lora) -> None:
    method, _ = fitted(tmp_path, tiny_llm_folder, reward="match+format", updates=1, lora=lora)
    facts = method.summary()["rl"]
    assert facts["zero_variance_groups"] == facts["groups"] > 2
    before = AutoModelForCausalLM.from_pretrained(tiny_llm_folder, dtype=torch.float32).state_dict()
    for name, weight in method._writer.lm.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_a_killed_stage_ends_with_the_same_weights_and_counts(run, tmp_path: Path, tiny_llm_folder: Path) -> None:
    def die(record: dict[str, Any]) -> None:
        if record["stage"] == "rl" and record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, tiny_llm_folder, die)
    log: list[dict[str, Any]] = []
    resumed, _ = fitted(tmp_path, tiny_llm_folder, lambda record: log.append(dict(record)))
    assert min(record["step"] for record in log) == 3
    expected = dict(run[0]._writer.named_parameters())
    for name, parameter in resumed._writer.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert resumed.summary() == run[0].summary()


def test_adapters_train_alone_and_the_model_without_them_is_the_reference(
    tmp_path: Path, tiny_llm_folder: Path
) -> None:
    log: list[dict[str, Any]] = []
    lora = {"rank": 2, "targets": ["q_proj"]}
    method, _ = fitted(tmp_path, tiny_llm_folder, lambda record: log.append(dict(record)), lora=lora)
    kl = [record["kl"] for record in log if "kl" in record]
    assert kl[0] == 0 < kl[-1], "fresh adapters change nothing"
    before = AutoModelForCausalLM.from_pretrained(tiny_llm_folder, dtype=torch.float32).state_dict()
    after = method._writer.lm.state_dict()
    assert after.keys() == before.keys(), "merged"
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) != ("q_proj.weight" in name), name


def test_all_weights_train_in_float32_and_get_their_precision_back(tiny_llm_folder: Path) -> None:
    writer = TitleWriter(AutoModelForCausalLM.from_pretrained(tiny_llm_folder, dtype=torch.bfloat16))
    with trainable_policy(writer, CotRlSettings(), 0) as reference:
        assert writer.lm.dtype == torch.float32
        with reference() as start:
            assert start.lm.dtype == torch.float32
            assert not any(weight.requires_grad for weight in start.parameters())
    assert writer.lm.dtype == torch.bfloat16
    with trainable_policy(writer, CotRlSettings(beta=0), 0) as reference:
        assert reference is None


def test_a_step_that_is_taken_again_is_counted_once(tmp_path: Path) -> None:
    count = GroupCount(tmp_path / "groups.json")
    for step, equal in ((0, 1), (0, 0), (1, 2)):
        count.add(step, 2, equal)
    assert count.totals() == {"groups": 6, "zero_variance_groups": 3}
    resumed = GroupCount(tmp_path / "groups.json")
    resumed.add(1, 2, 0)
    assert resumed.totals() == {"groups": 6, "zero_variance_groups": 1}


def test_it_answers_as_cot_does_with_the_trained_model(run, tmp_path: Path, tiny_llm_folder: Path) -> None:
    method, ctx, _ = run
    queries = tiny_split().test.take(np.arange(3)).queries()
    ours = method.rank(queries, 4, ctx)
    method.save(tmp_path)
    cot = Cot(build_config(CotConfig, {k: v for k, v in CONFIG.items() if k != "rl"}, "test"))
    trained = replace(context(tmp_path / "cot", tiny_llm_folder), backbone=BackboneSpec(name=str(tmp_path / "lm")))
    cot.fit(tiny_split().train, tiny_split().valid, trained)
    theirs = cot.rank(queries, 4, trained)
    assert np.array_equal(ours.items, theirs.items)
    assert ours.generations == theirs.generations
    assert method.summary() == {**method.summary(), **cot.summary()}, "CoT's facts, and those of the stage"


def test_a_kept_fit_can_be_grounded(run, tmp_path: Path) -> None:
    method, ctx, _ = run
    method.save(tmp_path)
    decoding = {"mode": "grounding", "grounding": {"embedder": "tuned", "max_new_tokens": 4}}
    config = build_config(CotRlConfig, {**CONFIG, "decoding": decoding}, "test")
    surroundings = replace(ctx, work_dir=tmp_path / "work")
    loaded = CotRl.load(tmp_path, config, surroundings)
    queries = tiny_split().test.take(np.arange(3)).queries()
    loaded.rank(queries, 20, surroundings).check(queries.example_id, len(ctx.catalog))
    assert loaded.capabilities.max_places != 10, "a grounded list is not as short as the beams"


def test_decoding_and_the_queries_reasoning_do_not_change_the_fit() -> None:
    def identity(**values: Any) -> dict[str, Any]:
        return CotRl(build_config(CotRlConfig, values, "test")).fit_identity()

    assert identity() == identity(decoding={"beams": 3}, reasoning={"max_new_tokens": 9})
    assert identity() != identity(rl={"beta": 0.5})
    assert identity() != identity(template="alpaca")


def test_what_cannot_work_is_refused(tmp_path: Path, tiny_llm_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"multiple of rl\.updates 3"):
        build_config(CotRlConfig, {"rl": {"updates": 3}}, "method 'cot-rl'")
    with pytest.raises(DataError, match=r"rl\.micro_batch_size = 2"):
        fitted(tmp_path, tiny_llm_folder, max_rows=1)


def test_what_is_rewarded_becomes_more_frequent(
    tmp_path: Path, tiny_llm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model never writes the true form, so the toy reward is something that it does now and then.
    def begins_with_a_capital(completion: Completion, title: str, format_weight: float) -> float:
        return float(completion.reasoning[:1].isupper())

    monkeypatch.setattr(cot_rl_policy, "text_reward", begins_with_a_capital)
    codec = TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())
    writer = TitleWriter(AutoModelForCausalLM.from_pretrained(tiny_llm_folder, dtype=torch.float32))
    settings = CotRlSettings(
        max_rows=8, batch_size=8, micro_batch_size=8, samples=8, epochs=20, max_new_tokens=1, learning_rate=1e-2,
        beta=0, warmup_steps=0, schedule="constant_with_warmup",
    )  # fmt: skip
    log: list[dict[str, Any]] = []
    ctx = context(tmp_path, tiny_llm_folder, lambda record: log.append(dict(record)))
    reinforce_reasoning(writer, codec, tiny_split().train, settings, tmp_path / "rl", ctx)
    rewards = [record["reward"] for record in log if "reward" in record]
    assert rewards[0] < 0.2
    assert np.mean(rewards[-3:]) > 0.8
