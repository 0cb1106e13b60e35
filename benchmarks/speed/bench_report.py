"""A report over 200 runs, pages and figures included, against plain pandas loops that make the leaderboards alone.

The baseline does what research code does: it reads the metrics of every run whole, averages them run by run, and loops
over bootstrap resamples and sign flips one at a time. It makes the numbers of the leaderboards and nothing else: no
ranks, no slices, no figures, no pages.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.speed.report_runs import make_runs

NAME = "report"
METHODS = ("sasrec", "gru4rec", "caser", "bigrec", "d3", "latentr3", "alpharec", "popularity")
RESAMPLES = 10_000
_METRIC = "item/NDCG@10"


def plain_leaderboards(runs_dir: Path, resamples: int = RESAMPLES) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (data set, method) -> means of all metrics, an interval and a p-value, computed by loops."""
    tables: dict[tuple[str, str], list[pd.DataFrame]] = defaultdict(list)
    for manifest in sorted(runs_dir.glob("*/*/*/manifest.json")):
        facts = json.loads(manifest.read_text())
        tables[facts["dataset"], facts["method"]].append(pd.read_parquet(manifest.parent / "metrics.parquet"))
    rng = np.random.default_rng(0)
    result: dict[tuple[str, str], dict[str, Any]] = {}
    by_user: dict[tuple[str, str], pd.Series] = {}
    for entry, frames in tables.items():
        columns = [name for name in frames[0].columns if name.startswith(("item/", "title/"))]
        means = {name: float(np.mean([frame[name].mean() for frame in frames])) for name in columns}
        averaged = pd.concat(frames).groupby(["example_id", "user_id"], as_index=False)[_METRIC].mean()
        users = averaged.groupby("user_id")[_METRIC].agg(["sum", "count"])
        sums, counts = users["sum"].to_numpy(), users["count"].to_numpy()
        drawn = []
        for _ in range(resamples):
            chosen = rng.integers(0, len(users), len(users))
            drawn.append(sums[chosen].sum() / counts[chosen].sum())
        result[entry] = {"metrics": means, "interval": np.quantile(drawn, [0.025, 0.975])}
        by_user[entry] = users["sum"]
    for dataset in {dataset for dataset, _ in result}:
        entries = [entry for entry in result if entry[0] == dataset]
        best = max(entries, key=lambda entry: result[entry]["metrics"][_METRIC])
        for entry in entries:
            difference = (by_user[entry] - by_user[best]).to_numpy()
            observed, extreme = abs(difference.sum()), 0
            for _ in range(resamples):
                flipped = (difference * rng.choice((-1.0, 1.0), len(difference))).sum()
                extreme += abs(flipped) >= observed
            result[entry]["p"] = (extreme + 1) / (resamples + 1)
            result[entry]["wins"] = int((difference > 1e-12).sum())
    return result


def run(
    n_groups: int = 5,
    methods: tuple[str, ...] = METHODS,
    n_seeds: int = 5,
    n_rows: int = 6_000,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Time the whole report and the loops on the same runs, and compare every mean and every count of users."""
    from recbench.experiment.report import make_report
    from recbench.report.render import FORMATS

    with tempfile.TemporaryDirectory() as folder:
        runs_dir, out = Path(folder) / "runs", Path(folder) / "report"
        n_runs = make_runs(runs_dir, n_groups=n_groups, methods=methods, n_seeds=n_seeds, n_rows=n_rows)
        start, cpu_start = time.perf_counter(), time.process_time()
        report = make_report(runs_dir, out, tuple(FORMATS))
        ours_s, ours_cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        start = time.perf_counter()
        plain = plain_leaderboards(runs_dir, resamples)
        baseline_s = time.perf_counter() - start
        bytes_written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    error, equal_counts, n_entries = _differences(report, plain)
    return {
        "name": NAME,
        "ours_s": ours_s,
        "baseline_s": baseline_s,
        "ratio": baseline_s / ours_s,
        "equal": error < 1e-12 and equal_counts and n_entries == len(plain),
        "sizes": {"runs": n_runs, "groups": n_groups, "entries": n_entries, "test_rows": n_rows},
        # Other processes on the machine change this less than the clock.
        "ours_cpu_s": ours_cpu_s,
        "report_bytes": bytes_written,
        "files": len(report["files"]),
        "baseline_makes": "means, bootstrap intervals and sign-flip tests; ours makes the whole report",
    }


def _differences(report: dict[str, Any], plain: dict[tuple[str, str], dict[str, Any]]) -> tuple[float, bool, int]:
    """Return the largest difference of a mean, whether all counts of users are equal, and the number of entries."""
    error, equal, n = 0.0, True, 0
    for group in report["groups"]:
        for line in group["sections"]["leaderboard"]["tables"]["leaderboard"]:
            entry = plain[group["dataset"], line["method"]]
            error = max([error, *(abs(line[name] - value) for name, value in entry["metrics"].items())])
            n += 1
        for pair in group["sections"]["comparison"]["tables"]["pairs"]:
            wins = int(pair["users"].partition(" /")[0].replace(",", ""))
            equal &= wins == plain[group["dataset"], pair["a"]]["wins"]
    return error, equal, n
