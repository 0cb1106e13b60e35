"""Report folders: what is in them, and that text, CSV, JSON and figures tell the same numbers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore
from recbench.contracts.comparison import Interval
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.protocol import Protocol
from recbench.experiment.curves import training_curves
from recbench.experiment.report import collect, make_report
from recbench.report.format import (
    effect_text,
    interval_text,
    markdown_table,
    metric_text,
    p_text,
    seconds_text,
    signed_interval_text,
    slug,
)
from recbench.report.render import parse_formats

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
    make_report(runs_dir, folder, ("md", "csv"))
    return folder


@pytest.fixture(scope="module")
def text(report_folder: Path) -> str:
    return (report_folder / "README.md").read_text()


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    section = text.split(heading, 1)[1]
    lines = re.search(r"(\|.*\n)+", section)
    assert lines
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.group(0).strip().split("\n")]


def test_groups_never_mix_models_or_try_outs(runs_dir: Path) -> None:
    report = collect(RunStore(runs_dir))
    content = [(group.backbone, group.limited, [row.entry.label for row in group.rows]) for group in report.groups]
    assert sorted(content[:2]) == [
        ("micro", False, ["bigrec (micro)", "sasrec"]),
        ("nano", False, ["sasrec", "bigrec (nano)"]),
    ]
    assert content[2:] == [(None, True, ["sasrec"])]


def test_leaderboard_numbers_are_the_rounded_means(runs_dir: Path, text: str) -> None:
    table = rows_of(text, "## tiny, global-time split, backbone nano")
    header, sasrec = table[0], dict(zip(table[0], table[2], strict=True))
    full = next(run.summary() for run in RunStore(runs_dir).select(method="sasrec") if not run.manifest.limited)
    assert header[:4] == ["Method", "NDCG@10 item", "95% interval", "HR@10 item"]
    assert sasrec["Method"] == "sasrec"
    for name in ("HR@10", "NDCG@5", "HR@5"):
        assert sasrec[f"{name} item"].strip("*") == f"{full['metrics'][name]:.4f}"
        assert sasrec[f"{name} title"].strip("*") == f"{full['metrics_title'][name]:.4f}"
    assert (sasrec["Training"], sasrec["Ranking"], sasrec["Seeds"]) == ("12 s", "0.75 s", "1")
    bigrec = dict(zip(header, table[3], strict=True))
    assert (bigrec["Method"], bigrec["Seeds"], bigrec["Training"]) == ("bigrec (nano)", "2", "13 s")


def test_the_best_value_of_a_column_is_bold(text: str) -> None:
    table = rows_of(text, "## tiny, global-time split, backbone nano")
    column = [row[1] for row in table[2:]]
    assert column[0].startswith("**")
    assert not any(cell.startswith("**") for cell in column[1:])


def test_csv_json_and_text_agree(report_folder: Path, text: str) -> None:
    document = json.loads((report_folder / "report.json").read_text())
    with (report_folder / "leaderboard.csv").open() as stream:
        lines = {(line["group"], line["label"]): line for line in csv.DictReader(stream)}
    n_entries = 0
    for group in document["groups"]:
        for entry in group["entries"]:
            line = lines[group["slug"], entry["label"]]
            for name, value in entry["metrics"].items():
                assert float(line[name]) == value
            assert metric_text(entry["metrics"]["item/NDCG@10"]) in text
            assert interval_text(Interval(**entry["interval"])) in text
            assert all(run_id in text for run_id in entry["run_ids"])
            n_entries += 1
    assert len(lines) == n_entries


def test_pairs_are_against_the_best(report_folder: Path) -> None:
    with (report_folder / "comparisons.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert {(line["a"], line["b"]) for line in lines} == {("bigrec (nano)", "sasrec"), ("sasrec", "bigrec (micro)")}


def test_notes_stand_under_the_table(text: str) -> None:
    assert "* train part recovered from histories" in text
    assert "* bigrec (nano) lists 10 places at most" in text
    assert "(TRY-OUT, rows left out)" in text
    assert "> **Try-out.**" in text


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


def test_every_figure_is_linked_and_there(report_folder: Path, text: str) -> None:
    links = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert len(links) == 8  # leaderboard and cost of three groups, training of the two with a log
    for link in links:
        png = (report_folder / link).read_bytes()
        assert png.startswith(b"\x89PNG")
        assert "<svg" in (report_folder / link).with_suffix(".svg").read_text()


def test_leaderboard_figure_names_methods_and_values(report_folder: Path, runs_dir: Path) -> None:
    from matplotlib.figure import Figure

    from recbench.report import figures

    group = next(g for g in collect(RunStore(runs_dir)).groups if g.backbone == "nano")
    drawn: list[Figure] = []
    original = Figure.savefig

    def keep(self: Figure, *arguments: object, **options: object) -> None:
        drawn.append(self)
        original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        figures.draw_all(group, report_folder.parent / "again")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bigrec (nano), 2 seeds", "sasrec"]
    dots = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == [row.entry.mean for row in reversed(group.rows)]


def test_figures_leave_no_global_state(one_run: Path, tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    make_report(one_run, tmp_path / "report", ("md",))
    assert dict(matplotlib.rcParams) == before


def test_same_runs_give_the_same_bytes(one_run: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):
        make_report(one_run, tmp_path / name, ("md", "csv"))
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) == 10
    for file in files:
        assert (tmp_path / "again" / file.relative_to(tmp_path / "first")).read_bytes() == file.read_bytes(), file.name


def test_a_report_is_replaced_without_leftovers(one_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    make_report(one_run, folder, ("md", "csv"))
    (folder / "my notes.txt").write_text("mine")
    make_report(one_run, folder, ("csv",))
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"report.json", "leaderboard.csv", "comparisons.csv", "my notes.txt"}


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


def test_no_run_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    document = make_report(tmp_path / "runs", tmp_path / "report", ("md", "csv"))
    assert document["groups"] == []
    assert "There is no complete run yet." in (tmp_path / "report" / "README.md").read_text()
    assert (tmp_path / "report" / "leaderboard.csv").read_text().strip() == ""


def test_a_missing_runs_folder_leaves_an_earlier_report_alone(one_run: Path, tmp_path: Path) -> None:
    make_report(one_run, tmp_path / "report", ("csv",))
    before = (tmp_path / "report" / "leaderboard.csv").read_bytes()
    with pytest.raises(ArtifactError, match="no folder of runs at nowhere"):
        make_report(Path("nowhere"), tmp_path / "report", ("csv",))
    assert (tmp_path / "report" / "leaderboard.csv").read_bytes() == before


def test_a_place_that_cannot_be_written_is_said(one_run: Path) -> None:
    with pytest.raises(ArtifactError, match="Cannot write /dev/null/x"):
        make_report(one_run, Path("/dev/null/x"), ("csv",))


def test_formats_that_do_not_exist_are_named() -> None:
    assert parse_formats("md, csv,md") == ("md", "csv")
    with pytest.raises(UsageError, match="report format 'html' does not exist") as error:
        parse_formats("md,html")
    assert "Known: md, csv" in str(error.value)
    with pytest.raises(UsageError, match="No report format"):
        parse_formats(" , ")


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


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "–"),
        (0.0, "<0.01 s"),
        (0.0421, "0.04 s"),
        (9.99, "9.99 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.8, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_seconds(seconds: float | None, expected: str) -> None:
    assert seconds_text(seconds) == expected


def test_numbers_as_text() -> None:
    assert metric_text(0.12345) == "0.1235"
    assert [p_text(p) for p in (None, 0.00004, 0.0001, 0.0496, 1.0)] == ["–", "<0.0001", "0.0001", "0.0496", "1.0000"]
    assert signed_interval_text(Interval(-0.01, 0.02)) == "-0.0100 to +0.0200"
    assert [effect_text(e) for e in (None, 0.1, -1.0)] == ["–", "+0.10", "-1.00"]
    assert slug("recbole:NARM / x") == "recbole-NARM-x"


def test_markdown_cells_are_escaped() -> None:
    assert markdown_table(["a", "b"], [["x|y", "1\n2"]]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1 2 |"


def test_pretraining_of_a_shared_preset_is_not_charged_to_the_run_that_came_first() -> None:
    from recbench.experiment.report import _training_s

    assert _training_s({"fit": 100.0, "pretrain": 60.0, "sft": 35.0}) == 40.0
    assert _training_s({"fit": 40.0}) == 40.0
    assert _training_s({"rank": 1.0}) is None
