"""Which model a name means, and the presets that are trained here."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recbench.contracts.dataset import title_key
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.llm import presets
from recbench.llm.backbone import open_backbone, reopen_backbone, resolve
from recbench.llm.presets import PRESETS, pack_sequences, preset_folder, preset_recipe, train_tokenizer
from recbench.testing.tiny import tiny_catalog, tiny_split


def context(folder: Path, backbone: str = "nano") -> RunContext:
    return RunContext(tiny_catalog(), 0, "cpu", folder / "work", folder, BackboneSpec(name=backbone))


@pytest.fixture
def small_nano(monkeypatch):
    """The nano preset in a size for tests."""
    small = PRESETS["nano"].model_copy(
        update={"width": 16, "inner": 16, "epochs": 1, "max_epochs": 1, "block": 32, "vocabulary": 300}
    )
    monkeypatch.setitem(presets.PRESETS, "nano", small)


def test_auto_without_cuda_is_nano_and_says_so(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        spec = resolve("auto", "cpu")
    assert (spec.name, spec.requested, spec.revision) == ("nano", "auto", preset_recipe("nano"))
    assert "no CUDA device" in caplog.text


def test_a_local_folder_is_known_by_its_content(tiny_llm_folder: Path, tmp_path: Path) -> None:
    spec = resolve(str(tiny_llm_folder), "cpu")
    assert spec == resolve(str(tiny_llm_folder), "cuda")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="safetensors"):
        resolve(str(tmp_path), "cpu")


@pytest.mark.parametrize("name", ["nanoo", "./missing", "a/b/c"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Unknown backbone"):
        resolve(name, "cpu")


def test_without_a_network_a_hub_model_is_a_data_error(monkeypatch) -> None:
    # A port that nothing listens on: the hub's client fails as it does without a network, in its own way.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"cannot be reached(.|\n)*--backbone nano"):
        resolve("nobody/nothing", "cpu")


def test_without_a_network_auto_on_a_gpu_falls_back_to_nano(monkeypatch, caplog) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert resolve("auto", "cuda").name == "nano"
    assert "cannot be reached" in caplog.text


def test_a_name_that_no_hub_model_can_have_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a hub model"):
        resolve("some body/nothing", "cpu")


def test_tokenizer_gives_back_every_title_and_knows_the_prompt() -> None:
    tokenizer = train_tokenizer(tiny_catalog(), 1024)
    for title in tiny_catalog().titles:
        assert tokenizer.decode(tokenizer(title_key(title))["input_ids"]) == title_key(title)
    assert len(tokenizer("### Instruction:")["input_ids"]) <= 4


def test_packed_sequences_hold_training_titles_in_order_and_nothing_else() -> None:
    catalog, split = tiny_catalog(), tiny_split()
    tokenizer = train_tokenizer(catalog, 512)
    blocks = pack_sequences(split.train, catalog, tokenizer, 64)
    assert {len(block) for block in blocks} == {64}
    text = tokenizer.decode(np.concatenate(blocks)).replace("\ufffd", "")
    first = split.train.user_sequences()[0]
    assert text.startswith(", ".join(f'"{title_key(catalog.titles[item])}"' for item in first if catalog.titles[item]))
    assert text.count('"\n<|endoftext|>') >= len(split.train.user_sequences())


def test_a_preset_is_trained_once_and_depends_on_training_rows_only(tmp_path, small_nano) -> None:
    ctx, split = context(tmp_path), tiny_split()
    folder = preset_folder("nano", split.train, ctx)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert preset_folder("nano", split.train, replace(ctx, seed=99)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    fewer: Examples = split.train.take(np.arange(len(split.train) - 1))
    assert preset_folder("nano", fewer, ctx) != folder
    backbone = open_backbone(split.train, ctx)
    assert backbone.model.config.hidden_size == 16
    assert backbone.tokenizer.eos_token == "<|endoftext|>"


def test_the_untuned_preset_of_a_fit_is_found_again_and_a_lost_one_is_a_data_error(tmp_path, small_nano) -> None:
    ctx, split = context(tmp_path), tiny_split()
    with pytest.raises(DataError, match="no longer in the cache"):
        reopen_backbone(split.train.fingerprint, ctx)
    first = open_backbone(split.train, ctx)
    again = reopen_backbone(split.train.fingerprint, ctx)
    assert again.sft_learning_rate == first.sft_learning_rate
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, first.model.get_parameter(name))


def test_several_processes_do_not_wait_for_each_other_to_pretrain(tmp_path, small_nano, monkeypatch) -> None:
    monkeypatch.setattr(presets.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(presets.dist, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"not pretrained(.|\n)*without torchrun"):
        preset_folder("nano", tiny_split().train, context(tmp_path))


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, 3), (4, 8), (1000, 15)])
def test_small_data_gets_more_epochs_up_to_a_limit(tmp_path, monkeypatch, batch_size: int, epochs: int) -> None:
    asked = []

    def remember(*arguments, **_):
        asked.append(arguments[5])
        raise KeyboardInterrupt

    ctx, split = context(tmp_path), tiny_split()
    # 60 blocks: 60, 15 and 1 steps per epoch.
    monkeypatch.setattr(presets, "pack_sequences", lambda *_: [np.zeros(4, np.int64)] * 60)
    monkeypatch.setitem(
        presets.PRESETS, "nano", PRESETS["nano"].model_copy(update={"batch_size": batch_size, "min_steps": 120})
    )
    monkeypatch.setattr(presets, "run_stage", remember)
    with pytest.raises(KeyboardInterrupt):
        preset_folder("nano", split.train, ctx)
    assert asked[0].epochs == epochs


def test_an_interrupted_preset_is_never_taken_for_whole(tmp_path, small_nano, monkeypatch) -> None:
    ctx, split = context(tmp_path), tiny_split()
    run_stage = presets.run_stage
    monkeypatch.setattr(presets, "run_stage", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        preset_folder("nano", split.train, ctx)
    assert not [path for path in (tmp_path / "backbones").iterdir() if (path / "config.json").exists()]
    monkeypatch.setattr(presets, "run_stage", run_stage)
    assert (preset_folder("nano", split.train, ctx) / "model.safetensors").exists()


def test_a_folder_that_holds_no_model_is_a_data_error(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be loaded"):
        open_backbone(tiny_split().train, context(tmp_path, str(tmp_path)))
