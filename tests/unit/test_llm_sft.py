"""Fine-tuning of a title writer: adapters from end to end, and the best epoch by decoded validation lists."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbench.contracts.errors import ConfigError, TrainingError
from recbench.contracts.gain import mean_ndcg
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm import select
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.lora import LoraSettings
from recbench.llm.sft import SftObjective, SftSettings, fine_tune
from recbench.llm.train import StageResult
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split

SETTINGS = SftSettings(
    epochs=2, learning_rate=5e-3, batch_size=16, micro_batch_size=8, warmup_steps=1, max_rows=48, eval_rows=16,
    checkpoint_steps=2, log_steps=1,
)  # fmt: skip
LORA = SETTINGS.model_copy(update={"lora": LoraSettings(rank=4)})
DECODING = DecodingConfig(beams=4)


def tuned(
    llm: Path, folder: Path, settings: SftSettings, decoding: DecodingConfig | None = DECODING, log: list | None = None
) -> tuple[TitleWriter, StageResult]:
    sink = (lambda record: None) if log is None else (lambda record: log.append(dict(record)))
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder, folder, log=sink)
    writer = TitleWriter(AutoModelForCausalLM.from_pretrained(llm))
    codec = TitleCodec(AutoTokenizer.from_pretrained(llm), ctx.catalog)
    split = tiny_split()
    return writer, fine_tune(writer, codec, split.train, split.valid, settings, folder / "sft", ctx, decoding)


@pytest.fixture(scope="module")
def with_lora(tmp_path_factory, tiny_llm_folder: Path) -> tuple[TitleWriter, StageResult, Path, list[dict[str, Any]]]:
    folder, log = tmp_path_factory.mktemp("lora"), []
    return *tuned(tiny_llm_folder, folder, LORA, log=log), folder, log


def test_adapters_learn_and_the_rest_stays(with_lora, tiny_llm_folder: Path) -> None:
    writer, result, _, log = with_lora
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < losses[0] - 0.1
    start = AutoModelForCausalLM.from_pretrained(tiny_llm_folder)
    assert result.trainable_parameters < sum(w.numel() for w in start.parameters()) / 3
    for name, weight in writer.lm.named_parameters():
        assert torch.equal(weight, start.get_parameter(name)) == (not name.endswith("proj.weight")), name


def test_checkpoints_hold_adapters_only(with_lora) -> None:
    _, result, folder, _ = with_lora
    stored = load_file(folder / "sft" / f"checkpoint-{result.steps}" / "trainable.safetensors")
    assert all("lora_" in name for name in stored)
    assert sum(weight.numel() for weight in stored.values()) == result.trainable_parameters


def test_an_interruption_in_the_middle_of_lora_changes_nothing(
    with_lora, tmp_path: Path, tiny_llm_folder: Path, monkeypatch
) -> None:
    writer, result, _, _ = with_lora
    forward = SftObjective.forward

    def dying(self, **batch):
        if self.training and self.step >= 3:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(SftObjective, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        tuned(tiny_llm_folder, tmp_path, LORA)
    monkeypatch.setattr(SftObjective, "forward", forward)
    log: list[dict[str, Any]] = []
    resumed, again = tuned(tiny_llm_folder, tmp_path, LORA, log=log)
    assert min(record["step"] for record in log) == 3
    assert again == result
    # Dropout is on: its draws go on where they stopped.
    for name, weight in resumed.lm.named_parameters():
        assert torch.equal(weight, writer.lm.get_parameter(name)), name


def test_the_validation_loss_is_the_mean_over_answer_tokens_whatever_the_batches(
    tiny_llm_folder: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    losses = [
        tuned(tiny_llm_folder, tmp_path / str(size), settings.model_copy(update={"micro_batch_size": size}))[
            1
        ].best_loss
        for size in (16, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_best_epoch_by_decoding_is_that_of_the_lists_on_validation_rows(
    tiny_llm_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[set[int]] = []
    values: list[float] = []

    def remember(writer: TitleWriter, codec: TitleCodec, queries: Any, *arguments: Any, **options: Any) -> Rankings:
        seen.append(set(queries.example_id.tolist()))
        lists = rank_titles(writer, codec, queries, *arguments, **options)
        target = {int(e): int(t) for e, t in zip(tiny_split().valid.example_id, tiny_split().valid.target, strict=True)}
        values.append(mean_ndcg(lists, np.array([target[int(e)] for e in queries.example_id])))
        return lists

    monkeypatch.setattr(select, "rank_titles", remember)
    log: list[dict[str, Any]] = []
    settings = SETTINGS.model_copy(update={"select": "ndcg", "select_rows": 20, "patience": None, "epochs": 3})
    _, result = tuned(tiny_llm_folder, tmp_path, settings, log=log)
    logged = [(record["step"], record["valid/NDCG@10"]) for record in log if "eval_loss" in record]
    assert [value for _, value in logged] == values
    assert len(values) == 3
    assert result.best_ndcg == max(values) == values[result.best_step // 3 - 1]
    split = tiny_split()
    for rows in seen:
        assert rows == seen[0]
        assert len(rows) == 20
        assert rows <= set(split.valid.example_id.tolist())
    assert not list((tmp_path / "sft" / "select").iterdir()), "shards of other weights must not be found again"


def test_choosing_by_lists_needs_to_know_how_they_are_made(tiny_llm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="select=ndcg"):
        tuned(tiny_llm_folder, tmp_path, SETTINGS.model_copy(update={"select": "ndcg"}), decoding=None)


def test_checkpoints_of_other_adapters_are_refused(with_lora, tmp_path: Path, tiny_llm_folder: Path) -> None:
    shutil.copytree(with_lora[2] / "sft", tmp_path / "sft")
    with pytest.raises(TrainingError, match="another model"):
        tuned(tiny_llm_folder, tmp_path, SETTINGS)
