"""Kept audits, audits for reports, and what reports say of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from helpers_audit import dataset_of, finding_of, subject_of
from helpers_runs import make_run

from recbench.artifacts.paths import audits_folder
from recbench.audit.dataset import audit_dataset
from recbench.contracts.audit import AUDIT_VERSION, AuditReport
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import UsageError
from recbench.contracts.protocol import Protocol
from recbench.data.folders import save_dataset
from recbench.experiment import audit as audits
from recbench.experiment.audit import audit_command, audit_data, audit_of_group, audit_run
from recbench.report.csvfile import csv_files
from recbench.report.document import Document, Group
from recbench.report.markdown import page
from recbench.report.sections.audit import audit_headline, audit_section
from recbench.testing.tiny import tiny_dataset


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of caches."""
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def dataset(home: Path) -> Dataset:
    """The tiny data set, prepared."""
    tiny = tiny_dataset()
    save_dataset(tiny)
    return tiny


def no_audit(*arguments: object) -> AuditReport:
    raise AssertionError("the audit was made again")


def test_an_audit_is_kept_and_serves_any_name(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made = audit_data("tiny", {})
    (file,) = audits_folder().iterdir()
    assert json.loads(file.read_text())["findings"]
    save_dataset(Dataset("twin", dataset.users, dataset.catalog, dataset.interactions))
    monkeypatch.setattr(audits, "audit_dataset", no_audit)
    twin = audit_data("twin", {})
    assert (twin.dataset, twin.command) == ("twin", "recbench audit twin")
    assert twin.findings == made.findings
    with pytest.raises(AssertionError, match="made again"):
        audit_data("tiny", {}, again=True)
    with pytest.raises(AssertionError, match="made again"):
        audit_data("tiny", {"max_history": 5})


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"kind": "data"})])
def test_a_damaged_kept_audit_is_made_again(dataset: Dataset, content: str, caplog: pytest.LogCaptureFixture) -> None:
    made = audit_data("tiny", {})
    (file,) = audits_folder().iterdir()
    file.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert audit_data("tiny", {}) == made
    assert "is made again" in caplog.text
    assert json.loads(file.read_text())["version"] == AUDIT_VERSION


def test_an_audit_that_cannot_be_kept_is_made_all_the_same(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    audits_folder().write_text("in the way")
    assert audit_data("tiny", {}).findings
    assert "could not be kept" in caplog.text


def test_the_audit_of_a_group_is_that_of_its_data(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sasrec", dataset=dataset, protocol=Protocol(max_history=5))
    report = audit_of_group(run.manifest)
    assert report is not None
    assert report.dataset_fingerprint == dataset.fingerprint
    assert report.command == "recbench audit tiny --set protocol.max_history=5"
    assert report.findings == audit_data("tiny", {"max_history": 5}).findings


def test_without_the_data_a_kept_audit_is_enough(
    dataset: Dataset, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", "sasrec", dataset=dataset)
    folder = home / "datasets" / "tiny"
    folder.rename(home / "elsewhere")
    assert audit_of_group(run.manifest) is None
    (home / "elsewhere").rename(folder)
    made = audit_of_group(run.manifest)
    folder.rename(home / "elsewhere")
    assert audit_of_group(run.manifest) == made
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "other home"))
    assert audit_of_group(run.manifest) is None


def test_other_data_under_the_same_name_are_not_audited_for_a_run(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sasrec", dataset=dataset)
    save_dataset(Dataset("tiny", dataset.users, dataset_of([(0, 0, 0)], ["x"] * 60).catalog, dataset.interactions),
                 replace_old=True)  # fmt: skip
    assert audit_of_group(run.manifest) is None


def test_a_stored_run_is_audited_and_a_changed_one_says_so(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sasrec", dataset=dataset)
    report = audit_run(run)
    assert (report.kind, report.source, report.n_test) == ("lists", f"run {run.run_id}", len(run.metrics()))
    table = run.metrics()
    truths = finding_of(report, "lists-two-truths").effect
    assert truths is not None
    assert truths.hr == pytest.approx((table["title/HR@10"] - table["item/HR@10"]).mean(), abs=1e-12)
    ties = finding_of(report, "lists-ties")
    assert ties.facts["NDCG@10 expected"] == pytest.approx(table["item/NDCG@10"].mean(), abs=1e-12)
    run.paths.summary.write_text("{}")
    changed = finding_of(audit_run(run), "run-changed")
    assert (changed.rating, changed.examples) == ("danger", ({"file": "summary.json has changed"},))
    assert not audit_run(run).blocks_import


def test_a_run_that_is_not_complete_has_no_lists(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is failed"):
        audit_run(make_run(tmp_path / "runs", "sasrec", dataset=dataset, status="failed"))


@pytest.mark.parametrize(
    ("protocol", "command"),
    [
        (Protocol(), "recbench audit mine"),
        (Protocol(split="leave-one-out", mask_history=True),
         "recbench audit mine --split leave-one-out --set protocol.mask_history=true"),
        (Protocol(ratios=(7, 1, 2), boundary="time"),
         "recbench audit mine --set 'protocol.ratios=[7, 1, 2]' --set protocol.boundary=time"),
    ],
)  # fmt: skip
def test_commands(protocol: Protocol, command: str) -> None:
    assert audit_command("mine", protocol) == command


def report_of(events: list[tuple[int, int, int]], titles: list[str] | None = None, **protocol: object) -> AuditReport:
    subject = subject_of(dataset_of(events, titles), **protocol)
    return audit_dataset(subject.dataset, subject.split, subject.protocol)


FOUND = [(user, item, 10 * place) for user in range(4) for place, item in enumerate([0, 1, 2, 3])]


def test_headline() -> None:
    report = report_of(FOUND, ["Same", "Other", "Third", "Same", "`code` **bold**"], split="leave-one-out")
    text = audit_headline(report, "recbench audit mine")
    assert text == (
        "Audit: 2 dangers (100.0% of test targets share their title: through them item HR@10 can lie 1.000 below title "
        "HR@10; 100.0% of test targets were never seen in training), no notes; `recbench audit mine`."
    )
    assert audit_headline(None, "recbench audit mine").startswith("Audit: not made, because the data set is not on")
    assert "`recbench audit mine`" in audit_headline(None, "recbench audit mine")


def test_section_shows_every_check_and_every_format_renders_it() -> None:
    report = report_of(FOUND, ["Same", "Other", "Third", "Same", "`code` **bold**"], split="leave-one-out")
    section = audit_section(report, "recbench audit mine", full=True)
    (table,) = section.tables
    assert [row.values["code"] for row in table.rows] == [finding.code for finding in report.findings]
    keys = {column.key for column in table.columns}
    assert all(keys == row.values.keys() for row in table.rows)
    text = page(section)
    for finding in report.findings:
        assert f"`{finding.code}`" in text
        assert (finding.found.split("“")[0] in text) == (finding.rating != "fine")
    group = Group("g", "G", False, (section,))
    files = csv_files(Document("Audit", section, None, (group,)))
    (content,) = [content for name, content in files.items() if "audit" in name]
    effects = [finding.effect for finding in report.findings if finding.effect and 0 < finding.effect.hr < 1]
    assert all(repr(effect.hr) in content for effect in effects)
    assert np.isfinite([effect.hr for effect in effects]).all()


def test_section_without_an_audit_is_one_sentence() -> None:
    section = audit_section(None, "recbench audit mine")
    assert (len(section.paragraphs), section.tables) == (1, ())
