"""`recbench run`: identity of runs, wrong use, what is printed and stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_plugins import PluginFolder
from helpers_run_commands import STOPPABLE, Done, Here, manifest_of, run_process

from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Return a folder for runs; the tiny data set is prepared."""
    save_dataset(tiny_dataset())
    return tmp_path / "runs"


class Run:
    """`recbench run` on the tiny data set."""

    def __init__(self, here: Here, runs_dir: Path) -> None:
        self._here = here
        self._runs_dir = runs_dir

    def __call__(self, *arguments: str | Path, method: str = "popularity") -> Done:
        """Run with --json."""
        common = ("--method", method, "--dataset", "tiny", "--runs-dir", self._runs_dir, "--json")
        return self._here("run", *common, *arguments)

    def document(self, *arguments: str | Path, method: str = "popularity") -> dict[str, Any]:
        """Run, and return what it printed."""
        done = self(*arguments, method=method)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture
def run(here: Here, runs_dir: Path) -> Run:
    """Return `recbench run` on the tiny data set."""
    return Run(here, runs_dir)


def test_document_and_folder(run: Run, runs_dir: Path) -> None:
    document = run.document()
    folder = runs_dir / "tiny" / "popularity" / document["run_id"]
    assert document["path"] == str(folder)
    assert (document["method"], document["dataset"], document["backbone"]) == ("popularity", "tiny", None)
    assert (document["seed"], document["status"], document["limited"]) == (42, "complete", False)
    assert {"HR@5", "HR@10", "NDCG@5", "NDCG@10"} <= set(document["metrics"])
    assert set(document["metrics"]) == set(document["metrics_title"])
    assert {"prepare", "fit", "rank", "evaluate", "total"} <= set(document["timings_s"])
    manifest = manifest_of(folder)
    assert manifest["status"] == "complete"
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert manifest["provenance"]["packages"]["numpy"]
    assert manifest["peak_memory_bytes"]["host"] > 10_000_000
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"] == document["metrics"]
    assert summary["n_test"] == document["n_test"]
    assert "Stage rank begins" in (folder / "log.txt").read_text()


def test_complete_run_is_never_written_again(run: Run, runs_dir: Path) -> None:
    first = run.document()
    folder = Path(first["path"])
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    second = run.document()
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()} == before
    assert (first.pop("fresh"), second.pop("fresh")) == (True, False)
    assert first == second


def test_again_makes_one_more(run: Run) -> None:
    first = run.document()
    ids = [run.document("--again")["run_id"] for _ in range(2)]
    assert ids == [f"{first['run_id']}-2", f"{first['run_id']}-3"]
    assert run.document()["run_id"] == first["run_id"]


@pytest.mark.parametrize(
    "change",
    [
        ["--seed", "7"],
        ["--set", "count=events"],
        ["--set", "protocol.mask_history=true"],
        ["--set", "protocol.split=leave-one-out"],
        ["--limit-train", "30"],
        ["--limit-test", "10"],
    ],
)
def test_whatever_determines_the_result_is_in_the_id(run: Run, change: list[str]) -> None:
    assert run.document()["run_id"] != run.document(*change)["run_id"]


def test_config_of_a_run_gives_the_same_run(run: Run, tmp_path: Path) -> None:
    first = run.document("--set", "count=events", "--seed", "3", "--limit-test", "20")
    config = Path(first["path"]) / "config.yaml"
    values = yaml.safe_load(config.read_text())
    assert list(values) == ["method", "dataset", "backbone", "seed", "protocol", "config"]
    assert values["config"] == {"count": "events"}
    assert values["protocol"]["limit_test"] == 20
    second = run.document("--config", config)
    assert (second["run_id"], second["fresh"]) == (first["run_id"], False)


def test_seed_changes_the_lists_and_nothing_else_does(run: Run) -> None:
    first, other = run.document(method="random"), run.document("--seed", "1", method="random")
    again = run.document("--again", method="random")
    hashes = [manifest_of(Path(document["path"]))["files"] for document in (first, other, again)]
    assert hashes[0]["rankings.parquet"] == hashes[2]["rankings.parquet"]
    assert hashes[0]["rankings.parquet"] != hashes[1]["rankings.parquet"]


def test_limits_mark_the_run(run: Run) -> None:
    document = run.document("--limit-test", "12")
    assert document["limited"] is True
    assert document["n_test"] == 12


def test_warnings_of_the_split_are_notes(run: Run) -> None:
    done = run("--set", "protocol.split=leave-one-out")
    document = json.loads(done.stdout)
    assert any("leak" in note for note in document["notes"])
    assert manifest_of(Path(document["path"]))["notes"] == document["notes"]


def test_changed_complete_run_is_refused(run: Run) -> None:
    folder = Path(run.document()["path"])
    (folder / "summary.json").write_text("{}")
    done = run()
    assert done.returncode == 3
    assert "summary.json has changed" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--method", "popularty"], 2, "Unknown method 'popularty'. Did you mean 'popularity'?"),
        (["--dataset", "tinny"], 3, "Unknown data set 'tinny'. Did you mean 'tiny'?"),
        (["--set", "cuont=events"], 2, "cuont: unknown key. Did you mean 'count'?"),
        (["--set", "count=both"], 2, "count: got 'both'"),
        (["--set", "protocol.splt=x"], 2, "splt: unknown key. Did you mean 'split'?"),
        (["--set", "protocol.splt=x", "--set", "cuont=y"], 2, "Did you mean 'count'?"),
        (["--backbone", "nano"], 2, "builds on no language model"),
        (["--seed", "-1"], 2, "seed: got -1"),
        (["--config", "none.yaml"], 2, "none.yaml does not exist"),
        (["--limit-test", "0"], 2, "limit_test: got 0"),
    ],
)
def test_wrong_use(run: Run, runs_dir: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert message in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr
    assert not runs_dir.exists()


def test_wrong_keys_of_method_and_protocol_are_told_together(run: Run) -> None:
    message = json.loads(run("--set", "protocol.splt=x", "--set", "cuont=y").stdout)["error"]["message"]
    assert "splt" in message
    assert "cuont" in message


def test_folder_that_cannot_be_written(run: Run, runs_dir: Path) -> None:
    runs_dir.write_text("a file where the folder should be")
    done = run()
    assert done.returncode == 3
    assert f"Cannot write {runs_dir}" in json.loads(done.stdout)["error"]["message"]


def test_for_people(runs_dir: Path, here: Here) -> None:
    done = here("run", "--method", "popularity", "--dataset", "tiny", "--runs-dir", runs_dir)
    assert done.returncode == 0
    for word in ("popularity on tiny, seed 42: complete", "NDCG@10", "item", "title", str(runs_dir), "Next: recbench"):
        assert word in done.stdout


def test_streams_of_a_real_process(runs_dir: Path, plugins: PluginFolder) -> None:
    plugins.add("stoppable-method", {"stoppable": "stoppable:Stoppable"}, {"stoppable.py": STOPPABLE})
    done = run_process("run", "--method", "stoppable", "--dataset", "tiny", "--runs-dir", runs_dir, "--json")
    document = json.loads(done.stdout)
    assert "methods may print" in done.stderr, "what a method prints is no result"
    assert "Stage fit begins." in done.stderr
    folder = Path(document["path"])
    assert manifest_of(folder)["provenance"]["packages"]["method"] == "stoppable-method 1.0"
    assert json.loads((folder / "summary.json").read_text())["method"]["sum_of_scores"] > 0
    lines = (folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == document["n_test"]
    assert json.loads(lines[0])["text"] == "é"
