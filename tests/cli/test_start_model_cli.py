"""A fit that goes on from another one takes that one's kept model, and says so."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_plugins import PluginFolder
from helpers_run_commands import Here, manifest_of, run_process

from recbench.artifacts.models import FitRecord
from recbench.artifacts.paths import FitPaths
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset

#: Base scores, then a second stage on top of them unless ``second`` is 0. Every stage leaves a line in a file.
STAGED = '''
import json
import os
import signal

import numpy as np

from recbench.contracts.method import Method, MethodConfig
from recbench.contracts.seeding import numpy_rng
from recbench.methods.dense import rank_by_scores


class StagedConfig(MethodConfig):
    scale: float = 1.0
    second: float = 0.5


class Staged(Method):
    """Random scores in two stages."""

    config_class = StagedConfig

    def starts_from(self):
        return Staged(self.config.model_copy(update={"second": 0.0})) if self.config.second else None

    def fit(self, train, valid, ctx):
        if self.config.second == 0:
            note("first")
            with ctx.stage("first"):
                self.scores = self.config.scale * numpy_rng(ctx.seed, "scores").random(60)
            return
        if ctx.start_model.is_dir():
            self.scores = Staged.load(ctx.start_model, self.config, ctx).scores
        else:
            start = self.starts_from()
            start.fit(train, valid, ctx)
            self.scores = start.scores
        if os.environ.get("STOP_AT") == "second":
            os.kill(os.getpid(), signal.SIGKILL)
        note("second")
        with ctx.stage("second"):
            self.scores = self.scores + self.config.second * numpy_rng(ctx.seed, "more").random(60)

    def rank(self, queries, k, ctx):
        return rank_by_scores(queries, k, 60, lambda batch: np.tile(self.scores, (len(batch), 1)))

    def save(self, folder):
        (folder / "scores.json").write_text(json.dumps(self.scores.tolist()))

    @classmethod
    def load(cls, folder, config, ctx):
        method = cls(config)
        method.scores = np.array(json.loads((folder / "scores.json").read_text()))
        return method


def note(stage):
    with open(os.environ["STAGES"], "a") as stream:
        stream.write(stage + "\\n")
'''


@pytest.fixture
def runs_dir(tmp_path: Path, plugins: PluginFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_dataset(tiny_dataset())
    plugins.add("staged-method", {"staged": "staged:Staged"}, {"staged.py": STAGED})
    monkeypatch.setenv("STAGES", str(tmp_path / "stages.txt"))
    return tmp_path / "runs"


@pytest.fixture
def run(here: Here, runs_dir: Path) -> Callable[..., dict[str, Any]]:
    def run_it(*arguments: str) -> dict[str, Any]:
        done = here("run", "--method", "staged", "--dataset", "tiny", "--runs-dir", runs_dir, "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return run_it


def stages(runs_dir: Path) -> list[str]:
    return (runs_dir.parent / "stages.txt").read_text().split()


def rankings_hash(document: dict[str, Any]) -> str:
    return str(manifest_of(Path(document["path"]))["files"]["rankings.parquet"])


def test_the_kept_start_is_taken_and_told(run: Callable[..., dict[str, Any]], runs_dir: Path) -> None:
    alone = run("--no-reuse")
    assert stages(runs_dir) == ["first", "second"]
    assert alone["fit_started_from"] is None
    start = run("--set", "second=0", "--keep-model")
    again = run("--again")
    assert again["fit_started_from"] is None, "--again fits all of it afresh"
    assert stages(runs_dir) == ["first", "second", "first", "first", "second"]

    other = run("--set", "second=2", "--keep-model")
    assert stages(runs_dir)[5:] == ["second"]
    assert other["fit_started_from"] == start["run_id"]
    assert other["fit_reused_from"] is None
    assert "goes on from the model that" in (Path(other["path"]) / "log.txt").read_text()
    times = manifest_of(Path(other["path"]))["timings_s"]
    assert times["first"] == start["timings_s"]["first"], "the cost of the start is part of the fit's cost"
    assert times["fit"] >= start["timings_s"]["fit"]
    kept = FitRecord.read(FitPaths(runs_dir / ".models" / other["fit_id"]).record)
    assert kept.started_from == start["run_id"]
    assert kept.timings_s["first"] == start["timings_s"]["first"]


def test_lists_are_the_same_with_and_without_a_kept_start(run: Callable[..., dict[str, Any]]) -> None:
    whole = run()
    run("--set", "second=0", "--keep-model")
    run("--set", "second=0.25", "--keep-model")
    taken = run("--set", "second=0.75")
    fresh = run("--set", "second=0.75", "--again")
    assert rankings_hash(taken) == rankings_hash(fresh) != rankings_hash(whole)


def test_another_seed_or_another_start_is_not_taken(run: Callable[..., dict[str, Any]], runs_dir: Path) -> None:
    run("--set", "second=0", "--keep-model")
    assert run("--seed", "7")["fit_started_from"] is None
    assert run("--set", "scale=2")["fit_started_from"] is None
    assert stages(runs_dir) == ["first", *["first", "second"] * 2]


def test_a_killed_fit_goes_on_with_its_start_and_counts_it_once(
    run: Callable[..., dict[str, Any]], here: Here, runs_dir: Path
) -> None:
    start = run("--set", "second=0", "--keep-model")
    arguments = ["run", "--method", "staged", "--dataset", "tiny", "--runs-dir", runs_dir]
    assert run_process(*arguments, STOP_AT="second").returncode == -signal.SIGKILL
    assert here("runs", "prune-models", "--all", "--runs-dir", runs_dir).returncode == 0
    second = run()
    assert second["fit_started_from"] == start["run_id"]
    assert stages(runs_dir) == ["first", "second"]
    assert manifest_of(Path(second["path"]))["timings_s"]["first"] == start["timings_s"]["first"]
