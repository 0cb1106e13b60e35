"""Report folders: what is in them, and that text, page, CSV, JSON and figures tell the same numbers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.protocol import Protocol
from recbench.experiment.curves import training_curves
from recbench.experiment.leaderboard import training_s
from recbench.experiment.report import collect, make_report
from recbench.report.document import Document, Group, Section, Table
from recbench.report.format import interval_text, metric_text
from recbench.report.render import FORMATS, parse_formats

LOSSES = [{"stage": "train", "step": n, "epoch": n, "loss": 2 / n, "valid/NDCG@10": n / 10} for n in range(1, 6)]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full group with two language models, a try-out, a failed, a cancelled, a killed and two damaged runs."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    make_run(folder, "sasrec", quality=0.6, train_log=LOSSES, notes=("train part recovered from histories",))
    for seed in range(2):
        make_run(folder, "bigrec", quality=0.5, seed=seed, backbone="nano", k=10)
    make_run(folder, "bigrec", quality=0.7, backbone="micro")
    make_run(folder, "sasrec", protocol=Protocol(limit_test=20))
    make_run(folder, "latentr3", status="failed", backbone="nano", error="TrainingError: loss | NaN\nmore")
    make_run(folder, "gru4rec", status="cancelled")
    make_run(folder, "narm", status="running")
    make_run(folder, "caser", quality=0.8).paths.metrics.unlink()
    damaged = folder / "tiny" / "caser" / "abc"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One complete run, for tests that only need some report."""
    folder = tmp_path_factory.mktemp("one") / "runs"
    make_run(folder, "sasrec", train_log=LOSSES)
    return folder


@pytest.fixture(scope="module")
def report_folder(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "report"
    make_report(runs_dir, folder, tuple(FORMATS))
    return folder


@pytest.fixture(scope="module")
def text(report_folder: Path) -> str:
    return (report_folder / "README.md").read_text()


@pytest.fixture(scope="module")
def document(runs_dir: Path) -> Document:
    return collect(RunStore(runs_dir))


def section_of(group: Group, slug: str) -> Section:
    return next(section for section in group.sections if section.slug == slug)


def board_of(group: Group) -> Table:
    return section_of(group, "leaderboard").tables[0]


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    section = text.split(heading, 1)[1]
    lines = re.search(r"(\|.*\n)+", section)
    assert lines
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.group(0).strip().split("\n")]


def test_groups_never_mix_models_or_try_outs(document: Document) -> None:
    content = [
        (group.facts["backbone_of_group"], group.limited, [row.values["label"] for row in board_of(group).rows])
        for group in document.groups
    ]
    assert sorted(content[:2]) == [
        ("micro", False, ["bigrec (micro)", "sasrec"]),
        ("nano", False, ["sasrec", "bigrec (nano)"]),
    ]
    assert content[2:] == [(None, True, ["sasrec"])]


def test_leaderboard_numbers_are_the_rounded_means(runs_dir: Path, text: str) -> None:
    table = rows_of(text, "## tiny, global-time split, backbone nano")
    header, sasrec = table[0], dict(zip(table[0], table[2], strict=True))
    full = next(run.summary() for run in RunStore(runs_dir).select(method="sasrec") if not run.manifest.limited)
    assert header[:6] == ["#", "Method", "NDCG@10 item", "95% interval", "Ranks", "HR@10 item"]
    assert sasrec["Method"].strip("*") == "sasrec"
    for name in ("HR@10", "NDCG@5", "HR@5"):
        assert sasrec[f"{name} item"] == f"{full['metrics'][name]:.4f}"
    for name in ("NDCG@10", "HR@10"):
        assert sasrec[f"{name} title"] == f"{full['metrics_title'][name]:.4f}"
    assert (sasrec["Training"], sasrec["Ranking"], sasrec["Seeds"]) == ("12 s", "0.75 s", "1")
    bigrec = dict(zip(header, table[3], strict=True))
    assert (bigrec["Method"].strip("*"), bigrec["Seeds"], bigrec["Training"]) == ("bigrec (nano)", "2", "13 s")


def test_what_may_be_the_best_is_bold_and_what_is_worse_has_marks(tmp_path: Path) -> None:
    make_run(tmp_path, "good", quality=0.6)
    make_run(tmp_path, "alike", quality=0.6, seed=1)
    make_run(tmp_path, "weak", quality=0.0)
    (group,) = collect(RunStore(tmp_path)).groups
    bold = {row.values["label"]: "label" in row.bold for row in board_of(group).rows}
    marks = {row.values["label"]: (row.marks or {}).get("item/NDCG@10", "") for row in board_of(group).rows}
    assert bold == {"good": True, "alike": True, "weak": False}
    assert marks["weak"] == "***"
    assert "".join(marks[name] for name in ("good", "alike")) == ""
    ranks = {row.values["label"]: row.values["ranks"] for row in board_of(group).rows}
    assert ranks == {"good": (1, 2), "alike": (1, 2), "weak": (3, 3)}


def test_all_formats_tell_the_same_numbers(report_folder: Path, text: str, document: Document) -> None:
    record = json.loads((report_folder / "report.json").read_text())
    page = (report_folder / "index.html").read_text()
    with (report_folder / "csv" / "leaderboard.csv").open() as stream:
        lines = {(line["group"], line["label"]): line for line in csv.DictReader(stream)}
    n_entries = 0
    for group, recorded in zip(document.groups, record["groups"], strict=True):
        latex = (report_folder / "latex" / f"{group.slug}-leaderboard.tex").read_text()
        entries = recorded["sections"]["leaderboard"]["tables"]["leaderboard"]
        for row, entry in zip(board_of(group).rows, entries, strict=True):
            line = lines[group.slug, entry["label"]]
            for name in [name for name in entry if name.startswith(("item/", "title/"))]:
                assert float(line[name]) == entry[name] == row.values[name]
                assert f'data-sort="{entry[name]!r}"' in page
            interval = row.values["interval"]
            assert (float(line["interval_low"]), entry["interval_high"]) == (interval.low, interval.high)
            for shown in (metric_text(row.values["item/NDCG@10"]), interval_text(interval)):
                assert shown in text
                assert shown in page
                assert shown in latex
            assert all(run_id in text for run_id in entry["run_ids"].split())
            n_entries += 1
    assert len(lines) == n_entries


def test_pairs_are_against_the_best(report_folder: Path) -> None:
    with (report_folder / "csv" / "comparison-pairs.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert {(line["a"], line["b"]) for line in lines} == {("bigrec (nano)", "sasrec"), ("sasrec", "bigrec (micro)")}


def test_the_overview_leads_to_every_group(document: Document, text: str, report_folder: Path) -> None:
    assert document.overview
    links = [row.link for row in document.overview.tables[0].rows]
    assert links == [group.slug for group in document.groups]
    page = (report_folder / "index.html").read_text()
    for link in links:
        assert f'<a id="{link}"></a>' in text
        assert f"](#{link})" in text
        assert f'href="#g-{link}"' in page
        assert f'id="g-{link}"' in page


def test_notes_stand_under_the_table(text: str) -> None:
    assert "* train part recovered from histories" in text
    assert "* bigrec (nano) lists 10 places at most" in text
    assert "(TRY-OUT, rows left out)" in text
    assert "> **Warning.** Try-out, not a result: rows were left out to save time (limit_test=20)." in text
    assert "recbench audit tiny" in text


def test_unfinished_and_damaged_runs_are_listed_apart(text: str) -> None:
    rows = rows_of(text, "## Runs that are not complete")
    assert [(row[0], row[4]) for row in rows[2:]] == [
        ("gru4rec", "cancelled"),
        ("latentr3 (nano)", "failed"),
        ("narm", "interrupted"),
    ]
    assert "TrainingError: loss \\| NaN" in text
    damaged = text.split("## Folders that could not be read")[1]
    assert "tiny/caser/abc" in damaged
    assert "metrics.parquet is missing" in damaged


def test_a_section_that_cannot_be_made_says_so_and_spoils_no_other(
    one_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ArtifactError("The facts are missing.", "Type recbench evaluate.")

    for name in ("slices_of_group", "audit_of_group"):
        monkeypatch.setattr(f"recbench.experiment.report.{name}", fails)
    (group,) = collect(RunStore(one_run)).groups
    assert section_of(group, "slices").warnings == (
        "This could not be made: The facts are missing.",
        "Type recbench evaluate.",
    )
    assert "The data could not be audited: The facts are missing." in board_of(group).notes
    assert len(board_of(group).rows) == 1


def test_every_figure_is_linked_and_there(report_folder: Path, text: str, document: Document) -> None:
    links = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert len(links) == sum(len(section.figures) for group in document.groups for section in group.sections)
    assert sum("leaderboard" in link for link in links) == 3
    assert sum("curves" in link for link in links) == 4  # loss and validation of the two groups with a log
    for link in links:
        png = (report_folder / link).read_bytes()
        assert png.startswith(b"\x89PNG")
        assert "<svg" in (report_folder / link).with_suffix(".svg").read_text()


def test_figures_leave_no_global_state(one_run: Path, tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    make_report(one_run, tmp_path / "report", ("md",))
    assert dict(matplotlib.rcParams) == before


def test_same_runs_give_the_same_bytes(one_run: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):
        make_report(one_run, tmp_path / name, tuple(FORMATS))
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) > 15
    for file in files:
        assert (tmp_path / "again" / file.relative_to(tmp_path / "first")).read_bytes() == file.read_bytes(), file.name


def test_a_report_is_replaced_without_leftovers(one_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    make_report(one_run, folder, tuple(FORMATS))
    (folder / "my notes.txt").write_text("mine")
    record = make_report(one_run, folder, ("csv",))
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"report.json", "my notes.txt", *record["files"]}
    assert "csv/leaderboard.csv" in left
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"csv", "configs"}


def test_a_file_list_of_an_earlier_report_cannot_reach_out_of_its_folder(one_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    make_report(one_run, folder, ("csv",))
    (tmp_path / "precious.txt").write_text("mine")
    record = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**record, "files": ["../precious.txt"]}))
    make_report(one_run, folder, ("csv",))
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_report_as_it_was(
    one_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    make_report(one_run, folder, ("md", "csv"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    written = 0

    def full_after_a_while(handle: int) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbench.report.render.os.fsync", full_after_a_while)
    for target in (folder, tmp_path / "new"):
        written = 0
        with pytest.raises(ArtifactError, match="No space left on device"):
            make_report(one_run, target, tuple(FORMATS))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_things_is_not_touched(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="holds no earlier report"):
        make_report(runs_dir, tmp_path, ("md",))
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(UsageError, match="is a file"):
        make_report(runs_dir, tmp_path / "README.md", ("md",))


def test_the_commands_to_repeat_a_comparison_need_two_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "good", quality=0.9)
    make_report(tmp_path / "runs", tmp_path / "one", ("md",))
    assert "recbench compare" not in (tmp_path / "one" / "README.md").read_text()
    weak = make_run(tmp_path / "runs", "weak", quality=0.0)
    make_report(tmp_path / "runs", tmp_path / "two", ("md",))
    command = next(
        line
        for line in (tmp_path / "two" / "README.md").read_text().splitlines()
        if line.startswith("recbench compare")
    )
    assert f" {weak.run_id} " in command


def test_settings_beside_the_report_ask_for_the_same_runs(runs_dir: Path, report_folder: Path) -> None:
    from recbench.experiment.config import build_experiment

    with (report_folder / "csv" / "rebuild-runs.csv").open() as stream:
        lines = {line["run_id"]: line for line in csv.DictReader(stream)}
    runs = {run.run_id: run for run in RunStore(runs_dir).all() if run.run_id in lines}
    assert len(runs) == len(lines) == 5
    for run_id, line in lines.items():
        manifest = runs[run_id].manifest
        asked = build_experiment(report_folder / line["settings"], {"seed": int(line["seed"])}, [])
        assert (asked.method, asked.dataset, asked.seed) == (manifest.method, manifest.dataset, manifest.seed)
        assert asked.backbone == (manifest.backbone.name if manifest.backbone else None)
        assert asked.config == manifest.config
        assert Protocol(**asked.protocol) == manifest.protocol
        assert line["metrics_sha256"] == manifest.files["metrics.parquet"]


def test_no_run_at_all_is_said_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    record = make_report(tmp_path / "runs", tmp_path / "report", tuple(FORMATS))
    assert record["groups"] == []
    for name in ("README.md", "index.html", "latex/report.tex"):
        assert "There is no complete run yet." in (tmp_path / "report" / name).read_text()


def test_a_missing_runs_folder_leaves_an_earlier_report_alone(one_run: Path, tmp_path: Path) -> None:
    make_report(one_run, tmp_path / "report", ("csv",))
    before = (tmp_path / "report" / "csv" / "leaderboard.csv").read_bytes()
    with pytest.raises(ArtifactError, match="no folder of runs at nowhere"):
        make_report(Path("nowhere"), tmp_path / "report", ("csv",))
    assert (tmp_path / "report" / "csv" / "leaderboard.csv").read_bytes() == before


def test_a_place_that_cannot_be_written_is_said(one_run: Path) -> None:
    with pytest.raises(ArtifactError, match="Cannot write /dev/null/x"):
        make_report(one_run, Path("/dev/null/x"), ("csv",))


def test_formats_that_do_not_exist_are_named() -> None:
    assert parse_formats("md, csv,md") == ("md", "csv")
    with pytest.raises(UsageError, match=r"report format 'htm' does not exist\. Did you mean 'html'") as error:
        parse_formats("md,htm")
    assert "Known: md, html, latex, csv" in str(error.value)
    with pytest.raises(UsageError, match="No report format"):
        parse_formats(" , ")


def test_metrics_that_only_some_runs_have_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, "new", quality=0.9)
    older = make_run(tmp_path, "older")
    older.metrics().drop(columns=["item/MRR@20"]).to_parquet(older.paths.metrics, index=False)
    older.update_hashes([older.paths.metrics])
    (group,) = collect(RunStore(tmp_path)).groups
    assert "item/MRR@10" in board_of(group).rows[0].values
    assert "item/MRR@20" not in board_of(group).rows[0].values


def test_settings_that_the_search_never_reads_make_no_entry_of_their_own(tmp_path: Path) -> None:
    for seed, steps in ((1, 32), (2, 128)):
        decoding = {"mode": "constrained", "search": "beam", "beams": 10, "exact": {"tokens_per_step": steps}}
        make_run(tmp_path, "bigrec", seed=seed, config={"decoding": decoding}, backbone="nano")
    exact = {"mode": "constrained", "search": "exact", "beams": 10, "exact": {"tokens_per_step": 32}}
    make_run(tmp_path, "bigrec", seed=1, config={"decoding": exact}, backbone="nano")
    (group,) = collect(RunStore(tmp_path)).groups
    found = {row.values["label"]: row.values["seeds"] for row in board_of(group).rows}
    assert found == {"bigrec (nano)": "1 2", "bigrec (nano, exact search)": "1"}


def test_curves_keep_the_last_record_of_a_step(tmp_path: Path) -> None:
    log = [
        {"stage": "sft", "step": 10, "epoch": 0.5, "loss": 3.0, "learning_rate": 1.0},
        {"stage": "sft", "step": 20, "epoch": 1.0, "loss": 2.0},
        {"stage": "sft", "step": 10, "epoch": 0.5, "loss": 2.5},
        {"stage": "sft", "step": 20, "epoch": 1.0, "eval_loss": 2.2},
        {"stage": "rl", "step": 1, "epoch": 1, "reward_perturbed": -1.5, "loss": None},
        {"note": "no step"},
    ]
    run = make_run(tmp_path, "latentr3", train_log=log, status="cancelled")
    curves = {(c.stage, c.series): c for c in training_curves(run, "latentr3")}
    assert set(curves) == {("sft", "loss"), ("sft", "eval_loss"), ("rl", "reward_perturbed")}
    assert (curves["sft", "loss"].x, curves["sft", "loss"].y) == ((10.0, 20.0), (2.5, 2.0))
    assert curves["sft", "loss"].unit == "step"
    assert curves["rl", "reward_perturbed"].unit == "epoch"
    assert curves["rl", "reward_perturbed"].panel == "reward"


def test_a_damaged_log_names_its_line(tmp_path: Path) -> None:
    run = make_run(tmp_path, "sasrec", train_log=LOSSES, status="cancelled")
    with run.paths.train_log.open("a") as stream:
        stream.write("{oops\n")
    with pytest.raises(ArtifactError, match="line 6 is not JSON"):
        training_curves(run, "sasrec")


def test_pretraining_of_a_shared_preset_is_not_charged_to_the_run_that_came_first() -> None:
    assert training_s({"fit": 100.0, "pretrain": 60.0, "sft": 35.0}) == 40.0
    assert training_s({"fit": 40.0}) == 40.0
    assert training_s({"rank": 1.0}) is None
