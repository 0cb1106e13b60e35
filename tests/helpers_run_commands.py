"""The command line in tests: in processes of its own, and a method that can be stopped at any point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recbench.cli.app import execute

#: A method whose fit has steps and checkpoints, and which ends its own process wherever STOP_AT says: "fit:3" before
#: step 3, "save", "rank", or "module:function" before that function is called. STOP_WITH is the signal.
STOPPABLE = '''
import importlib
import json
import os
import signal

import numpy as np

from recbench.contracts.method import Capabilities, Method, MethodConfig
from recbench.contracts.seeding import numpy_rng
from recbench.methods.dense import rank_by_scores


def stop_at(point):
    if os.environ.get("STOP_AT") == point:
        os.kill(os.getpid(), int(os.environ.get("STOP_WITH", signal.SIGKILL)))


target = os.environ.get("STOP_AT", "")
if target.startswith("recbench."):
    module_name, _, function = target.partition(":")
    module = importlib.import_module(module_name)
    original = getattr(module, function)

    def stopping(*args, **kwargs):
        stop_at(target)
        return original(*args, **kwargs)

    setattr(module, function, stopping)


class StoppableConfig(MethodConfig):
    steps: int = 4
    fail: bool = False
    saved_bytes: int = 0


class Stoppable(Method):
    """Adds one random vector of scores per step."""

    config_class = StoppableConfig
    capabilities = Capabilities(writes_text=True)

    def fit(self, train, valid, ctx):
        print("methods may print")
        self.steps_done_here = 0
        checkpoint = ctx.work_dir / "checkpoint.json"
        state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "scores": [0.0] * 60}
        for step in range(state["step"], self.config.steps):
            stop_at(f"fit:{step}")
            if self.config.fail and step == 2 and not (ctx.work_dir / "mended").exists():
                raise ZeroDivisionError("a bug in the method")
            scores = np.array(state["scores"]) + numpy_rng(ctx.seed, "step", step).random(60)
            state = {"step": step + 1, "scores": scores.tolist()}
            ctx.log({"step": step, "loss": float("nan") if step == 0 else 1.0 / step})
            temporary = checkpoint.with_suffix(".tmp")
            temporary.write_text(json.dumps(state))
            temporary.replace(checkpoint)
            self.steps_done_here += 1
        self.scores = np.array(state["scores"])

    def rank(self, queries, k, ctx):
        stop_at("rank")
        import dataclasses

        lists = rank_by_scores(queries, k, 60, lambda batch: np.tile(self.scores, (len(batch), 1)))
        return dataclasses.replace(lists, generations=[{"example_id": int(e), "text": "é"} for e in lists.example_id])

    def save(self, folder):
        (folder / "scores.json").write_text(json.dumps(self.scores.tolist()))
        (folder / "weights.bin").write_bytes(b"0" * self.config.saved_bytes)
        stop_at("save")

    @classmethod
    def load(cls, folder, config, ctx):
        method = cls(config)
        method.scores = np.array(json.loads((folder / "scores.json").read_text()))
        method.steps_done_here = 0
        return method

    def summary(self):
        return {"sum_of_scores": np.float64(self.scores.sum())}
'''


def start_process(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start one command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "recbench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run_process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command line in a process of its own to its end."""
    process = start_process(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@dataclass(frozen=True)
class Done:
    """How a command ended that ran in the process of the test."""

    returncode: int
    stdout: str
    stderr: str


class Here:
    """Runs command lines in the process of the test, which saves a second of imports each."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Done:
        """Run one command line; what was printed before is dropped."""
        self._capsys.readouterr()
        code = execute(list(map(str, arguments)))
        out, err = self._capsys.readouterr()
        return Done(code, out, err)


def only_folder(runs_dir: Path, method: str, dataset: str = "tiny") -> Path:
    """Return the one run folder of a method."""
    (folder,) = (runs_dir / dataset / method).iterdir()
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return a manifest as plain values."""
    return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
