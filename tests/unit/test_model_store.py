"""Kept models: what is stored, found again, refused when damaged, and copied into runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbench.artifacts.models import FitRecord, ModelStore
from recbench.artifacts.paths import FitPaths
from recbench.contracts.errors import ArtifactError


def finished_fit(folder: Path, fit_id: str | None = "abc", weights: bytes = b"weights") -> FitPaths:
    """Write what a run's scratch folder holds after the fit."""
    paths = FitPaths(folder)
    (paths.model / "lm").mkdir(parents=True)
    (paths.model / "lm" / "weights.bin").write_bytes(weights)
    (paths.model / "facts.json").write_text("{}")
    paths.train_log.write_text('{"step": 1}\n')
    record = FitRecord(
        fit_id=fit_id, fitted_by="run1", method="m", dataset="d", seed=1, created="2026-01-01T00:00:00+00:00",
        timings_s={"fit": 3.0}, peak_memory_bytes={"host": 5}, provenance={},
    )  # fmt: skip
    record.write(paths.record)
    return paths


def test_kept_and_copied_into_a_run(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    assert store.get("abc") is None
    store.keep(finished_fit(tmp_path / "work"))
    kept = store.get("abc")
    assert kept is not None
    assert (kept.record.fitted_by, kept.record.timings_s) == ("run1", {"fit": 3.0})
    assert set(kept.record.files) == {"model/lm/weights.bin", "model/facts.json", "train.jsonl"}
    copy = FitPaths(tmp_path / "other")
    kept.copy_to(copy)
    assert (copy.model / "lm" / "weights.bin").read_bytes() == b"weights"
    assert copy.train_log.read_text() == '{"step": 1}\n'
    assert FitRecord.read(copy.record).is_kept
    assert not FitRecord.read(FitPaths(tmp_path / "work").record).is_kept
    assert [one.record.fit_id for one in store.all()] == ["abc"]
    assert store.remove("abc") > len(b"weights")
    assert store.get("abc") is None
    assert (copy.model / "lm" / "weights.bin").read_bytes() == b"weights", "a run's copy outlives the kept model"


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("model/lm/weights.bin", "weightz", "model/lm/weights.bin has changed"),
        ("model/facts.json", None, "model/facts.json is missing"),
        ("fit.json", "{", "not valid JSON"),
        ("fit.json", '{"schema_version": 99}', "schema_version 99"),
        ("fit.json", None, "does not exist"),
    ],
)
def test_damaged_is_told_not_used_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, content: str | None, problem: str
) -> None:
    store = ModelStore(tmp_path / "store")
    work = finished_fit(tmp_path / "work")
    damaged = store.keep(work).paths.folder / file
    damaged.unlink()  # never write into it: it may be a hard link to a run's file
    if content is not None:
        damaged.write_text(content)
    assert store.get("abc") is None
    assert problem in caplog.text
    store.keep(work)
    assert store.get("abc") is not None


def test_an_intact_one_stays(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.keep(finished_fit(tmp_path / "first", weights=b"first"))
    kept = store.keep(finished_fit(tmp_path / "second", weights=b"second"))
    assert (kept.paths.model / "lm" / "weights.bin").read_bytes() == b"first"


def test_records_are_checked(tmp_path: Path) -> None:
    paths = finished_fit(tmp_path / "work")
    values = json.loads(paths.record.read_text())
    paths.record.write_text(json.dumps(values | {"colour": "red"}))
    with pytest.raises(ArtifactError, match="colour: unknown key"):
        FitRecord.read(paths.record)
