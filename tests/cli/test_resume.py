"""Runs that are killed, interrupted, broken or out of disk space: what is left, and how they go on."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers_plugins import PluginFolder
from helpers_run_commands import STOPPABLE, Here, manifest_of, only_folder, run_process, start_process

from recbench.artifacts.lock import exclusive
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


@pytest.fixture
def run(plugins: PluginFolder, tmp_path: Path) -> list[str]:
    """Return the command that runs the stoppable method on the tiny data set."""
    save_dataset(tiny_dataset())
    plugins.add("stoppable-method", {"stoppable": "stoppable:Stoppable"}, {"stoppable.py": STOPPABLE})
    return ["run", "--method", "stoppable", "--dataset", "tiny", "--json"]


def results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object], str]:
    return (
        pd.read_parquet(folder / "rankings.parquet"),
        pd.read_parquet(folder / "metrics.parquet"),
        json.loads((folder / "summary.json").read_text()),
        (folder / "generations.jsonl").read_text(),
    )


def assert_same_results(folder: Path, other: Path) -> None:
    for ours, theirs in zip(results(folder), results(other), strict=True):
        if isinstance(ours, pd.DataFrame):
            pd.testing.assert_frame_equal(ours, theirs)
        else:
            assert ours == theirs


KILLS = [
    "fit:2",
    "save",
    "rank",
    "recbench.experiment.run:write_rankings",
    "recbench.experiment.run:write_evaluation",
    "recbench.experiment.run:hash_run_files",
]


@pytest.mark.slow
def test_killed_at_every_point_ends_as_if_undisturbed(run: list[str], here: Here, tmp_path: Path) -> None:
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    for point in KILLS:
        killed = run_process(*run, "--runs-dir", disturbed, STOP_AT=point)
        assert killed.returncode == -signal.SIGKILL, point
        folder = only_folder(disturbed, "stoppable")
        assert manifest_of(folder)["status"] == "running"
    done = here(*run, "--runs-dir", disturbed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["attempts"] == len(KILLS) + 1
    assert here(*run, "--runs-dir", undisturbed).returncode == 0
    assert_same_results(folder, only_folder(undisturbed, "stoppable"))
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "generations.jsonl", "log.txt", "manifest.json", "metrics.parquet", "rankings.parquet",
        "summary.json", "train.jsonl",
    }  # fmt: skip
    steps = [json.loads(line)["step"] for line in (folder / "train.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3], "no step is done again whose checkpoint was written"


def test_killed_after_completion_leaves_a_complete_run(run: list[str], here: Here, tmp_path: Path) -> None:
    killed = run_process(*run, "--runs-dir", tmp_path / "runs", STOP_AT="recbench.experiment.run:discard")
    assert killed.returncode == -signal.SIGKILL
    folder = only_folder(tmp_path / "runs", "stoppable")
    before = manifest_of(folder)
    assert before["status"] == "complete"
    assert (folder / "work").exists()
    again = here(*run, "--runs-dir", tmp_path / "runs")
    assert json.loads(again.stdout)["fresh"] is False
    assert not (folder / "work").exists()
    assert manifest_of(folder) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_cancelled_and_goes_on(
    run: list[str], here: Here, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = [*run, "--runs-dir", tmp_path / "runs"]
    stopped = run_process(*arguments, STOP_AT="fit:2", STOP_WITH=str(int(number)))
    assert stopped.returncode == 130
    assert json.loads(stopped.stdout)["error"]["exit_code"] == 130
    assert "Traceback" not in stopped.stderr
    folder = only_folder(tmp_path / "runs", "stoppable")
    assert manifest_of(folder)["status"] == "cancelled"
    fit_s = manifest_of(folder)["timings_s"]["fit"]
    assert fit_s > 0
    listed = here("runs", "list", "--runs-dir", tmp_path / "runs", "--json")
    assert [row["status"] for row in json.loads(listed.stdout)["runs"]] == ["cancelled"]
    done = here(*arguments)
    assert json.loads(done.stdout)["attempts"] == 2
    assert json.loads(done.stdout)["timings_s"]["fit"] > fit_s, "the times of all attempts add up"
    here(*run, "--runs-dir", tmp_path / "undisturbed")
    assert_same_results(folder, only_folder(tmp_path / "undisturbed", "stoppable"))


def test_a_bug_leaves_a_failed_run_that_goes_on(run: list[str], here: Here, tmp_path: Path) -> None:
    arguments = [*run, "--runs-dir", tmp_path / "runs", "--set", "fail=true"]
    failed = here(*arguments)
    assert failed.returncode == 1
    folder = only_folder(tmp_path / "runs", "stoppable")
    error = json.loads(failed.stdout)["error"]
    assert error["type"] == "ZeroDivisionError"
    assert str(folder) in error["hint"]
    assert "Traceback" in failed.stderr
    assert "a bug in the method" in (folder / "log.txt").read_text()
    manifest = manifest_of(folder)
    assert manifest["status"] == "failed"
    assert manifest["error"] == "ZeroDivisionError: a bug in the method"
    (folder / "work" / "method" / "mended").touch()
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    assert manifest_of(folder)["error"] is None


def test_killed_while_the_data_set_is_prepared(run: list[str], here: Here, tmp_path: Path) -> None:
    pytest.importorskip("recbole")
    arguments = ["run", "--method", "stoppable", "--dataset", "ml-100k", "--runs-dir", tmp_path / "runs", "--json"]
    home = str(tmp_path / "home")
    killed = run_process(*arguments, RECBENCH_HOME=home, STOP_AT="recbench.data.folders:hash_file")
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "home" / "datasets" / "ml-100k").exists()
    listed = run_process("datasets", "list", "--json", RECBENCH_HOME=home)
    assert listed.returncode == 0, listed.stderr
    described = run_process("datasets", "describe", "ml-100k", "--json", RECBENCH_HOME=home)
    assert described.returncode == 0, described.stderr
    assert json.loads(described.stdout)["interactions"] == 100_000


def test_half_a_line_of_the_training_log_is_cut_off(run: list[str], here: Here, tmp_path: Path) -> None:
    arguments = [*run, "--runs-dir", tmp_path / "runs"]
    run_process(*arguments, STOP_AT="fit:2")
    folder = only_folder(tmp_path / "runs", "stoppable")
    with (folder / "train.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert here(*arguments).returncode == 0
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["loss"] is None, "JSON has no NaN"


def test_second_process_on_the_same_run_is_refused(run: list[str], here: Here, tmp_path: Path) -> None:
    arguments = [*run, "--runs-dir", tmp_path / "runs"]
    run_process(*arguments, STOP_AT="fit:2")
    folder = only_folder(tmp_path / "runs", "stoppable")
    with exclusive(folder / ".lock"):
        refused = here(*arguments)
        listed = here("runs", "list", "--runs-dir", tmp_path / "runs", "--json")
    assert refused.returncode == 3
    assert "is being worked on by process" in json.loads(refused.stdout)["error"]["message"]
    assert manifest_of(folder)["status"] == "running"
    assert json.loads(listed.stdout)["runs"][0]["status"] == "running"
    listed = here("runs", "list", "--runs-dir", tmp_path / "runs", "--json")
    assert json.loads(listed.stdout)["runs"][0]["status"] == "interrupted"
    assert here(*arguments).returncode == 0


def run_with_file_size_limit(arguments: list[str | Path], limit_bytes: int) -> subprocess.CompletedProcess[str]:
    """Run a command that can write no file larger than a limit, which fails just as a full disk does."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    command = [sys.executable, "-m", "recbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit, timeout=120)


@pytest.mark.parametrize("limit_bytes", [0, 60_000])
def test_full_disk_is_one_message_and_the_run_goes_on(
    run: list[str], here: Here, tmp_path: Path, limit_bytes: int
) -> None:
    arguments = [*run, "--runs-dir", tmp_path / "runs", "--set", "saved_bytes=100000"]
    full = run_with_file_size_limit(arguments, limit_bytes)
    assert full.returncode == 3, full.stderr
    assert "File too large" in json.loads(full.stdout)["error"]["message"]
    assert "Traceback" not in full.stderr
    folder = only_folder(tmp_path / "runs", "stoppable")
    assert not (folder / "work" / "model").exists()
    if limit_bytes:
        assert manifest_of(folder)["status"] == "failed"
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob(".*"))


def test_two_processes_at_once_make_one_run(run: list[str], here: Here, tmp_path: Path) -> None:
    arguments = [*run, "--runs-dir", tmp_path / "runs"]
    processes = [start_process(*arguments), start_process(*arguments)]
    ends = [process.communicate(timeout=120) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 0], [0, 3]), ends
    verified = here("runs", "verify", "--runs-dir", tmp_path / "runs", "--json")
    assert json.loads(verified.stdout)["ok"] is True
    assert len(json.loads(verified.stdout)["runs"]) == 1
