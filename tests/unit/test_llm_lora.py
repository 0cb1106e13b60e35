"""Low-rank adapters: what they train, what they leave alone, and that merging changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.llm.lora import LoraSettings, add_lora, merge_lora, without_lora
from recbench.llm.train import isolated_randomness

LAYERS, HIDDEN = 2, 32


@pytest.fixture
def lm(tiny_llm_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_llm_folder).eval()


def logits(lm: PreTrainedModel) -> torch.Tensor:
    return lm(input_ids=torch.arange(24).view(2, 12)).logits.detach()


def disturb(lm: PreTrainedModel) -> None:
    """Give the adapters weights that change something (a fresh B is zero)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in lm.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.1, generator=generator)


def plain_weights(lm: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {
        name.replace(".base_layer", ""): weight.detach().clone()
        for name, weight in lm.named_parameters()
        if "lora_" not in name
    }


def test_fresh_adapters_change_no_output_and_only_they_train(lm: PreTrainedModel) -> None:
    before, weights = logits(lm), plain_weights(lm)
    add_lora(lm, LoraSettings(rank=4, targets=("q_proj", "v_proj")))
    torch.testing.assert_close(logits(lm), before)
    trained = {name: weight for name, weight in lm.named_parameters() if weight.requires_grad}
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    inputs_and_outputs = sum(
        HIDDEN + weights[f"model.layers.0.self_attn.{p}.weight"].shape[0] for p in ("q_proj", "v_proj")
    )
    assert sum(weight.numel() for weight in trained.values()) == LAYERS * 4 * inputs_and_outputs
    for name, weight in plain_weights(lm).items():
        assert torch.equal(weight, weights[name])


def test_merged_logits_are_the_adapted_ones_and_the_model_is_plain_again(lm: PreTrainedModel) -> None:
    before, names = logits(lm), [name for name, _ in lm.named_parameters()]
    adapted = add_lora(lm, LoraSettings())
    disturb(lm)
    expected = logits(lm)
    assert (expected - before).abs().max() > 0.01
    merge_lora(adapted)
    torch.testing.assert_close(logits(lm), expected, atol=1e-5, rtol=0)
    assert [name for name, _ in lm.named_parameters()] == names
    assert all(weight.requires_grad for weight in lm.parameters())
    assert not hasattr(lm, "peft_config")


def test_without_adapters_it_is_the_model_before(lm: PreTrainedModel) -> None:
    before = logits(lm)
    adapted = add_lora(lm, LoraSettings())
    disturb(lm)
    expected = logits(lm)
    with without_lora(adapted):
        torch.testing.assert_close(logits(lm), before, atol=0, rtol=0)
    torch.testing.assert_close(logits(lm), expected, atol=0, rtol=0)


def test_adapters_of_a_bfloat16_model_are_float32(lm: PreTrainedModel) -> None:
    lm.to(torch.bfloat16)
    adapted = add_lora(lm, LoraSettings())
    disturb(lm)
    assert {weight.dtype for weight in lm.parameters() if weight.requires_grad} == {torch.float32}
    expected = logits(lm)
    merge_lora(adapted)
    assert {weight.dtype for weight in lm.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(lm), expected, atol=0.1, rtol=0.1)


def test_first_weights_follow_the_seed(tiny_llm_folder: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        lm = AutoModelForCausalLM.from_pretrained(tiny_llm_folder)
        with isolated_randomness(seed):
            add_lora(lm, LoraSettings())
        drawn.append(torch.cat([w.flatten() for n, w in lm.named_parameters() if "lora_A" in n]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_published_bigrec_setting_can_be_said() -> None:
    values = {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}
    settings = build_config(LoraSettings, values, "lora")
    assert settings.targets == ("q_proj", "v_proj")
    assert LoraSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize("targets", [("q_porj",), ("lm_head",), ("embed_tokens",), ()])
def test_a_target_that_cannot_be_adapted_is_named_with_those_that_can(lm: PreTrainedModel, targets) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets(.|\n)*down_proj.*v_proj"):
        add_lora(lm, LoraSettings(targets=targets))
