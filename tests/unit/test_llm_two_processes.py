"""Training on two processes takes the steps of one process with the same global batch, with whole or shared weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_two_processes import FSDP
from helpers_two_processes import main as train_here
from safetensors.torch import load_file

HELPER = Path(__file__).parents[1] / "helpers_two_processes.py"
# 70 rows: 4 steps of 16 rows and one of 6, which has an incomplete micro-batch and none for the second process.
SFT = {
    "epochs": 2, "learning_rate": 3e-3, "batch_size": 16, "micro_batch_size": 8, "warmup_steps": 2, "max_rows": 70,
    "eval_rows": 21, "log_steps": 1, "checkpoint_steps": 4, "patience": None,
}  # fmt: skip
# Every step's 8 prompts share one baseline, and each process has two micro-batches of two of them.
RL = {
    "samples": 4, "sigma": 0.5, "adv_groups": "batch", "beta": 0.1, "num_iterations": 2, "learning_rate": 1e-2,
    "batch_size": 8, "micro_batch_size": 2, "warmup_steps": 2, "max_rows": 35, "log_steps": 1, "checkpoint_steps": 2,
}  # fmt: skip
BOTH = {"sft": SFT, "rl": RL}
# Under FSDP, what reaches the layers in other ways too: prompts that leave nothing but keys and values, two
# micro-batches per process, a process that decodes alone, prompts with gradients, layers that are partly frozen,
# sampling of texts, and stages that go on from a checkpoint. Where many weights have next to no gradient, Adam makes
# steps of rounding errors, as long as its learning rate: it is small there.
SHARED = {
    "both": BOTH,
    "plain": {"sft": {**SFT, "micro_batch_size": 4, "select": "ndcg", "select_rows": 20}, "plain": True, "kill": 7},
    "model": {"sft": SFT, "rl": {**RL, "trains": "model", "learning_rate": 3e-4}, "thoughts": 2, "kill": 14},
    "match": {
        "sft": {**SFT, "epochs": 1},
        # Drawn almost evenly, so that some of the titles are the true ones.
        "rl": {
            **RL, "reward": "match", "advantage": "group", "adv_groups": 2, "beta": 0, "samples": 16, "temperature": 3,
            "learning_rate": 1e-3, "max_rows": 16,
        },
    },
    "lora": {"sft": {**SFT, "epochs": 1, "lora": {"rank": 2, "dropout": 0}}},
}  # fmt: skip


def launch(backbone: Path, folder: Path, plans: dict[str, Any], **environment: str) -> None:
    """Start two processes over gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [*command, str(HELPER), str(backbone), str(folder), json.dumps(plans)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path, name: str, process: int = 0) -> tuple[dict[str, torch.Tensor], list[dict], list[dict]]:
    document = json.loads((folder / f"{name}-{process}.json").read_text())
    return load_file(folder / f"{name}-{process}.safetensors"), document["log"], document["results"]


CURVES = {
    "sft": {"loss": 10, "grad_norm": 10, "learning_rate": 10, "eval_loss": 2},
    "rl": {
        "loss": 8, "grad_norm": 8, "learning_rate": 8, "kl": 8, "clip_fraction": 8, "advantage_spread": 4,
        "reward_unperturbed": 4, "reward_perturbed": 4, "thought_norm": 4, "noise_norm": 4,
    },
}  # fmt: skip


def check_equal(one: Path, two: Path, name: str, held: float) -> None:
    """Compare what both processes ended with with what one did; ``held`` is the share of the weights in each."""
    weights, _, results = read(one, name)
    assert [result.pop("held") for result in results] == [[1.0]] * len(results)
    for process in (0, 1):
        theirs, _, their_results = read(two, name, process)
        assert [result.pop("held") for result in their_results] == [[held]] * len(results)
        for key, weight in weights.items():
            torch.testing.assert_close(theirs[key], weight, atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
        assert their_results[0].pop("best_loss") == pytest.approx(results[0]["best_loss"], rel=1e-5)
        assert their_results == [{key: r[key] for key in t} for r, t in zip(results, their_results, strict=True)]
    assert read(two, name, 1)[1] == []


def check_curves(one: Path, two: Path, name: str) -> None:
    """Compare all lines of ``train.jsonl``."""
    log, their_log = read(one, name)[1], read(two, name)[1]
    for stage, counts in CURVES.items():
        for key, count in counts.items():
            curve, their_curve = (
                [(r["step"], r[key]) for r in lines if r["stage"] == stage and key in r] for lines in (log, their_log)
            )
            assert len(curve) == count, key
            np.testing.assert_allclose(their_curve, curve, rtol=1e-5, atol=1e-6, err_msg=f"{stage} {key}")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return folders for one process and for two."""
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(folders: tuple[Path, Path], tiny_llm_folder: Path) -> None:
    one, two = folders
    train_here(tiny_llm_folder, one, json.dumps({"both": BOTH}))
    launch(tiny_llm_folder, two, {"both": BOTH})
    check_equal(one, two, "both", held=1.0)
    check_curves(one, two, "both")


@pytest.mark.slow
def test_two_processes_that_share_the_weights_take_the_steps_of_one(
    folders: tuple[Path, Path], tiny_llm_folder: Path
) -> None:
    one, two = folders
    undisturbed = {name: {key: plan[key] for key in plan if key != "kill"} for name, plan in SHARED.items()}
    train_here(tiny_llm_folder, one, json.dumps(undisturbed))
    launch(tiny_llm_folder, two, SHARED, **FSDP)
    for name in SHARED:
        check_equal(one, two, name, held=0.5)
    check_curves(one, two, "both")
    assert min(r["zero_variance_rate"] for r in read(one, "match")[1] if "zero_variance_rate" in r) < 1
    # One process goes on from a checkpoint of two that share the weights.
    alone = two.with_name("alone")
    shutil.copytree(two / "plain", alone / "plain")
    shutil.rmtree(alone / "plain" / "sft" / "checkpoint-10")
    train_here(tiny_llm_folder, alone, json.dumps({"plain": undisturbed["plain"]}))
    weights, log, _ = read(alone, "plain")
    assert min(record["step"] for record in log) == 9
    for key, weight in read(one, "plain")[0].items():
        torch.testing.assert_close(weights[key], weight, atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
