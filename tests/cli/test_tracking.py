"""Runs in MLflow: names, parameters and numbers; and, where MLflow is installed, what it has afterwards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_run_commands import Here
from helpers_runs import make_run

from recbench.artifacts.store import StoredRun
from recbench.contracts.errors import MissingExtraError
from recbench.experiment.tracking import metric_points, open_mlflow, params_of, tracker_name

TRAIN = [
    {"stage": "sft", "step": 1, "epoch": 0.5, "loss": 2.0, "note": "text"},
    {"stage": "sft", "step": 2, "epoch": 1.0, "loss": None, "valid/NDCG@10": 0.25},
]


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    """Return a run with nested settings, a long one, and a training log."""
    config = {"sft": {"epochs": 3, "lora": None}, "text": "x" * 800}
    return make_run(tmp_path / "runs", "made-up", config=config, backbone="nano", seed=3, train_log=TRAIN)


def test_names() -> None:
    assert tracker_name("item/NDCG@10") == "item/NDCG_at_10"
    assert tracker_name("decoding.beams: 10 é") == "decoding.beams: 10 _"


def test_parameters(run: StoredRun) -> None:
    params = params_of(run)
    assert params["config.sft.epochs"] == "3"
    assert params["backbone"] == "nano"
    assert params["protocol.split"] == "global-time"
    assert "config.sft.lora" not in params
    assert len(params["config.text"]) == 500
    assert all(isinstance(value, str) for value in params.values())


def test_numbers(run: StoredRun) -> None:
    points = {(name, step): value for name, value, step in metric_points(run)}
    assert points["item/NDCG_at_10", 0] == run.summary()["metrics"]["NDCG@10"]
    assert points["title/HR_at_5", 0] == run.summary()["metrics_title"]["HR@5"]
    assert points["seconds/fit", 0] == 15.5
    assert points["sft/loss", 1] == 2.0
    assert points["sft/valid/NDCG_at_10", 2] == 0.25
    assert ("sft/loss", 2) not in points
    assert not any("note" in name or "epoch" in name for name, _ in points)


def test_missing_mlflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'recbench\[mlflow\]'"):
        open_mlflow(None)


def test_logged_once_with_everything(
    run: StoredRun, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow: pip install 'recbench[mlflow]'")
    monkeypatch.chdir(tmp_path)  # MLflow puts files beside a store in a file
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = ["--to", "mlflow", "--tracking-uri", uri, "--runs-dir", tmp_path / "runs", "--json"]

    def log() -> dict[str, Any]:
        done = here("runs", "log", "made-up", *arguments)
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)["runs"]
        return dict(result)

    first, second = log(), log()
    assert (first["fresh"], second["fresh"]) == (True, False)
    assert first["mlflow_run_id"] == second["mlflow_run_id"]
    client = open_mlflow(uri)
    logged = client.get_run(first["mlflow_run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.params == params_of(run)
    assert logged.data.metrics["item/NDCG_at_10"] == run.summary()["metrics"]["NDCG@10"]
    assert logged.data.tags["recbench.run_id"] == run.run_id
    assert [point.step for point in client.get_metric_history(first["mlflow_run_id"], "sft/loss")] == [1]
    files = {file.path for file in client.list_artifacts(first["mlflow_run_id"])}
    assert files == {"manifest.json", *run.manifest.files}
    done = here("runs", "log", "made-up", "--to", "mlflow", "--tracking-uri", "nonsense://x", *arguments[4:])
    assert done.returncode == 3
    assert "--tracking-uri" in done.stderr
