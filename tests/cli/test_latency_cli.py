"""`recbench latency`: the clock's calls, where the model comes from, what is stored and what a report shows."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers_plugins import PluginFolder
from helpers_run_commands import STOPPABLE, Here, only_folder, run_process

from recbench.artifacts.store import RunStore
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset
from recbench.testing.tiny_llm import make_tiny_llm

#: A method that writes down what it is asked, and can be interrupted at one call.
WATCHED = """
import json
import os
from pathlib import Path

import numpy as np

from recbench.contracts.method import Method
from recbench.methods.dense import rank_by_scores


class Watched(Method):
    def fit(self, train, valid, ctx):
        print("methods may print")
        Path(os.environ["WATCH"], "fits").open("a").write("fit\\n")

    def rank(self, queries, k, ctx):
        watch = Path(os.environ["WATCH"], "calls")
        watch.open("a").write(json.dumps([queries.example_id.tolist(), queries.history(0).tolist(), k]) + "\\n")
        if len(watch.read_text().splitlines()) == int(os.environ.get("STOP_AT_CALL", 0)):
            raise KeyboardInterrupt
        with ctx.stage("choose-something"), ctx.stage("score"):
            return rank_by_scores(queries, k, 60, lambda batch: np.tile(np.arange(60.0), (len(batch), 1)))

    def save(self, folder):
        (folder / "nothing").write_text("")

    @classmethod
    def load(cls, folder, config, ctx):
        return cls(config)
"""


@pytest.fixture
def watch(plugins: PluginFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the watched method and return the folder that it writes to."""
    plugins.add("watched", {"watched": "watched_method:Watched"}, {"watched_method.py": WATCHED})
    folder = tmp_path / "watch"
    folder.mkdir()
    monkeypatch.setenv("WATCH", str(folder))
    save_dataset(tiny_dataset())
    return folder


def calls(watch: Path) -> list[Any]:
    return [json.loads(line) for line in (watch / "calls").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_the_clock_asks(here: Here, watch: Path, tmp_path: Path) -> None:
    arguments = ["--method", "watched", "--dataset", "tiny", "--runs-dir", tmp_path / "runs", "--json"]
    done = here("latency", *arguments, "--rows", "10", "--batch-size", "4", "--repeats", "2", "--warm-up", "3")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    asked = calls(watch)
    assert [len(ids) for ids, _, _ in asked] == [4, 4, 2] + 2 * [4, 4, 2], "three batches to warm up, then two passes"
    histories = [history for _, history, _ in asked]
    assert histories[:3] == histories[3:6] == histories[6:]
    every_id = [example for ids, _, _ in asked for example in ids]
    assert len(set(every_id)) == len(every_id), "no call may find the work of an earlier one"
    assert {k for _, _, k in asked} == {document["depth"]}
    assert document["batch_rows"] == [4, 4, 2]
    assert [len(one["call_s"]) for one in document["times"]] == [3, 3]
    assert all(stages["score"] >= 0 for one in document["times"] for stages in one["stages_s"])
    # The stage inside a choice is the method's own affair; the choice itself is left out of both clocks.
    assert document["figures"]["compute"]["request_ms"] > 0
    assert document["figures"]["call"]["request_ms"] >= 0
    assert document["figures"]["headline"] == document["figures"]["compute"]
    assert document["peak_memory_bytes"]["host"] > 0
    assert "Stage score begins" not in done.stderr


def test_a_model_is_fitted_once_and_kept(here: Here, watch: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = ["--method", "watched", "--dataset", "tiny", "--runs-dir", runs]
    short = ["--rows", "4", "--repeats", "1", "--json"]
    first = json.loads(here("latency", *arguments, *short).stdout)
    second = json.loads(here("latency", *arguments, *short).stdout)
    assert (first["model_from"], second["model_from"]) == ("fitted", "kept")
    assert first["path"] == second["path"], "the same setting again takes the place of the first"
    made = json.loads(here("run", *arguments, "--json").stdout)
    assert made["run_id"] == first["run_id"]
    assert "latency measurement" in made["fit_reused_from"]
    assert (watch / "fits").read_text() == "fit\n"
    assert sorted(path.name for path in (runs / "tiny" / "watched" / ".latency").iterdir()) == [
        Path(first["path"]).name
    ]
    # Asked by the run: the same file, and the run folder is as it was.
    folder = Path(made["path"])
    before = files(folder)
    by_run = json.loads(here("latency", made["run_id"], "--runs-dir", runs, *short).stdout)
    by_folder = json.loads(here("latency", folder, *short).stdout)
    assert by_run["path"] == first["path"]
    assert Path(by_folder["path"]).samefile(first["path"])
    assert files(folder) == before
    assert RunStore(runs).get("watched").verify() == []


def test_interrupted_measurement_leaves_nothing(
    here: Here, watch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_AT_CALL", "4")
    runs = tmp_path / "runs"
    arguments = ["--method", "watched", "--dataset", "tiny", "--runs-dir", runs, "--rows", "8", "--repeats", "2"]
    assert here("latency", *arguments).returncode == 130
    assert list((runs / "tiny" / "watched" / ".latency").iterdir()) == []
    assert len(list((runs / ".models").iterdir())) == 1, "the fit is whole, so it stays"
    monkeypatch.delenv("STOP_AT_CALL")
    assert here("latency", *arguments).returncode == 0
    assert (watch / "fits").read_text() == "fit\n"


def test_a_killed_fit_goes_on_where_it_stopped(here: Here, plugins: PluginFolder, tmp_path: Path) -> None:
    plugins.add("stoppable-method", {"stoppable": "stoppable:Stoppable"}, {"stoppable.py": STOPPABLE})
    save_dataset(tiny_dataset())
    runs = tmp_path / "runs"
    arguments = ["latency", "--method", "stoppable", "--dataset", "tiny", "--runs-dir", runs, "--rows", "2"]
    killed = run_process(*arguments, STOP_AT="fit:2")
    assert killed.returncode == -signal.SIGKILL
    folder = runs / "tiny" / "stoppable" / ".latency"
    assert [path.suffix for path in folder.glob("[!.]*")] == [".fit"]
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in folder.glob("[!.]*")] == [".json"]
    (log,) = (runs / ".models").glob("*/train.jsonl")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [0, 1, 2, 3]


def test_report_shows_the_latency_of_its_runs(here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_dataset(tiny_dataset())
    runs = tmp_path / "runs"
    for method in ("popularity", "random"):
        arguments = ["--method", method, "--dataset", "tiny", "--runs-dir", runs]
        assert here("run", *arguments).returncode == 0
        done = here("latency", *arguments, "--rows", "1000", "--repeats", "1")
        assert done.returncode == 0
        assert "ms per request" in done.stdout
        assert "Only 50 test rows are there; 1000 were asked for." in caplog.text
    out = tmp_path / "report"
    assert here("report", "--runs-dir", runs, "--out", out, "--format", "csv").returncode == 0
    with (out / "csv" / "latency.csv").open() as stream:
        rows = {row["label"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"popularity", "random"}
    assert all(float(row["call_ms"]) > 0 and row["request_ms"] == row["call_ms"] for row in rows.values())


def test_a_language_model_that_reasons(here: Here, tmp_path: Path) -> None:
    """Nothing is kept of a method that fits nothing; tokens and stages are told."""
    save_dataset(tiny_dataset())
    make_tiny_llm(tmp_path / "llm", tiny_dataset().catalog.titles)
    arguments = [
        "--method",
        "cot",
        "--dataset",
        "tiny",
        "--backbone",
        tmp_path / "llm",
        "--runs-dir",
        tmp_path / "runs",
    ]
    short = ["--rows", "2", "--batch-size", "1", "--repeats", "1", "--set", "reasoning.max_new_tokens=3"]
    done = here("latency", *arguments, *short, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert 0 < document["reasoning_tokens"] <= 3
    assert document["steps"] >= 1
    assert document["dtype"] == "float32"
    assert document["fit_id"] is None
    assert not (tmp_path / "runs" / ".models").exists()
    stages = [set(stages) for one in document["times"] for stages in one["stages_s"]]
    assert stages == [{"generate", "decode"}] * 2
    assert document["figures"]["compute"]["request_ms"] < document["figures"]["call"]["request_ms"]
    assert [path.suffix for path in (tmp_path / "runs" / "tiny" / "cot" / ".latency").iterdir()] == [".json"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "No method and no dataset given"),
        (["RUN", "--method", "random", "--set", "a=1"], 2, "--method, --set too"),
        (["nothing-like-it"], 3, "fits 'nothing-like-it'"),
        (["--method", "popularity", "--dataset", "tiny", "--set", "protocol.nope=1"], 2, "nope"),
        (["--method", "popularity", "--dataset", "tiny", "--rows", "0"], 2, "rows"),
    ],
)
def test_wrong_use(here: Here, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    save_dataset(tiny_dataset())
    done = here("latency", *arguments, "--runs-dir", tmp_path / "runs")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_imported_and_changed_runs_are_refused(here: Here, watch: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = ["--method", "watched", "--dataset", "tiny", "--runs-dir", runs]
    assert here("run", *arguments).returncode == 0
    out = tmp_path / "lists.csv"
    here("runs", "export", "watched", "--format", "csv", "--out", out, "--runs-dir", runs)
    here("runs", "import", out, "--method", "other", "--dataset", "tiny", "--runs-dir", runs)
    done = here("latency", "other", "--runs-dir", runs)
    assert done.returncode == 2
    assert "was imported" in done.stderr
    # A run of other software: its model is not kept, and what would be fitted is another.
    manifest = only_folder(runs, "watched") / "manifest.json"
    values = json.loads(manifest.read_text())
    other = manifest.parent.with_name("0123456789ab")
    manifest.parent.rename(other)
    values |= {"run_id": other.name, "fit_id": "gone"}
    (other / "manifest.json").write_text(json.dumps(values))
    done = here("latency", other.name, "--runs-dir", runs)
    assert done.returncode == 3
    assert "is not kept" in done.stderr
    values["split_fingerprint"] = "other"
    (other / "manifest.json").write_text(json.dumps(values))
    done = here("latency", other.name, "--runs-dir", runs)
    assert done.returncode == 3
    assert "is not what run 0123456789ab was made on" in done.stderr
