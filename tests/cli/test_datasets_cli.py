"""`recbench datasets` as a user types it, in processes of its own where a process matters."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from recbench.cli.app import execute
from recbench.data.store import load_dataset, save_dataset
from recbench.testing.tiny import tiny_dataset

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home"


@pytest.fixture
def datasets(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `recbench datasets ...` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = execute(["datasets", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with a table of interactions and one of items."""
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [f"u{user},i{(user + n) % 7},{100 * n + user}" for user in range(5) for n in range(6)]
    (folder / "ratings.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, "alone,i0,3"]) + "\n")
    lines = [json.dumps({"item_id": f"i{n}", "title": f"Title {n}" if n else ""}) for n in range(7)]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_import_describe_export_and_back(datasets: Command, tables: Path, tmp_path: Path) -> None:
    code, out, _ = datasets("import", tables, "--name", "mine", "--noun", "songs", "--json")
    assert code == 0
    imported: dict[str, Any] = json.loads(out)
    assert (imported["users"], imported["items"], imported["interactions"]) == (6, 7, 31)
    assert imported["users_with_one_event"] == 1
    assert imported["titles"]["untitled"] == 1
    assert imported["noun"] == "songs"
    code, out, _ = datasets("describe", "mine", "--json")
    description = json.loads(out)
    assert code == 0
    assert description["split"]["strategy"] == "global-time"
    assert [description["split"]["parts"][part]["rows"] for part in ("train", "valid", "test")] == [20, 2, 3]
    code, out, _ = datasets("describe", "mine", "--split", "leave-one-out", "--json")
    assert "future" in json.loads(out)["split"]["warnings"][0]
    code, out, _ = datasets("describe", "mine", "--markdown")
    assert "| users | 6 |" in out
    for file_format, more in (("table", ()), ("table", ("--table-format", "parquet")), ("recbole", ()), ("d3-csv", ())):
        target = tmp_path / "-".join([file_format, *more])
        code, out, _ = datasets("export", "mine", "--format", file_format, *more, "--out", target, "--json")
        assert code == 0
        assert sorted(json.loads(out)["files"]) == json.loads(out)["files"]
        code, out, _ = datasets("import", target, "--name", target.name, "--json")
        assert code == 0, out
        assert (json.loads(out)["fingerprint"] == imported["fingerprint"]) == (file_format != "d3-csv")
    code, out, _ = datasets("list", "--json")
    listed = {row["name"]: row for row in json.loads(out)["datasets"]}
    assert listed["mine"]["interactions"] == 31
    assert listed["ml-100k"]["status"] == "prepared on first use"
    assert listed["toys"]["status"] == "downloaded on request"
    assert [need["file"] for need in listed["toys"]["needs"]] == [
        "Toys_and_Games_5.json.gz",
        "meta_Toys_and_Games.json.gz",
    ]
    assert datasets("list")[0] == 0
    assert datasets("describe", "mine")[0] == 0


def test_guesses_are_said_on_stderr_and_nothing_but_results_on_stdout(tables: Path) -> None:
    command = [sys.executable, "-m", "recbench", "datasets", "import", str(tables), "--name", "mine", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["name"] == "mine"
    assert "columns of ratings.csv guessed: user 'user_id'" in result.stderr


def test_a_second_import_of_other_data_needs_again(datasets: Command, tables: Path) -> None:
    assert datasets("import", tables, "--name", "mine")[0] == 0
    assert datasets("import", tables, "--name", "mine")[0] == 0
    code, _, error = datasets("import", tables, "--name", "mine", "--noun", "songs")
    assert code == 3
    assert "--again" in error
    assert datasets("import", tables, "--name", "mine", "--noun", "songs", "--again")[0] == 0
    assert load_dataset("mine").catalog.noun == "songs"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("describe", "nothing"), 3, "Unknown data set 'nothing'"),
        (("describe", "cds"), 3, "--format d3-csv"),
        (("prepare", "toys"), 3, "recbench datasets prepare toys --from-dir DIR"),
        (("prepare", "toy"), 3, "Did you mean 'toys'"),
        (("prepare", "ml-1m", "--mode", "strict"), 2, "no strict rules"),
        (("prepare", "ml-1m", "--from-dir", "nowhere"), 3, "not a folder"),
        (("import", "nowhere", "--name", "x"), 3, "does not exist"),
        (("import", "{tables}", "--name", "../x"), 2, "cannot be the name"),
        (("import", "{tables}", "--name", "ml-100k"), 2, "built-in"),
        (("import", "{tables}", "--name", "x", "--user-col", "usr"), 3, "no column 'usr'"),
        (("import", "{tables}", "--name", "x", "--format", "d3-csv"), 3, "no valid file"),
        (("import", "{tables}", "--name", "x", "--format", "recbole"), 3, "one .inter file"),
        (("import", "{tables}"), 2, "--name"),
        (("describe", "tiny", "--split", "provided"), 2, "brings no split"),
        (("describe", "tiny", "--split", "random"), 2, "leave-one-out"),
        (("export", "tiny", "--out", "{tables}"), 2, "not an empty folder"),
    ],
)
def test_wrong_use_gives_one_clear_message(
    datasets: Command, tables: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    save_dataset(tiny_dataset())
    result, out, error = datasets(*(argument.format(tables=tables) for argument in arguments))
    assert result == code
    assert words in " ".join(error.replace("│", " ").split())
    assert "Traceback" not in error
    assert not out
    assert not (Path(os.environ["RECBENCH_HOME"]) / "datasets" / "x").exists()


def test_prepare_ml_100k_and_mend_it(datasets: Command, home: Path) -> None:
    if find_spec("recbole") is None:
        pytest.skip("needs the RecBole package")
    code, out, _ = datasets("prepare", "ml-100k", "--json")
    assert code == 0
    assert json.loads(out)["interactions"] == 100_000
    (home / "datasets" / "ml-100k" / "items.parquet").write_bytes(b"")
    code, _, error = datasets("describe", "ml-100k")
    assert code == 3
    assert "recbench datasets prepare ml-100k --again" in " ".join(error.split())
    assert datasets("prepare", "ml-100k", "--again")[0] == 0
    assert datasets("describe", "ml-100k")[0] == 0


def test_help_has_examples(datasets: Command) -> None:
    for command in ("list", "prepare", "describe", "import", "export"):
        code, out, _ = datasets(command, "--help")
        assert code == 0
        assert f"recbench datasets {command}" in " ".join(out.split())


def _limit_files_to_1_kb() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_no_disk_space(tables: Path, home: Path) -> None:
    command = [sys.executable, "-m", "recbench", "datasets", "import", str(tables), "--name", "mine"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_limit_files_to_1_kb)
    assert result.returncode == 3
    assert "Free some space" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((home / "datasets").iterdir())


KILLED = """
import os, signal, sys
from recbench.data import folders
write_json = folders.write_json
def write_and_die(path, value):
    write_json(path, value)
    os.kill(os.getpid(), signal.SIGKILL)
folders.write_json = write_and_die
from recbench.testing.tiny import tiny_dataset
folders.save_dataset(tiny_dataset())
"""


def test_sigkill_in_the_middle_leaves_nothing_that_looks_complete(datasets: Command) -> None:
    result = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert result.returncode == -signal.SIGKILL
    assert datasets("describe", "tiny")[0] == 3
    _, out, _ = datasets("list", "--json")
    assert "tiny" not in {row["name"] for row in json.loads(out)["datasets"]}
    save_dataset(tiny_dataset())
    assert datasets("describe", "tiny")[0] == 0


def test_nothing_heavy_is_imported_to_show_help() -> None:
    code = (
        "import sys; import recbench.cli.datasets; "
        "heavy = ('pandas', 'pyarrow', 'numpy', 'torch', 'recbole', 'requests', 'duckdb'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_beauty_takes_seconds(datasets: Command, shared: Path) -> None:
    start = time.perf_counter()
    code, out, _ = datasets("import", shared / "data" / "beauty_2014", "--name", "beauty_2014", "--json")
    assert code == 0
    assert json.loads(out)["interactions"] == 198_502
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("content", ['["something else"]', '{"notes": "text"}', '{"noun": 3}'])
def test_an_about_file_of_something_else_is_not_taken_for_ours(datasets: Command, tables: Path, content: str) -> None:
    (tables / "about.json").write_text(content)
    code, out, error = datasets("import", tables, "--name", "mine", "--json")
    assert code == 0, error
    assert json.loads(out)["noun"] == "items"


def test_a_damaged_about_file_is_named(datasets: Command, tables: Path) -> None:
    (tables / "about.json").write_text("{")
    code, _, error = datasets("import", tables, "--name", "mine")
    assert code == 3
    assert "about.json is not valid JSON" in error


def test_a_bad_name_is_told_before_anything_is_read(datasets: Command) -> None:
    code, _, error = datasets("import", "nowhere", "--name", "")
    assert code == 2
    assert "cannot be the name" in error
