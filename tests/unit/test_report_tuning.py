"""A report says which settings were chosen, among how many and on what."""

from __future__ import annotations

from pathlib import Path

from helpers_runs import make_run

from recbench.artifacts.manifest import TuningRecord
from recbench.experiment.report import make_report

TUNING = TuningRecord(
    tune_id="0123456789ab", search="grid", file_sha256="0", metric="NDCG@10", rows=1234, trials=9, failed=1,
    best_trial=4, best_value=0.03456, chosen={"learning_rate": 0.001, "sft.epochs": 2}, seconds=61.4,
)  # fmt: skip


def test_tuned_runs_say_so(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "sasrec", seed=1, tuning=TUNING)
    make_run(tmp_path / "runs", "sasrec", seed=2)
    make_run(tmp_path / "runs", "popularity")
    make_report(tmp_path / "runs", tmp_path / "report", ["md"])
    text = (tmp_path / "report" / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if "validation rows (" in line]
    assert line == (
        "sasrec, seed 1: learning_rate=0.001, sft.epochs=2: the best of 9 trials (1 failed) of a grid search by "
        "NDCG@10 on 1,234 validation rows (0.0346 there), which took 61 s."
    )
    assert "all others were given" in text


def test_nothing_is_said_where_nothing_was_tuned(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "sasrec")
    make_report(tmp_path / "runs", tmp_path / "report", ["md"])
    assert "chosen on validation rows" not in (tmp_path / "report" / "README.md").read_text()
