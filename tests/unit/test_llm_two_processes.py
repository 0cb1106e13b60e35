"""Fine-tuning on two processes takes the steps of one process with the same global batch."""

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
from helpers_two_processes import main as fine_tune_here
from safetensors.torch import load_file

from recbench.llm.sft import SftSettings

HELPER = Path(__file__).parents[1] / "helpers_two_processes.py"
# 70 rows: 4 steps of 16 rows and one of 6, which has an incomplete micro-batch and none for the second process.
SETTINGS = SftSettings(
    epochs=2, learning_rate=3e-3, batch_size=16, micro_batch_size=8, warmup_steps=2, max_rows=70, eval_rows=21,
    log_steps=1, checkpoint_steps=4, patience=None,
)  # fmt: skip


def launch(backbone: Path, folder: Path, settings: str) -> None:
    """Start two processes over gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, str(HELPER), str(backbone), str(folder), settings],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path, process: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    document = json.loads((folder / f"{process}.json").read_text())
    return load_file(folder / f"{process}.safetensors"), document["log"], document["result"]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path, tiny_llm_folder: Path) -> None:
    settings = SETTINGS.model_dump_json()
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    fine_tune_here(tiny_llm_folder, one, settings)
    launch(tiny_llm_folder, two, settings)
    weights, log, result = read(one, 0)
    for process in (0, 1):
        theirs, _, their_result = read(two, process)
        for name, weight in weights.items():
            torch.testing.assert_close(theirs[name], weight, atol=1e-5, rtol=1e-5, msg=name)
        assert their_result.pop("best_loss") == pytest.approx(result["best_loss"], rel=1e-5)
        assert their_result == {key: value for key, value in result.items() if key != "best_loss"}
    _, their_log, _ = read(two, 0)
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        curve, their_curve = ([(r["step"], r[key]) for r in records if key in r] for records in (log, their_log))
        assert len(curve) == (2 if key == "eval_loss" else 10)
        np.testing.assert_allclose(their_curve, curve, rtol=1e-5)
    assert read(two, 1)[1] == []
