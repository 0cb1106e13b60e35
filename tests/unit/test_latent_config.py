"""LatentR3's configuration: what is refused, and which runs share one fit."""

from __future__ import annotations

from typing import Any

import pytest

from baselines.llm.bigrec import BigRec
from baselines.llm.tuned import TunedConfig
from latent.config import LatentR3Config
from latent.method import LatentR3
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.methods.listing import describe_method

SFT_ALONE = {"rl": {"enabled": False}}


def config(**values: Any) -> LatentR3Config:
    return build_config(LatentR3Config, values, "method 'latentr3'")


def identity(**values: Any) -> dict[str, Any]:
    return LatentR3(config(**values)).fit_identity()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thoughts": 0}, r"thoughts=0 leaves nothing for stage 2 to train: set rl\.enabled=false"),
        ({"thoughts": 0, "window": 3, **SFT_ALONE}, "no thoughts for window to be about"),
        ({"thoughts": 0, "thought_at_inference": "zero", **SFT_ALONE}, "for thought_at_inference to be about"),
        ({"thoughts": 0, "reasoner": "last_hidden", **SFT_ALONE}, "for reasoner to be about"),
        ({"reasoner": "last_hidden"}, r"no LatentRATT for stage 2 .* rl\.trains=model"),
        ({"reasoner": "last_hidden", "window": 2, **SFT_ALONE}, "window is LatentRATT's"),
        ({"start_from": {}}, r"start_from\.thoughts 1 must be fewer than thoughts 1"),
        ({"thoughts": 2, "start_from": {}, **SFT_ALONE}, r"reinforcement learning alone: set rl\.enabled=true"),
        (
            {"thoughts": 2, "reasoner": "last_hidden", "rl": {"trains": "model"}, "start_from": {"rl": {}}},
            "start_from: reasoner=last_hidden has no LatentRATT",
        ),
        ({"rl": {"reward": "match"}}, r"rl: reward=match .* set advantage=group"),
        ({"rl": {"temperature": 0.5}}, r"rl: temperature is that of written answers: set reward=match"),
        ({"rl": {"advantage": "group", "adv_groups": 4}}, "rl: advantage=group leaves adv_groups no meaning"),
        ({"thoughts": -1}, "thoughts"),
        ({"hidden": "middle"}, "hidden"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_what_to_do(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_a_configuration_survives_its_own_json() -> None:
    for values in (
        {"thoughts": 2, "start_from": {"thoughts": 1, "rl": {"sigma": 0.5}}},
        {"reasoner": "last_hidden", "rl": {"trains": "model"}},
        {"thoughts": 0, **SFT_ALONE},
        {"flavour": "d3", "rl": {"reward": "match", "advantage": "group", "temperature": 0.5}},
        {"rl": {"adv_groups": "batch"}},
    ):
        built = config(**values)
        assert config(**built.model_dump(mode="json")) == built


def test_what_ranking_alone_reads_is_no_part_of_the_fit() -> None:
    assert identity() == identity(flavour="d3") == identity(decoding={"mode": "grounding"})
    for thought in ("masked", "absent", "zero", "token_embedding"):
        assert identity(thought_at_inference=thought) == identity()
    by_lists = {"sft": {"select": "ndcg"}}
    assert identity(**by_lists) != identity(**by_lists, flavour="d3")


@pytest.mark.parametrize(
    "values",
    [
        {"thoughts": 2},
        {"thoughts": 2, "start_from": {}},
        {"thoughts": 2, "start_from": {"rl": {"sigma": 0.5}}},
        {"reasoner": "last_hidden", "rl": {"trains": "model"}},
        {"hidden": "before_norm"},
        {"window": 4},
        {"rl": {"sigma": 0.5}},
        {"rl": {"enabled": False}},
        {"sft": {"lora": {}}},
        {"thoughts": 0, **SFT_ALONE},
    ],
)
def test_every_other_setting_is_another_fit(values: dict[str, Any]) -> None:
    assert identity(**values) != identity()


def test_settings_of_a_stage_that_is_left_out_do_not_matter() -> None:
    assert identity(**SFT_ALONE) == identity(rl={"enabled": False, "sigma": 0.1, "samples": 4})


def test_without_thoughts_the_fit_is_bigrec_s() -> None:
    for sft in ({}, {"epochs": 1, "learning_rate": 1e-3}, {"select": "ndcg"}):
        bigrec = BigRec(build_config(TunedConfig, {"sft": sft}, "x")).fit_identity()
        assert identity(thoughts=0, sft=sft, **SFT_ALONE) == bigrec
    assert LatentR3.capabilities.packages == BigRec.capabilities.packages


def test_every_variant_of_stage_two_begins_with_the_same_stage_one() -> None:
    start = LatentR3(config()).starts_from()
    assert start is not None
    assert start.starts_from() is None
    assert start.fit_identity() == identity(**SFT_ALONE)
    for rl in ({"sigma": 0.1}, {"advantage": "group"}, {"reward": "match", "advantage": "group", "trains": "model"}):
        other = LatentR3(config(rl=rl)).starts_from()
        assert other is not None
        assert other.fit_identity() == start.fit_identity()


def test_two_thoughts_begin_with_the_trained_model_with_one() -> None:
    two = LatentR3(config(thoughts=2, start_from={}))
    one = two.starts_from()
    assert one is not None
    assert one.fit_identity() == identity()
    gentle = LatentR3(config(thoughts=2, start_from={"rl": {"sigma": 0.1}})).starts_from()
    assert gentle is not None
    assert gentle.fit_identity() == identity(rl={"sigma": 0.1})
    scratch = LatentR3(config(thoughts=2)).starts_from()
    assert scratch is not None
    assert scratch.fit_identity() == identity(thoughts=2, **SFT_ALONE)


def test_every_setting_is_shown_with_its_meaning() -> None:
    fields = {field["key"]: field for field in describe_method("latentr3")["config"]}
    assert all(field["description"] for field in fields.values())
    for key in ("thought_at_inference", "start_from", "start_from.thoughts", "sft.lora", "sft.lora.rank", "rl.reward"):
        assert key in fields
    # Groups that may be left out stay closed inside such groups.
    assert "start_from.rl" in fields
    assert "start_from.rl.sigma" not in fields
