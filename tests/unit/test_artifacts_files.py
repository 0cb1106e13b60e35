"""Atomic writing, the training log and the run lock."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from recbench.artifacts.files import atomic_folder, atomic_path, read_json, write_json
from recbench.artifacts.lock import exclusive, is_held
from recbench.artifacts.train_log import open_train_log, plain
from recbench.contracts.errors import ArtifactError


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_text("half", encoding=3)  # type: ignore[arg-type]
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": True})
    monkeypatch.setattr(call, no_space)
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        write_json(path, {"old": False})
    assert caught.value.exit_code == 3
    assert read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(ArtifactError, match="No space left"), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_of_two_folders_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as late:
        (late / "who").write_text("late")
        with atomic_folder(path) as early:
            (early / "who").write_text("early")
    assert (path / "who").read_text() == "early"
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(ArtifactError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(ArtifactError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")


def test_plain_values() -> None:
    record = {
        "a": np.float32(0.5), "b": [math.nan, math.inf, 1], "c": (np.int64(3),), "d": np.array([[1.0, math.nan]]),
        5: True, "e": None, "f": "é",
    }  # fmt: skip
    expected = {"a": 0.5, "b": [None, None, 1], "c": [3], "d": [[1.0, None]], "5": True, "e": None, "f": "é"}
    assert plain(record) == expected


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ("", []),
        ('{"step": 0}\n', [0]),
        ('{"step": 0}\n{"step": 1}\n{"ste', [0, 1]),
        ('{"st', []),
    ],
)
def test_train_log_goes_on_after_whole_lines(tmp_path: Path, found: str, kept: list[int]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(found)
    with open_train_log(path) as log:
        log.write({"step": 9})
        lines = path.read_text().splitlines()  # already on disk while the log is open
    assert [json.loads(line)["step"] for line in lines] == [*kept, 9]


def _hold(path: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with exclusive(path):
        ready.set()
        done.wait(60)


def test_lock_is_refused_while_held_and_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(path, ready, done))
    process.start()
    try:
        assert ready.wait(60)
        assert is_held(path)
        with pytest.raises(ArtifactError, match=f"worked on by process {process.pid} on"), exclusive(path):
            pass
        process.kill()
        process.join(60)
        assert path.exists(), "a kill leaves the file, but not the lock"
        assert not is_held(path)
        with exclusive(path):
            assert path.read_text().startswith(f"process {os.getpid()} on")
        assert not path.exists()
    finally:
        process.kill()


def test_lock_of_a_file_that_its_holder_deleted_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with exclusive(path):
        path.unlink()
        with exclusive(path):
            assert path.exists()
    assert not is_held(path)
