"""`recbench suite`: the plan with its cost, runs that share what was chosen, kills, failures, several processes."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_plugins import PluginFolder
from helpers_run_commands import STOPPABLE, Done, Here, manifest_of, run_process

from recbench.artifacts.lock import exclusive
from recbench.artifacts.paths import suite_lock
from recbench.contracts.progress import SilentProgress
from recbench.data.store import save_dataset
from recbench.experiment.suite import read_suite
from recbench.experiment.suite_run import SuiteRunner
from recbench.experiment.suite_state import Planner
from recbench.experiment.tune import tuning_lock
from recbench.testing.tiny import tiny_dataset

ENTRIES: list[dict[str, Any]] = [
    {"name": "popular", "method": "popularity", "seeds": [1]},
    {"name": "steps", "method": "stoppable", "tune": "grid.yaml", "keep_model": True},
    {"name": "again", "like": "steps", "config": {"saved_bytes": 5}},
]


class SuiteHere:
    """A suite on the tiny data set, and the commands on it."""

    def __init__(self, here: Here, folder: Path) -> None:
        self._here = here
        self.folder = folder
        self.runs_dir = folder / "runs"
        (folder / "grid.yaml").write_text("rows: 9\nspace: {steps: [1, 3]}\n")
        self.write(ENTRIES)

    def write(self, entries: list[dict[str, Any]], seeds: tuple[int, ...] = (1, 2)) -> None:
        """Write the suite's file."""
        content = {"name": "try", "why": "To see.", "datasets": ["tiny"], "seeds": list(seeds), "entries": entries}
        (self.folder / "try.yaml").write_text(yaml.safe_dump(content))

    def arguments(self, command: str) -> list[str | Path]:
        """Return a command line."""
        return ["suite", command, "try", "--suites-dir", self.folder, "--runs-dir", self.runs_dir]

    def __call__(self, command: str) -> Done:
        """Run one command for people."""
        return self._here(*self.arguments(command))

    def document(self, command: str, exit_code: int = 0) -> dict[str, Any]:
        """Run one command with ``--json``."""
        done = self._here(*self.arguments(command), "--json")
        assert done.returncode == exit_code, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def runner(self) -> SuiteRunner:
        """Return what runs the suite in this process."""
        planner = Planner(read_suite(self.folder / "try.yaml"), "cpu")
        return SuiteRunner(planner, self.runs_dir, [], SilentProgress(), poll_s=0.01)


@pytest.fixture
def suite(here: Here, tmp_path: Path, plugins: PluginFolder) -> SuiteHere:
    """Return a suite of three entries: five runs, of which four share one tuning."""
    save_dataset(tiny_dataset())
    plugins.add("stoppable-method", {"stoppable": "stoppable:Stoppable"}, {"stoppable.py": STOPPABLE})
    return SuiteHere(here, tmp_path)


def states(document: dict[str, Any]) -> dict[tuple[str, int], str]:
    return {(run["entry"], run["seed"]): run["state"] for run in document["runs"]}


def test_from_plan_to_complete(suite: SuiteHere) -> None:
    before = suite.document("plan")
    assert (before["runs"], before["complete"], before["entries_of_unknown_time"]) == (5, 0, 3)
    assert {row["entry"]: row["trials"] for row in before["entries"]} == {"popular": 0, "steps": 2, "again": 0}
    assert not suite.runs_dir.exists(), "a plan writes nothing"
    assert states(suite.document("status")) == {
        ("popular", 1): "missing",
        **{(entry, seed): "untuned" for entry in ("steps", "again") for seed in (1, 2)},
    }

    runs = suite.document("run")["runs"]
    assert [(run["entry"], run["seed"], run["outcome"]) for run in runs] == [
        ("popular", 1, "run"), ("steps", 1, "run"), ("again", 1, "run"), ("steps", 2, "run"), ("again", 2, "run"),
    ]  # fmt: skip
    after = suite.document("status")
    assert set(states(after).values()) == {"complete"}
    assert [run["run_id"] for run in after["runs"]] == [run["run_id"] for run in runs]
    chosen = {json.dumps(run["chosen"]) for run in after["runs"] if run["entry"] != "popular"}
    assert len(chosen) == 1, "one choice for all seeds and for the entry that is like the tuned one"
    (steps,) = (json.loads(one)["steps"]["steps"] for one in chosen)
    for run in runs[1:]:
        manifest = manifest_of(suite.runs_dir / "tiny" / "stoppable" / run["run_id"])
        assert manifest["config"]["steps"] == steps
        assert manifest["tuning"]["chosen"] == {"steps": steps}, "every run tells how its settings were chosen"
        assert manifest["config"]["saved_bytes"] == (5 if run["entry"] == "again" else 0)
    cost = suite.document("plan")
    assert (cost["complete"], cost["seconds_left"], cost["entries_of_unknown_time"]) == (5, 0.0, 0)
    assert {run["outcome"] for run in suite.document("run")["runs"]} == {"was there"}


def test_what_is_left_is_estimated_by_runs_like_it(suite: SuiteHere) -> None:
    suite.document("run")
    suite.write([*ENTRIES, {"name": "other", "like": "steps", "config": {"saved_bytes": 7}}], seeds=(1, 2, 3))
    rows = {row["entry"]: row for row in suite.document("plan")["entries"]}
    assert (rows["steps"]["runs"], rows["steps"]["complete"], rows["steps"]["trials"]) == (3, 2, 0)
    assert rows["steps"]["alike"] == "same settings"
    assert rows["other"]["alike"] == "same method"
    assert rows["other"]["seconds_left"] == pytest.approx(3 * rows["other"]["seconds_each"])
    assert rows["popular"]["seconds_left"] == 0.0


def test_killed_in_the_middle_it_goes_on(suite: SuiteHere) -> None:
    suite.write([{"name": "steps", "method": "stoppable"}])
    killed = run_process(*suite.arguments("run"), STOP_AT="fit:3")
    assert killed.returncode == -signal.SIGKILL
    assert states(suite.document("status")) == {("steps", 1): "interrupted", ("steps", 2): "missing"}
    assert {run["outcome"] for run in suite.document("run")["runs"]} == {"run"}
    (first,) = (run for run in suite.document("status")["runs"] if run["seed"] == 1)
    assert manifest_of(suite.runs_dir / "tiny" / "stoppable" / first["run_id"])["attempts"] == 2


def test_a_failure_stops_no_other_run(suite: SuiteHere) -> None:
    broken = {"name": "broken", "method": "stoppable", "config": {"fail": True}}
    suite.write([broken, {"name": "sound", "method": "stoppable"}], seeds=(1,))
    done = suite("run")
    assert done.returncode == 1
    assert "1 run now, 1 failed" in done.stdout
    assert "broken on tiny, seed 1: ZeroDivisionError: a bug in the method" in done.stdout
    assert states(suite.document("status")) == {("broken", 1): "failed", ("sound", 1): "complete"}


def test_a_tuning_without_a_usable_trial_is_a_failure_of_its_entries(suite: SuiteHere) -> None:
    (suite.folder / "grid.yaml").write_text("metric: LL\nspace: {steps: [1, 2]}\n")
    document = suite.document("run", exit_code=2)
    outcomes = {(run["entry"], run["seed"]): run["outcome"] for run in document["runs"]}
    assert outcomes[("popular", 1)] == "run"
    assert {outcome for (entry, _), outcome in outcomes.items() if entry != "popular"} == {"failed"}
    assert "no probabilities of these titles" in document["runs"][1]["error"]


def test_settings_that_are_not_accepted_are_told_before_anything_runs(suite: SuiteHere) -> None:
    suite.write([ENTRIES[0], {"name": "wrong", "method": "stoppable", "config": {"stps": 3}}])
    done = suite("run")
    assert done.returncode == 2
    assert "Did you mean 'steps'" in done.stderr
    assert not suite.runs_dir.exists()


def test_parts_that_another_process_works_on_are_left_to_it(suite: SuiteHere) -> None:
    suite.write([{"name": "steps", "method": "stoppable"}])
    lock = suite_lock(suite.runs_dir, "try", "tiny None 1")
    lock.parent.mkdir(parents=True)
    with exclusive(lock):
        outcomes = {run["seed"]: run["outcome"] for run in suite.document("run")["runs"]}
    assert outcomes == {1: "elsewhere", 2: "run"}
    assert {run["outcome"] for run in suite.document("run")["runs"]} == {"run", "was there"}


def test_it_waits_for_a_tuning_that_another_process_makes(suite: SuiteHere) -> None:
    runner = suite.runner()
    (job, *_) = [job for job in runner.planner.jobs() if job.entry == "steps"]
    plan = runner.planner.tuning_plan("steps", job, {})
    lock = tuning_lock(plan, runner.planner.suite.tune_file("steps"), suite.runs_dir)
    lock.parent.mkdir(parents=True)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(lock):
            held.set()
            release.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(20)
    threading.Timer(0.3, release.set).start()
    outcomes = runner.run()
    other.join()
    assert release.is_set()
    assert {one.outcome for one in outcomes} == {"run"}


def test_for_people(suite: SuiteHere) -> None:
    shown = suite("plan").stdout
    assert "To see." in shown
    assert "no run like them is there" in shown
    done = suite("run")
    assert done.returncode == 0
    assert "try: 5 run now." in done.stdout
    assert "5 complete" in suite("status").stdout
    assert "Nothing is left to run." in suite("plan").stdout
    listed = suite._here("suite", "list", "--suites-dir", suite.folder)
    assert "popular, steps, again; tiny; 2 seeds" in listed.stdout
    assert "cannot be read" in listed.stdout, "grid.yaml lies there too"
    none = suite._here("suite", "plan", "tri", "--suites-dir", suite.folder)
    assert none.returncode == 2
    assert "Did you mean 'try'" in none.stderr
