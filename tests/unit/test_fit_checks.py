"""What cannot work is told before anything is trained: by the configuration, or as the first thing of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from recbench.contracts.errors import ConfigError
from recbench.contracts.method import BackboneSpec, Method, RunContext
from recbench.llm.backbone import backbone_outline
from recbench.methods.load import build_method
from recbench.methods.popularity import Popularity
from recbench.testing.tiny import tiny_catalog, tiny_split
from recbench.testing.tiny_llm import KINDS, Kind, make_tiny_llm

NO_SUCH_LAYER = {"targets": ["q_porj"]}


def context(folder: Path, backbone: str | Path) -> RunContext:
    return RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", BackboneSpec(name=str(backbone)))


def fit(method: Method, ctx: RunContext) -> None:
    method.fit(tiny_split().train, tiny_split().valid, ctx)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every way to train something, or to load weights for it, an error."""

    def too_late(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was trained or loaded first")

    monkeypatch.setattr("recbench.llm.backbone.preset_folder", too_late)
    monkeypatch.setattr("recbench.llm.backbone._load", too_late)
    monkeypatch.setattr(Popularity, "fit", too_late)


@pytest.mark.parametrize("backbone", ["nano", "folder"])
@pytest.mark.parametrize("name", ["base", "cot", "cot-rl", "bigrec", "d3", "latentr3"])
def test_a_chat_without_a_template(
    untouched: None, tmp_path: Path, tiny_llm_folder: Path, name: str, backbone: str
) -> None:
    ctx = context(tmp_path, "nano" if backbone == "nano" else tiny_llm_folder)
    with pytest.raises(ConfigError, match="no chat template"):
        fit(build_method(name, {"template": "chat"}), ctx)


@pytest.mark.parametrize("backbone", ["nano", "folder"])
@pytest.mark.parametrize(("name", "stage"), [("bigrec", "sft"), ("d3", "sft"), ("latentr3", "sft"), ("cot-rl", "rl")])
def test_layers_that_the_backbone_does_not_have(
    untouched: None, tmp_path: Path, tiny_llm_folder: Path, name: str, stage: str, backbone: str
) -> None:
    ctx = context(tmp_path, "nano" if backbone == "nano" else tiny_llm_folder)
    with pytest.raises(ConfigError, match=r"q_porj is no linear layer(.|\n)*q_proj"):
        fit(build_method(name, {stage: {"lora": NO_SUCH_LAYER}}), ctx)


@pytest.mark.parametrize("values", [{"template": "chat"}, {"sft": {"lora": NO_SUCH_LAYER}}])
def test_a_partner_is_not_fitted_for_nothing(
    untouched: None, tmp_path: Path, tiny_llm_folder: Path, values: dict[str, Any]
) -> None:
    method = build_method("d3", {**values, "ensemble": {"method": "popularity"}})
    with pytest.raises(ConfigError, match=r"chat template|linear layer"):
        fit(method, context(tmp_path, tiny_llm_folder))


@pytest.mark.parametrize("name", ["bigrec", "d3"])
def test_processes_that_cannot_share_a_batch(
    untouched: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llm_folder: Path, name: str
) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    with pytest.raises(ConfigError, match="does not divide into 3 processes"):
        fit(build_method(name, {"sft": {"batch_size": 16, "micro_batch_size": 8}}), context(tmp_path, tiny_llm_folder))


@pytest.mark.parametrize(
    ("name", "stage"),
    [("bigrec", "sft"), ("d3", "sft"), ("latentr3", "sft"), ("sasrec-latent", "sft"), ("cot-rl", "rl")],
)
def test_a_batch_that_no_process_can_cut_is_refused_by_the_configuration(name: str, stage: str) -> None:
    with pytest.raises(ConfigError, match=rf"{stage}: batch_size 10 is no multiple of micro_batch_size 4\."):
        build_method(name, {stage: {"batch_size": 10, "micro_batch_size": 4}})
    build_method(name, {stage: {"batch_size": 2, "micro_batch_size": 4}})  # as many as there are, in one pass


@pytest.mark.parametrize("name", ["cot", "cot-rl"])
def test_gamma_is_not_chosen_where_validation_rows_have_no_prompts(name: str) -> None:
    grounding = {"gamma": "validation"}
    with pytest.raises(ConfigError, match=r"gamma is 'validation', but .*: give gamma as a number"):
        build_method(name, {"decoding": {"mode": "grounding", "grounding": grounding}})
    build_method(name, {"decoding": {"mode": "grounding", "grounding": {"gamma": 0.5}}})
    build_method(name, {"decoding": {"grounding": grounding}})  # never read
    build_method("base", {"decoding": {"mode": "grounding", "grounding": grounding}})


@pytest.mark.parametrize("kind", KINDS)
def test_the_outline_of_a_backbone_is_the_backbone_without_weights(tmp_path: Path, kind: Kind) -> None:
    folder = make_tiny_llm(tmp_path / "llm", tiny_catalog().titles, kind=kind)
    outline = backbone_outline(context(tmp_path, folder))
    assert all(weight.is_meta for weight in outline.parameters())
    assert linear_layers(outline) == linear_layers(AutoModelForCausalLM.from_pretrained(folder))


def linear_layers(lm: PreTrainedModel) -> dict[str, tuple[int, int]]:
    found = {name: layer for name, layer in lm.named_modules() if isinstance(layer, nn.Linear)}
    return {name: (layer.in_features, layer.out_features) for name, layer in found.items()}
