"""`recbench slices` as a user runs it, and what `recbench evaluate` adds to older runs for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_run_commands import Here
from helpers_runs import make_run

from recbench.artifacts.store import StoredRun
from recbench.contracts.hashing import hash_file
from recbench.data.store import save_dataset
from recbench.evaluation.facts import FACTS, fact_column
from recbench.testing.tiny import tiny_dataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder, "good", quality=0.6)
    make_run(folder, "weak", quality=0.4)
    return folder


def test_json_is_one_document_with_every_number(runs: Path, here: Here) -> None:
    result = here("slices", "good", "weak", "--by", "history", "--by", "age", "--runs-dir", runs, "--json")
    assert result.returncode == 0, result.stderr
    tables = json.loads(result.stdout)["tables"]
    assert [table["cut"] for table in tables] == ["history", "age"]
    for table in tables:
        assert table["baseline"] == "good"
        assert sum(one["n_rows"] for one in table["slices"]) == table["n_examples"]
        for entry in table["entries"]:
            assert len(entry["values"]) == len(table["slices"])
            weighted = [v["mean"] * s["n_rows"] for v, s in zip(entry["values"], table["slices"], strict=True)]
            assert sum(weighted) / table["n_examples"] == pytest.approx(entry["whole"]["mean"])


def test_tables_for_people_show_the_same_numbers(runs: Path, here: Here) -> None:
    result = here("slices", "good", "--baseline", "weak", "--metric", "hr@10", "--by", "popularity", "--runs-dir", runs)
    assert result.returncode == 0, result.stderr
    document = here(
        "slices", "good", "--baseline", "weak", "--metric", "HR@10", "--by", "popularity", "--runs-dir", runs, "--json"
    )
    (table,) = json.loads(document.stdout)["tables"]
    assert "tiny: HR@10 by item, Popularity" in result.stdout
    for entry in table["entries"]:
        for value in entry["values"]:
            assert f"{value['mean']:.4f}" in result.stdout
    relative = next(entry for entry in table["entries"] if entry["label"] == "good")["relative"]
    assert f"{100 * relative['value']:+.1f}%" in result.stdout
    assert "Warning: few users (popular; long tail): fewer than 50 users" in result.stdout
    assert "sign-flip test over users" in result.stdout


def test_wrong_use_ends_with_2_and_unknown_runs_with_3(runs: Path, here: Here) -> None:
    result = here("slices", "good", "--by", "colour", "--runs-dir", runs)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Unknown cut 'colour'" in result.stderr
    assert "popularity" in result.stderr
    result = here("slices", "good", "--by", "table9", "--runs-dir", runs)
    assert result.returncode == 3
    assert "'sasrec'" in result.stderr
    result = here("slices", "good", "--runs-dir", runs, "--metric", "NDCG@7", "--json")
    assert result.returncode == 2
    assert json.loads(result.stdout)["error"]["exit_code"] == 2


def test_help_has_examples_and_every_cut(here: Here) -> None:
    result = here("slices", "--help")
    assert result.returncode == 0
    assert "recbench slices " in result.stdout
    text = " ".join(result.stdout.replace("│", " ").split())
    for name in ("popularity", "deciles", "cold-strict", "cold-loose", "history", "activity", "age", "table9"):
        assert name in text


def test_evaluate_adds_the_facts_to_an_older_run(tmp_path: Path, here: Here) -> None:
    save_dataset(tiny_dataset(), replace_old=True)
    run = make_run(tmp_path, "old")
    before = run.metrics()
    before.drop(columns=[fact_column(name) for name in FACTS]).to_parquet(run.paths.metrics, index=False)
    run.update_hashes([run.paths.metrics])
    result = here("slices", "old", "--runs-dir", tmp_path)
    assert result.returncode == 3
    assert f"recbench evaluate {run.run_id}" in result.stderr
    assert here("evaluate", run.run_id, "--runs-dir", tmp_path).returncode == 0
    assert here("slices", "old", "--runs-dir", tmp_path).returncode == 0
    again = StoredRun.open(run.paths.folder)
    assert again.metrics().equals(before)
    assert again.run_id == run.run_id
    assert again.verify() == []


def test_evaluate_counts_what_was_written_and_refuses_changed_generations(tmp_path: Path, here: Here) -> None:
    save_dataset(tiny_dataset(), replace_old=True)
    run = make_run(tmp_path, "writer")
    titles = [tiny_dataset().catalog.titles[0], "No Such Title"]
    run.paths.generations.write_text(json.dumps({"example_id": 0, "titles": [*titles, titles[0]]}) + "\n")
    result = here("evaluate", run.run_id, "--runs-dir", tmp_path)
    assert result.returncode == 3
    assert "generations.jsonl has changed" in result.stderr
    files = run.manifest.files | {run.paths.generations.name: hash_file(run.paths.generations)}
    run.manifest.model_copy(update={"files": files}).write(run.paths.manifest)
    result = here("evaluate", run.run_id, "--runs-dir", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    generated = json.loads(result.stdout)["runs"][0]["summary"]["generated"]
    assert generated == {"titles": 3, "invalid": 1, "repeated": 1, "texts": 0, "texts_not_a_title": 0}
