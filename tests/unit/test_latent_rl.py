"""The stage of LR-GRPO on a tiny model: what trains, short memory, bad losses, resuming, and what it logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from latent.attention import LatentAttention
from latent.config import LatentR3Config
from latent.method import LatentR3
from latent.policy import LatentPolicy
from latent.reasoner import LatentWriter
from latent.rl import check_processes, reinforce
from latent.rl_config import RlSettings
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError, DataError, TrainingError
from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.train import StageResult
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split

VALUES = {
    "samples": 3, "batch_size": 8, "micro_batch_size": 4, "max_rows": 25, "learning_rate": 1e-2, "warmup_steps": 0,
    "checkpoint_steps": 2, "log_steps": 1,
}  # fmt: skip


def run(
    llm: Path, folder: Path, log: list[dict[str, Any]] | None = None, **changes: Any
) -> tuple[LatentWriter, StageResult]:
    sink = (lambda record: None) if log is None else (lambda record: log.append(dict(record)))
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder, folder, log=sink)
    lm = AutoModelForCausalLM.from_pretrained(llm)
    writer = LatentWriter(lm, LatentAttention(lm.config.hidden_size, init_std=0.3))
    codec = TitleCodec(AutoTokenizer.from_pretrained(llm), ctx.catalog)
    settings = RlSettings(**{**VALUES, **changes})
    return writer, reinforce(writer, codec, tiny_split().train, settings, folder / "rl", ctx)


def weights(writer: LatentWriter) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in writer.named_parameters()}


def assert_same(ours: LatentWriter, theirs: LatentWriter, exactly: bool) -> None:
    for name, weight in weights(theirs).items():
        if exactly:
            assert torch.equal(weights(ours)[name], weight), name
        else:
            torch.testing.assert_close(weights(ours)[name], weight, atol=1e-5, rtol=1e-4, msg=name)


def test_every_step_tells_what_the_curves_show(tiny_llm_folder: Path, tmp_path: Path) -> None:
    log: list[dict[str, Any]] = []
    _, result = run(tiny_llm_folder, tmp_path, log, beta=0.1)
    log = [record for record in log if "loss" in record]
    assert result.steps == len(log) == 3, "an incomplete last step is left out"
    for record in log:
        assert record["reward_perturbed"] < -1 > record["reward_unperturbed"]
        assert record["log_perplexity_perturbed"] > 0 < record["log_perplexity_unperturbed"]
        assert record["noise_norm"] == pytest.approx(1.5 * 32**0.5, rel=0.2)
        assert 0 < record["advantage_spread"] <= 2**0.5
        assert record["thought_norm"] > 0 < record["grad_norm"]
        assert record["tokens_per_s"] > 0 <= record["padding"] < 0.5
        assert record["kl"] >= 0 == record["clip_fraction"]
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert log[-1]["kl"] > 0
    assert 0 <= result.padding < 0.5


@pytest.mark.parametrize("trains", ["latent_ratt", "model"])
def test_only_what_is_to_train_moves(tiny_llm_folder: Path, tmp_path: Path, trains: str) -> None:
    writer, result = run(tiny_llm_folder, tmp_path, trains=trains, max_rows=8)
    start, _ = run(tiny_llm_folder, tmp_path / "none", trains=trains, max_rows=8, learning_rate=1e-30)
    moved = {name for name, weight in weights(writer).items() if not torch.equal(weight, weights(start)[name])}
    assert any(name.startswith("attention.") for name in moved)
    assert any(name.startswith("lm.") for name in moved) == (trains == "model")
    assert (result.trainable_parameters == 3 * (32**2 + 32)) == (trains == "latent_ratt")
    assert all(parameter.requires_grad for parameter in writer.parameters())


@pytest.mark.parametrize("changes", [{}, {"adv_groups": "batch", "num_iterations": 2, "beta": 0.1}])
def test_short_memory_cuts_the_prompts_of_a_pass_and_changes_nothing(
    tiny_llm_folder: Path, tmp_path: Path, monkeypatch, caplog, changes: dict[str, Any]
) -> None:
    """With one prompt per pass no pass has its baseline's other prompts any more."""
    roomy, expected = run(tiny_llm_folder, tmp_path / "roomy", **changes)
    forward = LatentPolicy.forward

    def narrow(self: LatentPolicy, **batch: Tensor) -> dict[str, Tensor]:
        if len(batch["example_id"]) > 1 and self.step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.")
        return forward(self, **batch)

    monkeypatch.setattr(LatentPolicy, "forward", narrow)
    writer, result = run(tiny_llm_folder, tmp_path / "narrow", **changes)
    assert (expected.rows_per_pass, result.rows_per_pass) == (4, 1)
    assert result.steps == expected.steps
    assert "1 rows in a forward pass instead of 4. An optimizer step still has 8 rows" in caplog.text
    assert_same(writer, roomy, exactly=False)


def test_resuming_inside_the_stage_changes_nothing(tiny_llm_folder: Path, tmp_path: Path, monkeypatch) -> None:
    changes = {"adv_groups": "batch", "num_iterations": 2, "beta": 0.1, "samples": 4}
    quiet, expected = run(tiny_llm_folder, tmp_path / "quiet", **changes)
    forward = LatentPolicy.forward

    def dying(self: LatentPolicy, **batch: Tensor) -> dict[str, Tensor]:
        if self.step >= 3:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(LatentPolicy, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llm_folder, tmp_path / "killed", **changes)
    monkeypatch.setattr(LatentPolicy, "forward", forward)
    log: list[dict[str, Any]] = []
    writer, result = run(tiny_llm_folder, tmp_path / "killed", log, **changes)
    assert min(record["step"] for record in log) == 3, "the rollout of steps 3 and 4 is made again"
    assert result == expected
    assert_same(writer, quiet, exactly=True)


def test_perplexities_beyond_all_numbers_stop_the_stage_and_say_what_to_change(
    tiny_llm_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(LatentWriter, "logits", lambda self, hidden: TitleWriter.logits(self, hidden) * 1e5)
    with pytest.raises(TrainingError, match=r"rl stage's loss is not finite at step 1: nan(.|\n)*Lower the learning"):
        run(tiny_llm_folder, tmp_path)


def test_a_loss_that_explodes_later_leaves_the_last_good_weights(
    tiny_llm_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    forward = LatentPolicy.forward
    monkeypatch.setattr(
        LatentPolicy, "forward", lambda self, **b: {"loss": forward(self, **b)["loss"] + (self.step == 2) * 1e6}
    )
    with pytest.raises(TrainingError, match=r"above 100, far too large, at step 3(.|\n)*kept in \S*checkpoint-2"):
        run(tiny_llm_folder, tmp_path)
    assert (tmp_path / "rl" / "checkpoint-2" / "trainable.safetensors").exists()


def test_a_batch_of_few_rows_is_one_scope(tiny_llm_folder: Path, tmp_path: Path) -> None:
    assert run(tiny_llm_folder, tmp_path, max_rows=5, adv_groups="batch")[1].steps == 1
    with pytest.raises(DataError, match="adv_groups = 8"):
        run(tiny_llm_folder, tmp_path, max_rows=5, adv_groups=8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adv_groups": 5}, "batch_size 32 is no multiple of adv_groups 5"),
        ({"num_iterations": 3}, "checkpoint_steps 200 is no multiple of num_iterations 3"),
        ({"adv_groups": "all"}, "adv_groups"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(RlSettings, values, "rl")


@pytest.mark.parametrize(("processes", "fits"), [(1, True), (2, True), (4, True), (8, False)])
def test_processes_that_cannot_share_a_step_are_refused_at_once(
    monkeypatch, tmp_path: Path, processes: int, fits: bool
) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: processes)
    if fits:
        check_processes(RlSettings())
        return
    message = "batch_size 32 does not divide into 8 processes with micro_batch_size 8"
    with pytest.raises(ConfigError, match=message):
        check_processes(RlSettings())
    with pytest.raises(ConfigError, match=message):
        # Without a backbone nothing could be trained: it does not come that far.
        LatentR3(LatentR3Config()).fit(
            tiny_split().train, tiny_split().valid, RunContext(tiny_catalog(), 3, "cpu", tmp_path, tmp_path)
        )


def test_the_policy_of_thoughts_finds_better_ones(tiny_llm_folder: Path, tmp_path: Path) -> None:
    log: list[dict[str, Any]] = []
    thoughts = {"policy": "thought", "advantage": "group", "sigma": 0.2, "samples": 8}
    run(tiny_llm_folder, tmp_path, log, max_rows=8, epochs=12, **thoughts)
    found = [record["log_perplexity_unperturbed"] for record in log if "loss" in record]
    assert len(found) == 12
    assert found[-1] < found[0] - 0.03, "on the very prompts that it learns from"


@pytest.mark.parametrize("changes", [{"beta": 0.1}, {"num_iterations": 2}])
def test_the_policy_of_thoughts_refuses_what_it_has_no_form_of(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="policy=thought has no KL"):
        build_config(RlSettings, {"policy": "thought", **changes}, "stage 2")
    with pytest.raises(ConfigError, match="written answers more or less likely"):
        build_config(LatentR3Config, {"rl": {"policy": "thought", "reward": "match", "advantage": "group"}}, "latentr3")
