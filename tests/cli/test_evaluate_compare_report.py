"""`recbench evaluate`, `compare` and `report` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers_runs import make_run

from recbench.artifacts.store import StoredRun
from recbench.artifacts.tables import write_rankings
from recbench.cli.app import execute
from recbench.contracts.dataset import Dataset
from recbench.contracts.hashing import hash_file
from recbench.contracts.rankings import Rankings
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


@dataclass(frozen=True)
class Outcome:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Outcome]


@pytest.fixture
def recbench(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command line in this process, which is far quicker than a process each."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = execute([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The tiny data set, prepared under its name."""
    tiny = tiny_dataset()
    save_dataset(tiny)
    return tiny


@pytest.fixture
def run(tmp_path: Path, dataset: Dataset) -> StoredRun:
    return make_run(tmp_path / "runs", "sasrec", dataset=dataset)


def test_evaluate_rebuilds_both_files_from_the_rankings_alone(run: StoredRun, recbench: Command) -> None:
    before, table = run.summary(), run.metrics()
    run.paths.metrics.unlink()
    damaged = {**before, "metrics": {"NDCG@10": 1.0}}
    run.paths.summary.write_text(json.dumps(damaged))
    result = recbench("evaluate", run.run_id, "--runs-dir", run.paths.folder.parents[2], "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["runs"][0]["metrics"] == before["metrics"]
    assert document["runs"][0]["changed"] is True
    again = StoredRun.open(run.paths.folder)
    assert again.summary() == before
    assert again.summary()["method"] == {"best_epoch": 3}
    assert again.metrics().equals(table)
    assert again.verify() == []


def test_evaluate_measures_what_the_rankings_say(run: StoredRun, dataset: Dataset, recbench: Command) -> None:
    # New rankings, recorded as such: every list is empty now.
    n = len(run.metrics())
    rankings = run.rankings(dataset.catalog)
    write_rankings(
        run.paths.rankings,
        Rankings(rankings.example_id, rankings.offsets * 0, rankings.items[:0], rankings.scores[:0]),
        dataset.catalog,
    )
    run.update_hashes([run.paths.rankings])
    result = recbench("evaluate", run.paths.folder, "--json")
    assert result.returncode == 0, result.stderr
    summary = StoredRun.open(run.paths.folder).summary()
    assert set(summary["metrics"].values()) == {0.0}
    assert summary["validity"]["empty"] == n


def test_evaluate_prints_a_table_for_people(run: StoredRun, recbench: Command) -> None:
    result = recbench("evaluate", run.paths.folder)
    assert result.returncode == 0, result.stderr
    assert f"{run.summary()['metrics']['NDCG@10']:.4f}" in result.stdout
    assert run.run_id in result.stdout


def test_evaluate_refuses_changed_rankings(run: StoredRun, recbench: Command) -> None:
    with run.paths.rankings.open("ab") as stream:
        stream.write(b"x")
    before = hash_file(run.paths.metrics)
    result = recbench("evaluate", run.paths.folder)
    assert result.returncode == 3
    assert "has changed since the run was complete" in result.stderr
    assert hash_file(run.paths.metrics) == before


def test_evaluate_refuses_another_split(tmp_path: Path, dataset: Dataset, recbench: Command) -> None:
    run = make_run(tmp_path / "runs", "sasrec", dataset=dataset, split_fingerprint="0123456789abcdef")
    result = recbench("evaluate", run.paths.folder, "--json")
    assert result.returncode == 3
    assert "0123456789abcdef" in json.loads(result.stdout)["error"]["message"]


def test_evaluate_refuses_an_unfinished_run(tmp_path: Path, dataset: Dataset, recbench: Command) -> None:
    run = make_run(tmp_path / "runs", "sasrec", dataset=dataset, status="cancelled")
    result = recbench("evaluate", run.paths.folder)
    assert result.returncode == 2
    assert "is cancelled; only complete runs" in result.stderr


def test_json_is_all_there_is_on_stdout_of_a_real_process(tmp_path: Path) -> None:
    make_run(tmp_path, "good", quality=0.9)
    make_run(tmp_path, "weak", quality=0.0)
    script = "from recbench.cli.app import main; main()"
    command = [sys.executable, "-c", script, "compare", "good", "weak", "--runs-dir", str(tmp_path), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["metric"] == "NDCG@10"


def test_compare_prints_json_and_a_table(tmp_path: Path, recbench: Command) -> None:
    make_run(tmp_path, "good", quality=0.9)
    make_run(tmp_path, "weak", quality=0.0)
    result = recbench("compare", "good", "weak", "--runs-dir", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["pairs"][0]["verdict"] == "better"
    result = recbench("compare", "good", "--baseline", "weak", "--runs-dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{document['pairs'][0]['difference']:+.4f}" in result.stdout
    assert "better" in result.stdout


def test_compare_of_an_unknown_name_ends_with_3_and_wrong_use_with_2(tmp_path: Path, recbench: Command) -> None:
    make_run(tmp_path, "good")
    result = recbench("compare", "good", "sasrek", "--runs-dir", tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    assert "'sasrek'" in result.stderr
    result = recbench("compare", "good", "--metric", "NDCG@10", "--runs-dir", tmp_path, "--json")
    assert result.returncode == 2
    assert json.loads(result.stdout)["error"]["exit_code"] == 2


def test_report_says_where_to_read(tmp_path: Path, recbench: Command) -> None:
    make_run(tmp_path / "runs", "good")
    out = tmp_path / "report"
    result = recbench("report", "--runs-dir", tmp_path / "runs", "--out", out)
    assert result.returncode == 0, result.stderr
    assert f"Read {out / 'README.md'}" in result.stdout
    assert "1 entry in 1 leaderboard, 0 runs not complete." in result.stdout
    for name in ("README.md", "index.html", "csv/leaderboard.csv"):
        assert "good" in (out / name).read_text(), name


def test_report_prints_its_record_as_json(tmp_path: Path, recbench: Command) -> None:
    make_run(tmp_path / "runs", "good")
    out = tmp_path / "report"
    result = recbench("report", "--runs-dir", tmp_path / "runs", "--out", out, "--format", "html", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["path"] == str(out)
    assert [name for name in document["files"] if not name.startswith("configs/")] == ["index.html"]
    (entry,) = document["groups"][0]["sections"]["leaderboard"]["tables"]["leaderboard"]
    assert entry["label"] == "good"


def test_report_refuses_an_unknown_format(tmp_path: Path, recbench: Command) -> None:
    result = recbench("report", "--runs-dir", tmp_path, "--out", tmp_path / "report", "--format", "pdf")
    assert result.returncode == 2
    assert "Known: md, html, latex, csv" in result.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("command", ["evaluate", "compare", "report"])
def test_help_has_examples(command: str, recbench: Command) -> None:
    result = recbench(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"recbench {command} " in result.stdout
    assert "Examples" in result.stdout
