"""The report's speed benchmark at a small size: the report and the plain loops come to the same numbers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.bench_report import run
from benchmarks.speed.report_runs import make_runs
from recbench.artifacts.store import RunStore


def test_the_report_and_plain_loops_agree() -> None:
    row = run(n_groups=2, methods=("sasrec", "popularity"), n_seeds=2, n_rows=300, resamples=20)
    assert row["equal"]
    assert row["sizes"] == {"runs": 8, "groups": 2, "entries": 4, "test_rows": 300}
    assert row["files"] > 10


def test_made_runs_are_whole_and_better_ones_come_first(tmp_path: Path) -> None:
    assert make_runs(tmp_path, n_groups=1, methods=("good", "weak"), n_seeds=1, n_rows=300) == 2
    runs = {run.manifest.method: run for run in RunStore(tmp_path).all()}
    for run_ in runs.values():
        run_.require_intact()
        assert len(run_.metrics()) == 300
    ndcg = {name: found.summary()["metrics"]["NDCG@10"] for name, found in runs.items()}
    assert ndcg["good"] > ndcg["weak"] + 0.05
