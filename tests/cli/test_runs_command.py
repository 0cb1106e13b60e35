"""`recbench runs`: list, show, verify, export, import; and the store behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from helpers_run_commands import Here

from recbench.artifacts.store import RunStore
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


@pytest.fixture
def made(here: Here, tmp_path: Path) -> dict[str, Any]:
    """Make a run of popularity and two of random; return the documents by name, and the folder of all runs."""
    save_dataset(tiny_dataset())
    runs_dir = tmp_path / "runs"
    result: dict[str, Any] = {"runs_dir": runs_dir}
    for name, method, seed in (("popularity", "popularity", 42), ("random", "random", 42), ("random 7", "random", 7)):
        arguments = ["--method", method, "--dataset", "tiny", "--seed", str(seed), "--runs-dir", runs_dir, "--json"]
        result[name] = json.loads(here("run", *arguments).stdout)
    return result


def test_list_and_filters(here: Here, made: dict[str, Any]) -> None:
    def listed(*arguments: str) -> list[str]:
        done = here("runs", "list", "--runs-dir", made["runs_dir"], "--json", *arguments)
        return [row["run_id"] for row in json.loads(done.stdout)["runs"]]

    every = [made[name]["run_id"] for name in ("popularity", "random", "random 7")]
    assert sorted(listed()) == sorted(every)
    assert listed("--method", "popularity") == [made["popularity"]["run_id"]]
    assert listed("--status", "failed") == []
    assert listed("--dataset", "other") == []
    shown = here("runs", "list", "--runs-dir", made["runs_dir"]).stdout
    assert all(run_id in shown for run_id in every)


def test_list_of_nothing(here: Here, tmp_path: Path) -> None:
    done = here("runs", "list", "--runs-dir", tmp_path / "none")
    assert done.returncode == 0
    assert "No runs in" in done.stdout


def test_damaged_folder_is_reported_and_not_fatal(here: Here, made: dict[str, Any]) -> None:
    (Path(made["random"]["path"]) / "manifest.json").write_text('{"schema')
    done = here("runs", "list", "--runs-dir", made["runs_dir"], "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert len(document["runs"]) == 2
    assert [row["path"] for row in document["damaged"]] == [made["random"]["path"]]
    assert here("runs", "verify", "--runs-dir", made["runs_dir"]).returncode == 3


def test_references(made: dict[str, Any]) -> None:
    store = RunStore(made["runs_dir"])
    run_id, path = made["popularity"]["run_id"], made["popularity"]["path"]
    for reference in (run_id, run_id[:6], path, "popularity"):
        assert store.get(reference).run_id == run_id
    assert [run.manifest.seed for run in store.find("random")] in ([42, 7], [7, 42])
    with pytest.raises(UsageError, match="'random' stands for 2 runs"):
        store.get("random")
    with pytest.raises(ArtifactError, match="Did you mean 'popularity'"):
        store.get("popularty")
    with pytest.raises(ArtifactError, match=r"None of the 2 runs of 'random' in .* is failed"):
        store.find("random", status="failed")
    with pytest.raises(ArtifactError, match="is complete on other"):
        store.find("random", status="complete", dataset="other")


def test_exact_id_wins_over_a_longer_one(here: Here, made: dict[str, Any]) -> None:
    arguments = ["--method", "popularity", "--dataset", "tiny", "--runs-dir", made["runs_dir"], "--again", "--json"]
    again = json.loads(here("run", *arguments).stdout)["run_id"]
    first = made["popularity"]["run_id"]
    store = RunStore(made["runs_dir"])
    assert store.get(first).run_id == first
    assert store.get(again).run_id == again
    with pytest.raises(UsageError, match=f"2 run ids begin with '{first[:5]}'"):
        store.get(first[:5])


def test_show(here: Here, made: dict[str, Any]) -> None:
    done = here("runs", "show", "popularity", "--runs-dir", made["runs_dir"], "--json")
    document = json.loads(done.stdout)
    assert document["manifest"]["run_id"] == made["popularity"]["run_id"]
    assert document["summary"]["metrics"] == made["popularity"]["metrics"]
    assert made["popularity"]["run_id"] in here("runs", "show", "popularity", "--runs-dir", made["runs_dir"]).stdout


def test_verify_finds_changed_and_missing_files(here: Here, made: dict[str, Any]) -> None:
    assert here("runs", "verify", "--runs-dir", made["runs_dir"]).returncode == 0
    folder = Path(made["popularity"]["path"])
    (folder / "rankings.parquet").write_bytes(b"PAR1")
    (folder / "train.jsonl").unlink()
    done = here("runs", "verify", "popularity", "--runs-dir", made["runs_dir"], "--json")
    assert done.returncode == 3
    (result,) = json.loads(done.stdout)["runs"]
    assert result["problems"] == ["rankings.parquet has changed", "train.jsonl is missing"]
    assert here("runs", "verify", "random", "--runs-dir", made["runs_dir"]).returncode == 2, "that name is two runs"


def test_export_agrees_with_ir_measures(here: Here, made: dict[str, Any], tmp_path: Path) -> None:
    out, qrels = tmp_path / "lists.run", tmp_path / "targets.qrels"
    run_id = made["random"]["run_id"]  # random lists have no ties, so every tool ranks them alike
    done = here("runs", "export", run_id, "--out", out, "--qrels", qrels, "--runs-dir", made["runs_dir"], "--json")
    assert done.returncode == 0, done.stderr
    measures = [ir_measures.nDCG @ 10, ir_measures.Success @ 5]
    found = ir_measures.calc_aggregate(
        measures, ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(out))
    )
    assert found[measures[0]] == pytest.approx(made["random"]["metrics"]["NDCG@10"], abs=1e-9)
    assert found[measures[1]] == pytest.approx(made["random"]["metrics"]["HR@5"], abs=1e-9)


def test_exported_and_imported_lists_measure_the_same(here: Here, made: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "lists.run"
    here("runs", "export", "popularity", "--out", out, "--runs-dir", made["runs_dir"])
    arguments = ["runs", "import", out, "--method", "other", "--dataset", "tiny", "--runs-dir", made["runs_dir"]]
    done = here(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["metrics"] == made["popularity"]["metrics"]
    assert any("imported" in note for note in document["notes"])
    stored = RunStore(made["runs_dir"]).get("other")
    assert stored.verify() == []
    assert stored.manifest.provenance["imported"]["file"] == "lists.run"
    assert json.loads(here(*arguments, "--json").stdout)["run_id"] == document["run_id"], "once is enough"
    compared = here("compare", "other", "popularity", "--runs-dir", made["runs_dir"], "--json")
    assert compared.returncode == 0, compared.stderr


def test_import_counts_missing_examples_as_misses(here: Here, made: dict[str, Any], tmp_path: Path) -> None:
    out, part = tmp_path / "lists.run", tmp_path / "part.run"
    here("runs", "export", "popularity", "--out", out, "--runs-dir", made["runs_dir"])
    first = out.read_text().split(" ", 1)[0]
    part.write_text("".join(line + "\n" for line in out.read_text().splitlines() if line.split()[0] == first))
    arguments = ["--method", "part", "--dataset", "tiny", "--runs-dir", made["runs_dir"], "--json"]
    document = json.loads(here("runs", "import", part, *arguments).stdout)
    n_test = made["popularity"]["n_test"]
    assert any(f"no list for {n_test - 1} of {n_test} test rows" in note for note in document["notes"])
    assert document["metrics"]["HR@10"] <= 1 / n_test


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 3), ("1 Q0 i00 1 0.5 t\n", 3), ("not a run file\n", 3)],
)
def test_wrong_imports_leave_nothing(
    here: Here, made: dict[str, Any], tmp_path: Path, content: str | None, code: int
) -> None:
    file = tmp_path / "wrong.run"
    if content is not None:
        file.write_text(content)
    arguments = ["--method", "wrong", "--dataset", "tiny", "--runs-dir", made["runs_dir"]]
    done = here("runs", "import", file, *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert not (made["runs_dir"] / "tiny" / "wrong").exists()


def test_evaluate_repairs_changed_metrics(here: Here, made: dict[str, Any]) -> None:
    folder = Path(made["popularity"]["path"])
    (folder / "summary.json").write_text("{}")
    assert here("evaluate", "popularity", "--runs-dir", made["runs_dir"]).returncode == 0
    assert here("runs", "verify", "popularity", "--runs-dir", made["runs_dir"]).returncode == 0
    assert json.loads((folder / "summary.json").read_text())["metrics"] == made["popularity"]["metrics"]


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x"])
def test_import_under_a_name_that_no_table_could_show(here: Here, made: dict[str, Any], name: str) -> None:
    done = here(
        "runs", "import", made["popularity"]["path"], f"--method={name}", "--dataset", "tiny",
        "--runs-dir", made["runs_dir"],
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be the name of a method" in done.stderr


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema_version": 1, "status": "complete"}'])
def test_a_file_that_is_no_manifest_is_told_once(
    here: Here, made: dict[str, Any], caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (Path(made["random"]["path"]) / "manifest.json").write_text(content)
    caplog.clear()
    done = here("compare", "popularity", "random", "--runs-dir", made["runs_dir"], "--json")
    assert done.returncode == 0  # the other run of random is intact
    assert caplog.text.count("is not a run manifest") == 1
    assert "errors.pydantic.dev" not in caplog.text
