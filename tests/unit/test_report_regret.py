"""Beam regret in a report: which runs make a pair, what is averaged, and that the two searches never share a row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore, StoredRun
from recbench.artifacts.tables import write_generations
from recbench.experiment.regret import regret_rows
from recbench.experiment.report import collect, make_report

TITLES = [f"title {number}" for number in range(6)]


def decoding(search: str, penalty: float = 1.0, **others: Any) -> dict[str, Any]:
    return {"decoding": {"mode": "constrained", "search": search, "beams": 3, "length_penalty": penalty, **others}}


def search_run(
    runs_dir: Path, search: str, lists: list[list[int]], *, unproven: tuple[int, ...] = (), penalty: float = 1.0,
    method: str = "bigrec", budget: int = 100, **fields: Any,
) -> StoredRun:  # fmt: skip
    """Make a run that wrote the given titles for its first examples and ``lists[-1]`` for all others."""
    config = decoding(search, penalty, exact={"max_expansions": budget})
    run = make_run(runs_dir, method, config=config, backbone="nano", k=10, **fields)
    records = []
    for place, example in enumerate(sorted(run.metrics()["example_id"])):
        written = lists[min(place, len(lists) - 1)]
        record: dict[str, Any] = {
            "example_id": int(example),
            "titles": [TITLES[number] for number in written],
            "scores": [-float(number) - 1 for number in written],
        }
        if search == "exact":
            record |= {"proven": place not in unproven, "expansions": 9, "bound": -0.5 if place in unproven else None}
        records.append(record)
    write_generations(run.paths.generations, records)
    return run.update_hashes([run.paths.generations])


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regret") / "runs"
    best = [0, 1, 2]
    for seed, quality in ((1, 0.5), (2, 0.6)):
        search_run(folder, "beam", [[3, 4, 5], [0, 2, 4], best], quality=quality, seed=seed)
        search_run(folder, "exact", [best, best, best], unproven=(0,), quality=0.3, seed=seed)
    search_run(folder, "exact", [best], quality=0.2, seed=1, penalty=0.0)
    search_run(folder, "beam", [best], quality=0.2, seed=3, method="d3")
    return folder


def test_only_runs_that_differ_in_the_search_are_paired(runs_dir: Path) -> None:
    ((row,), problems) = regret_rows(RunStore(runs_dir).all())
    assert problems == ()
    assert (row.label, row.length_penalty, row.seeds) == ("bigrec (nano)", 1.0, (1, 2))
    assert not row.same_fit
    stored = {run.run_id: run.manifest.config["decoding"]["search"] for run in RunStore(runs_dir).all()}
    assert {stored[run_id] for run_id in row.beam_runs} == {"beam"}
    assert {stored[run_id] for run_id in row.exact_runs} == {"exact"}


def test_means_are_over_proven_examples(runs_dir: Path) -> None:
    (row,), _ = regret_rows(RunStore(runs_dir).all())
    n = row.n_examples
    assert row.proven == pytest.approx((n - 1) / n)
    # Example 0 is not proven; of the others only example 1 differs: it lacks one title, and 2 and 4 stand where 1 and
    # 2 belong.
    assert row.values["missed"] == pytest.approx(1 / (n - 1))
    assert row.values["wanted"] == 3
    assert row.values["first_differs"] == 0
    assert row.values["gap_first"] == 0
    assert row.values["gap_mean"] == pytest.approx((1 + 2) / 3 / (n - 1))
    runs = {run.run_id: run for run in RunStore(runs_dir).all()}
    for search, run_ids in (("beam", row.beam_runs), ("exact", row.exact_runs)):
        tables = [runs[run_id].metrics().sort_values("example_id") for run_id in run_ids]
        expected = np.mean([table["item/HR@10"].to_numpy()[1:].mean() for table in tables])
        assert row.values[f"{search} item/HR@10"] == pytest.approx(expected)


def test_both_searches_have_a_row_and_a_name_of_their_own(runs_dir: Path) -> None:
    (group,) = collect(RunStore(runs_dir)).groups
    board = next(section for section in group.sections if section.slug == "leaderboard").tables[0]
    labels = {row.values["label"]: row.values["seeds"] for row in board.rows}
    assert labels["bigrec (nano)"] == "1 2"
    assert labels["bigrec (nano, exact search, decoding.length_penalty=1.0)"] == "1 2"
    assert labels["bigrec (nano, exact search, decoding.length_penalty=0.0)"] == "1"


def test_text_csv_and_json_say_the_same(runs_dir: Path, tmp_path: Path) -> None:
    record = make_report(runs_dir, tmp_path / "report", ("md", "csv"))
    (row,) = record["groups"][0]["sections"]["regret"]["tables"]["regret"]
    (line,) = csv.DictReader((tmp_path / "report" / "csv" / "regret.csv").open())
    assert float(line["missed"]) == row["missed"]
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == record
    section = (tmp_path / "report" / "README.md").read_text().split("### Beam regret")[1].split("###")[0]
    assert f"| bigrec (nano) | 1 | 2 | {100 * row['proven_share']:.1f}% | {row['missed']:.3g} | 3 |" in section
    assert "fitting twice" in section


def test_runs_of_one_fit_are_preferred(tmp_path: Path) -> None:
    search_run(tmp_path, "exact", [[0, 1, 2]], fit_id="a")
    shared = search_run(tmp_path, "beam", [[0, 1, 3]], fit_id="a", created="2026-01-01T00:00:00Z")
    search_run(tmp_path, "beam", [[0, 1, 2]], fit_id="b", created="2026-01-02T00:00:00Z")
    (row,), _ = regret_rows(RunStore(tmp_path).all())
    assert row.same_fit
    assert row.beam_runs == (shared.run_id,)
    assert row.values["missed"] == 1


def test_the_exact_search_that_was_allowed_most_counts(tmp_path: Path) -> None:
    search_run(tmp_path, "beam", [[0, 1, 3]], fit_id="a")
    whole = search_run(tmp_path, "exact", [[0, 1, 2]], fit_id="a", budget=100, created="2026-01-01T00:00:00Z")
    everything = tuple(range(1000))
    newer = {"unproven": everything, "budget": 1, "created": "2026-01-02T00:00:00Z"}
    search_run(tmp_path, "exact", [[4]], fit_id="a", **newer)
    (row,), _ = regret_rows(RunStore(tmp_path).all())
    assert (row.exact_runs, row.proven) == ((whole.run_id,), 1.0)


def test_an_exact_search_of_the_same_fit_counts_before_one_that_was_allowed_more(tmp_path: Path) -> None:
    search_run(tmp_path, "beam", [[0, 1, 3]], fit_id="a")
    same = search_run(tmp_path, "exact", [[0, 1, 2]], fit_id="a", budget=100, created="2026-01-01T00:00:00Z")
    search_run(tmp_path, "exact", [[0, 1, 2]], fit_id="b", budget=200, created="2026-01-02T00:00:00Z")
    (row,), _ = regret_rows(RunStore(tmp_path).all())
    assert row.exact_runs == (same.run_id,)


def test_changed_generations_are_left_out_and_said(tmp_path: Path) -> None:
    search_run(tmp_path, "beam", [[0, 1, 2]])
    search_run(tmp_path, "exact", [[0, 1, 2]]).paths.generations.write_text("{}\n")
    document = collect(RunStore(tmp_path))
    assert not any(section.slug == "regret" for section in document.groups[0].sections)
    (damaged,) = (section for section in document.sections if section.slug == "damaged")
    problems = [row.values["problem"] for row in damaged.tables[0].rows]
    assert any("left out of the beam regret: generations.jsonl has changed" in text for text in problems)


def test_without_a_proven_example_there_is_no_number(tmp_path: Path) -> None:
    search_run(tmp_path / "runs", "beam", [[0, 1, 2]])
    run = search_run(tmp_path / "runs", "exact", [[0, 1, 2]], unproven=tuple(range(1000)))
    assert len(run.metrics()) < 1000
    make_report(tmp_path / "runs", tmp_path / "report", ("md", "csv"))
    section = (tmp_path / "report" / "README.md").read_text().split("### Beam regret")[1].split("###")[0]
    assert "| 0.0% | – | – | – | – | – | – | – | – |" in section
