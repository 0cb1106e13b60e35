"""Training on two processes takes the steps of one process with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_two_processes import main as train_here
from safetensors.torch import load_file

from latent.rl_config import RlSettings
from recbench.llm.sft import SftSettings

HELPER = Path(__file__).parents[1] / "helpers_two_processes.py"
# 70 rows: 4 steps of 16 rows and one of 6, which has an incomplete micro-batch and none for the second process.
SFT = SftSettings(
    epochs=2, learning_rate=3e-3, batch_size=16, micro_batch_size=8, warmup_steps=2, max_rows=70, eval_rows=21,
    log_steps=1, checkpoint_steps=4, patience=None,
)  # fmt: skip
# Every step's 8 prompts share one baseline, and each process has two micro-batches of two of them.
RL = RlSettings(
    samples=4, sigma=0.5, adv_groups="batch", beta=0.1, num_iterations=2, learning_rate=1e-2, batch_size=8,
    micro_batch_size=2, warmup_steps=2, max_rows=35, log_steps=1, checkpoint_steps=2,
)  # fmt: skip


def launch(backbone: Path, folder: Path, *arguments: str) -> None:
    """Start two processes over gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, str(HELPER), str(backbone), str(folder), *arguments],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path, process: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], list[dict[str, Any]]]:
    document = json.loads((folder / f"{process}.json").read_text())
    return load_file(folder / f"{process}.safetensors"), document["log"], document["results"]


CURVES = {
    "sft": {"loss": 10, "grad_norm": 10, "learning_rate": 10, "eval_loss": 2},
    "rl": {
        "loss": 8, "grad_norm": 8, "learning_rate": 8, "kl": 8, "clip_fraction": 8, "advantage_spread": 4,
        "reward_unperturbed": 4, "reward_perturbed": 4, "thought_norm": 4, "noise_norm": 4,
    },
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path, tiny_llm_folder: Path) -> None:
    settings = (SFT.model_dump_json(), RL.model_dump_json())
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    train_here(tiny_llm_folder, one, *settings)
    launch(tiny_llm_folder, two, *settings)
    weights, log, results = read(one, 0)
    for process in (0, 1):
        theirs, _, their_results = read(two, process)
        for name, weight in weights.items():
            torch.testing.assert_close(theirs[name], weight, atol=1e-5, rtol=1e-5, msg=name)
        assert their_results[0].pop("best_loss") == pytest.approx(results[0]["best_loss"], rel=1e-5)
        assert their_results == [{key: r[key] for key in t} for r, t in zip(results, their_results, strict=True)]
    _, their_log, _ = read(two, 0)
    for stage, counts in CURVES.items():
        for key, count in counts.items():
            curve, their_curve = (
                [(r["step"], r[key]) for r in lines if r["stage"] == stage and key in r] for lines in (log, their_log)
            )
            assert len(curve) == count, key
            np.testing.assert_allclose(their_curve, curve, rtol=1e-5, atol=1e-6, err_msg=f"{stage} {key}")
    assert read(two, 1)[1] == []
