"""`torchrun -m recbench run`: all processes fit, the first one owns the run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers_plugins import PluginFolder
from helpers_run_commands import Here, manifest_of
from helpers_two_processes import FSDP

from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_catalog, tiny_dataset
from recbench.testing.tiny_llm import make_tiny_llm

#: The mean of one number per process: with two processes it can only come out right if both fit together.
TOGETHER = '''
import json
import os

import numpy as np
import torch
import torch.distributed as dist

from recbench.contracts.errors import TrainingError
from recbench.contracts.method import Capabilities, Method, MethodConfig
from recbench.methods.dense import rank_by_scores


class TogetherConfig(MethodConfig):
    scale: float = 1.0
    fail: int = -1


class Together(Method):
    """Ranks items by the sum of what each process contributes."""

    config_class = TogetherConfig
    capabilities = Capabilities(packages=("numpy", "torch"), distributed=True)

    def fit(self, train, valid, ctx):
        print("methods may print")
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if rank == self.config.fail:
            raise TrainingError(f"process {rank} cannot go on")
        scores = torch.bincount(torch.as_tensor(train.target[rank::size]).long(), minlength=60).double()
        if size > 1:
            dist.all_reduce(scores)
        ctx.log({"step": 1, "sum": float(scores.sum())})
        (ctx.work_dir / f"seen-by-{rank}").touch()
        self.seen = sorted(path.name for path in ctx.work_dir.iterdir())
        self.scores = self.config.scale * scores.numpy()

    def rank(self, queries, k, ctx):
        return rank_by_scores(queries, k, 60, lambda batch: np.tile(self.scores, (len(batch), 1)))

    def save(self, folder):
        (folder / "scores.json").write_text(json.dumps(self.scores.tolist()))

    @classmethod
    def load(cls, folder, config, ctx):
        method = cls(config)
        method.scores = np.array(json.loads((folder / "scores.json").read_text()))
        return method

    def summary(self):
        return {"sum_of_scores": float(self.scores.sum())}
'''


@pytest.fixture
def runs_dir(tmp_path: Path, plugins: PluginFolder) -> Path:
    """Return a folder for runs; the method ``together`` and the tiny data set are there."""
    save_dataset(tiny_dataset())
    plugins.add("together-method", {"together": "together:Together"}, {"together.py": TOGETHER})
    return tmp_path / "runs"


def run_processes(n: int, *arguments: str | Path, **engine: str) -> list[subprocess.CompletedProcess[str]]:
    """Run one command line in ``n`` processes with the environment that torchrun gives them, and that of an engine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **engine}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "recbench", "run", "--dataset", "tiny", "--json", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(n)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, out, err)
        for process, (out, err) in zip(processes, outputs, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_make_one_run(runs_dir: Path, here: Here) -> None:
    tune = runs_dir.parent / "tune.yaml"
    tune.write_text("space: {scale: [-1, 1]}")
    first, second = run_processes(2, "--method", "together", "--runs-dir", runs_dir / "two", "--tune", tune)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert second.stdout == ""
    assert "Stage" not in second.stderr
    document = json.loads(first.stdout)
    assert [trial["status"] for trial in document["tuning"]["all_trials"]] == ["complete", "complete"]
    scale = f"scale={document['tuning']['chosen']['scale']}"
    common = ("run", "--method", "together", "--dataset", "tiny", "--json")
    alone = here(*common, "--runs-dir", runs_dir / "one", "--set", scale)
    folders = [Path(document["path"]), Path(json.loads(alone.stdout)["path"])]
    hashes = [manifest_of(folder)["files"] for folder in folders]
    assert folders[0].name == folders[1].name
    assert hashes[0]["rankings.parquet"] == hashes[1]["rankings.parquet"]
    assert len((folders[0] / "train.jsonl").read_text().splitlines()) == 1, "only the first process logs"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_failure_of_any_process_ends_all(runs_dir: Path, rank: int) -> None:
    done = run_processes(2, "--method", "together", "--runs-dir", runs_dir, "--set", f"fail={rank}")
    assert all(process.returncode != 0 for process in done)
    assert done[1].stdout == ""
    assert f"process {rank} cannot go on" in done[rank].stderr
    (folder,) = (runs_dir / "tiny" / "together").iterdir()
    assert manifest_of(folder)["status"] == "failed"


def test_a_method_of_one_process_is_refused(runs_dir: Path) -> None:
    first, second = run_processes(2, "--method", "popularity", "--runs-dir", runs_dir)
    assert (first.returncode, second.returncode) == (2, 2)
    assert "is fitted by one process" in json.loads(first.stdout)["error"]["message"]
    assert (second.stdout, second.stderr) == ("", "")
    assert not runs_dir.exists()


LATENT = [
    "sft.epochs=1", "sft.batch_size=8", "sft.micro_batch_size=4", "sft.max_rows=24", "sft.eval_rows=8",
    "sft.learning_rate=3e-3", "rl.batch_size=8", "rl.micro_batch_size=2", "rl.max_rows=16", "rl.samples=3",
    "rl.adv_groups=batch", "rl.learning_rate=1e-2", "rl.log_steps=1", "decoding.beams=4",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{}, FSDP], ids=["ddp", "fsdp"])
def test_two_processes_fit_both_stages_of_latentr3_like_one(runs_dir: Path, here: Here, tmp_path: Path, engine) -> None:
    backbone = make_tiny_llm(tmp_path / "backbone", tiny_catalog().titles)
    settings = [word for setting in LATENT for word in ("--set", setting)]
    settings += ["--method", "latentr3", "--backbone", str(backbone), "--device", "cpu"]
    first, second = run_processes(2, *settings, "--runs-dir", runs_dir / "two", **engine)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert ("share the weights" in first.stderr) == bool(engine)
    alone = here("run", "--dataset", "tiny", "--json", *settings, "--runs-dir", runs_dir / "one")
    two, one = (Path(json.loads(done.stdout)["path"]) for done in (first, alone))
    lists = [pd.read_parquet(folder / "rankings.parquet") for folder in (two, one)]
    pd.testing.assert_frame_equal(*lists, check_exact=False, rtol=1e-5)
    logs = [[json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()] for folder in (two, one)]
    curves = [[r["reward_unperturbed"] for r in log if "reward_unperturbed" in r] for log in logs]
    assert len(curves[0]) == 2
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
