"""From runs to tables of slices and rows beyond accuracy, and their sections in a report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore, StoredRun
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.hashing import hash_file
from recbench.contracts.protocol import Protocol
from recbench.contracts.slices import SliceTable
from recbench.data.split import make_split
from recbench.evaluation.facts import FACTS, fact_column
from recbench.experiment.beyond import beyond_of_group
from recbench.experiment.entries import group_by_identity, label_entries
from recbench.experiment.slices import REPORT_CUTS, slice_runs, slices_of_group
from recbench.report.document import Section
from recbench.report.figures import draw
from recbench.report.format import cell_text
from recbench.report.sections.beyond import beyond_section
from recbench.report.sections.slices import slices_section
from recbench.testing.tiny import UNSEEN_ITEMS, tiny_dataset


def dataset_with_cold_items() -> Dataset:
    """Return the tiny data set, in which ten users end with an item that training never shows."""
    tiny = tiny_dataset()
    item = tiny.interactions.item.copy()
    last = np.flatnonzero(np.diff(tiny.interactions.user, append=-1))
    item[last[:10]] = UNSEEN_ITEMS[0]
    return dataclasses.replace(tiny, interactions=dataclasses.replace(tiny.interactions, item=item))


DATA = dataset_with_cold_items()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two methods; the better one has two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder, "good", quality=0.6, seed=0, dataset=DATA)
    make_run(folder, "good", quality=0.6, seed=1, dataset=DATA)
    make_run(folder, "weak", quality=0.4, dataset=DATA)
    return RunStore(folder)


def forget_facts(run: StoredRun) -> StoredRun:
    """Make a run as an older recbench left it: no facts, and nothing new in its summary."""
    run.metrics().drop(columns=[fact_column(name) for name in FACTS]).to_parquet(run.paths.metrics, index=False)
    summary = run.summary()
    for name in ("n_items", "n_train", "generated"):
        del summary[name]
    summary["lists"] = {name: summary["lists"][name] for name in ("k", "coverage", "gini", "average_popularity")}
    run.paths.summary.write_text(json.dumps(summary))
    files = run.manifest.files | {path.name: hash_file(path) for path in (run.paths.metrics, run.paths.summary)}
    run.manifest.model_copy(update={"files": files}).write(run.paths.manifest)
    return StoredRun.open(run.paths.folder)


def table_of(store: RunStore, cut: str, **options: str) -> SliceTable:
    (table,) = slice_runs(store, ["good", "weak"], by=[cut], **options)
    return table


def test_a_table_says_what_loops_over_the_test_rows_say(store: RunStore) -> None:
    table = table_of(store, "popularity", baseline="weak")
    dataset, split = DATA, make_split(DATA, Protocol())
    n_items = len(dataset.catalog)
    frequency = {item: int((split.train.target == item).sum()) for item in range(n_items)}
    ranked = sorted(frequency, key=lambda item: (-frequency[item], dataset.catalog.ids[item]))
    popular = {item for item in ranked[: -(-n_items // 5)] if frequency[item]}
    head = np.array([target in popular for target in split.test.target])
    runs = store.select(method="good")
    good = np.mean([run.metrics()["item/NDCG@10"].to_numpy() for run in runs], axis=0)
    weak = store.select(method="weak")[0].metrics()["item/NDCG@10"].to_numpy()
    assert [one.key for one in table.slices] == ["head", "tail"]
    assert [entry.label for entry in table.entries] == ["good", "weak"]
    for place, rows in enumerate((head, ~head)):
        one, value, base = table.slices[place], table.entries[0].values[place], table.entries[1].values[place]
        assert one.n_rows == rows.sum()
        assert one.n_users == len(np.unique(split.test.user[rows]))
        assert one.n_items == len(np.unique(split.test.target[rows]))
        assert one.share == rows.mean()
        assert value.mean == pytest.approx(good[rows].mean())
        assert base.mean == pytest.approx(weak[rows].mean())
        assert value.improvement == pytest.approx(good[rows].mean() / weak[rows].mean() - 1)
        assert base.improvement is None
    assert table.entries[0].whole.mean == pytest.approx(good.mean())
    entry = table.entries[0]
    assert entry.relative is not None
    assert entry.values[1].improvement is not None
    assert entry.values[0].improvement is not None
    assert entry.relative.value == pytest.approx(entry.values[1].improvement - entry.values[0].improvement)
    assert entry.absolute is not None
    assert table.entries[1].relative is None
    assert 0 < entry.relative.p <= entry.relative.p_adjusted <= 1


def test_gains_over_several_metrics_are_of_sums_and_means_of_ratios(store: RunStore) -> None:
    table = table_of(store, "cold", baseline="weak")
    assert table.summed_metrics == ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
    columns = [f"item/{name}" for name in table.summed_metrics]
    good = np.mean([run.metrics()[columns].mean().to_numpy() for run in store.select(method="good")], axis=0)
    weak = store.select(method="weak")[0].metrics()[columns].mean().to_numpy()
    whole = table.entries[0].whole
    assert whole.improvement_of_sums == pytest.approx(good.sum() / weak.sum() - 1)
    assert whole.mean_improvement == pytest.approx((good / weak).mean() - 1)
    assert whole.n_improvements == 4


def test_metrics_without_a_hit_of_the_baseline_are_left_out_of_the_mean(tmp_path: Path) -> None:
    good, none = make_run(tmp_path, "good", quality=0.6), make_run(tmp_path, "none", quality=0.1)
    metrics = none.metrics()
    metrics.loc[:, ["item/HR@5", "item/NDCG@5"]] = 0.0
    metrics.to_parquet(none.paths.metrics, index=False)
    none.update_hashes([none.paths.metrics])
    (table,) = slice_runs(RunStore(tmp_path), ["good"], by=["popularity"], baseline="none", metric="NDCG@5")
    whole = table.entries[0].whole
    assert table.entries[0].run_ids == (good.run_id,)
    assert whole.improvement is None
    assert table.entries[0].relative is None
    assert table.entries[0].absolute is not None
    assert whole.n_improvements == 2
    assert whole.improvement_of_sums is not None
    assert whole.mean_improvement is not None


def test_small_slices_are_marked(store: RunStore) -> None:
    slices = {one.key: one for one in table_of(store, "cold").slices}
    assert slices["warm"].n_users < 50
    assert "few users" in slices["warm"].warnings
    assert "few hits" not in slices["warm"].warnings


@pytest.mark.parametrize(
    ("methods", "baseline", "rule"),
    [
        (["good", "sasrec", "weak"], "sasrec", "sasrec, as in table 9 of the LatentR3 paper"),
        (["good", "weak"], "good", "the best entry, as there is no sasrec"),
        (["weak"], None, ""),
    ],
)
def test_the_usual_baseline(tmp_path: Path, methods: list[str], baseline: str | None, rule: str) -> None:
    for method in methods:
        make_run(tmp_path, method, quality={"good": 0.6, "sasrec": 0.3, "weak": 0.1}[method])
    (table,) = slice_runs(RunStore(tmp_path), methods, by=["popularity"])
    assert (table.baseline, table.baseline_rule) == (baseline, rule)
    assert (table.entries[0].values[0].difference is None) == (baseline in (None, table.entries[0].label))


def test_tables_of_the_paper_by_name(tmp_path: Path) -> None:
    for method, quality in (("bigrec", 0.5), ("sasrec", 0.4), ("latentr3", 0.6)):
        make_run(tmp_path, method, quality=quality)
    tables = slice_runs(RunStore(tmp_path), ["latentr3"], by=["table9", "table10"])
    assert [(table.cut, table.metric, table.truth, table.baseline) for table in tables] == [
        ("popularity", "NDCG@10", "title", "sasrec"),
        *(("cold", metric, "title", "bigrec") for metric in ("HR@5", "HR@10", "NDCG@5", "NDCG@10")),
    ]
    (table,) = slice_runs(RunStore(tmp_path), ["latentr3", "sasrec"], by=["table9"], metric="HR@5", truth="item")
    assert (table.metric, table.truth) == ("HR@5", "item")


def test_runs_without_facts_are_explained_and_one_with_facts_is_enough(tmp_path: Path) -> None:
    old = forget_facts(make_run(tmp_path, "old"))
    with pytest.raises(ArtifactError, match="facts about its test examples") as caught:
        slice_runs(RunStore(tmp_path), ["old"])
    assert f"recbench evaluate {old.run_id}" in str(caught.value)
    make_run(tmp_path, "new")
    (table,) = slice_runs(RunStore(tmp_path), ["old", "new"], by=["history"])
    assert {entry.label for entry in table.entries} == {"old", "new"}


def test_runs_of_other_examples_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "one")
    run = make_run(tmp_path, "two")
    metrics = run.metrics()
    metrics["user_id"] = metrics["user_id"].to_numpy()[::-1]
    metrics.to_parquet(run.paths.metrics, index=False)
    run.update_hashes([run.paths.metrics])
    with pytest.raises(ArtifactError, match="disagree on the user_id"):
        slice_runs(RunStore(tmp_path), ["one", "two"])


def test_a_report_of_runs_without_facts_says_what_to_type(tmp_path: Path) -> None:
    run = forget_facts(make_run(tmp_path, "old"))
    with pytest.raises(ArtifactError, match=f"recbench evaluate {run.run_id}"):
        slices_of_group(label_entries(group_by_identity([run])))


def test_a_cut_by_time_needs_times(tmp_path: Path) -> None:
    dataset = dataclasses.replace(tiny_dataset(), has_time=False)
    make_run(tmp_path, "one", dataset=dataset, protocol=Protocol(split="leave-one-out"))
    with pytest.raises(UsageError, match="cannot be cut by age"):
        slice_runs(RunStore(tmp_path), ["one"], by=["age", "history"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["popularty"]}, "Did you mean 'popularity'"),
        ({"metric": "NDCG@11"}, "Unknown metric"),
        ({"truth": "titel"}, "Unknown truth"),
    ],
)
def test_wrong_wishes_are_explained(store: RunStore, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        slice_runs(store, ["good", "weak"], **options)


@pytest.fixture(scope="module")
def section(store: RunStore) -> Section:
    made = slices_section(slices_of_group(label_entries(group_by_identity(store.all())), n_resamples=200))
    assert made is not None
    return made


def test_the_section_shows_the_numbers_of_its_tables(store: RunStore, section: Section) -> None:
    entries = label_entries(group_by_identity(store.all()))
    tables = {table.cut: table for table in slices_of_group(entries, n_resamples=200)}
    assert tuple(tables) == REPORT_CUTS
    assert [table.slug for table in section.tables] == ["popularity", "deciles", "cold", "history", "sizes"]
    shown = section.tables[0]
    for row, entry in zip(shown.rows, tables["popularity"].entries, strict=True):
        assert row.values["label"] == entry.label
        assert (row.values["head"], row.values["tail"]) == tuple(value.mean for value in entry.values)
        assert row.values["tail/gain"] == entry.values[1].improvement
        assert row.values.get("relative/p_adjusted") == (entry.relative.p_adjusted if entry.relative else None)
    sizes = section.tables[-1]
    assert len(sizes.rows) == sum(len(table.slices) for table in tables.values())
    cold = next(table for table in section.tables if table.slug == "cold")
    assert cold.rows[0].values["strict"] == tables["cold-strict"].entries[0].values[0].mean
    for table in section.tables:
        for row in table.rows:
            assert set(row.values) <= {column.key for column in table.columns}
            assert all(cell_text(row.values.get(column.key), column.kind) for column in table.columns)


def test_marked_slices_are_explained_under_the_table(section: Section) -> None:
    marked = [column.title for column in section.tables[0].columns if "†" in column.title]
    assert marked
    assert any(note.startswith("† Few users") for note in section.tables[0].notes)


def test_figures_are_drawn_alike_every_time(section: Section) -> None:
    assert [figure.slug for figure in section.figures] == ["popularity", "deciles"]
    first, second, other = (draw(section.figures[number].draw) for number in (0, 0, 1))
    assert first == second
    assert "weak" in first.svg
    assert "weak" in other.svg


def test_one_entry_alone_has_a_section_without_gains(tmp_path: Path) -> None:
    make_run(tmp_path, "only")
    section = slices_section(slices_of_group(label_entries(group_by_identity(RunStore(tmp_path).all()))))
    assert section is not None
    assert [figure.slug for figure in section.figures] == ["popularity"]
    assert not any("gain" in column.key for table in section.tables for column in table.columns)


def test_beyond_accuracy_is_the_mean_over_seeds_of_the_summaries(store: RunStore) -> None:
    rows = {row.label: row for row in beyond_of_group(label_entries(group_by_identity(store.all())))}
    summaries = [run.summary()["lists"] for run in store.select(method="good")]
    for name in ("coverage", "gini", "popular_share", "novelty", "similarity_title", "similarity_category"):
        assert getattr(rows["good"], name) == pytest.approx(np.mean([one[name] for one in summaries]))
    assert rows["good"].invalid_titles is None
    assert rows["good"].lacking == ()
    section = beyond_section(tuple(rows.values()))
    assert section is not None
    assert section.tables[0].notes == ()
    assert [row.values["novelty"] for row in section.tables[0].rows] == [row.novelty for row in rows.values()]
    assert "good" in draw(section.figures[0].draw).svg


def test_older_summaries_leave_gaps_and_a_note(tmp_path: Path) -> None:
    old = forget_facts(make_run(tmp_path, "old"))
    rows = beyond_of_group(label_entries(group_by_identity([old])))
    assert rows[0].novelty is None
    assert rows[0].coverage == old.summary()["lists"]["coverage"]
    section = beyond_section(rows)
    assert section is not None
    assert f"recbench evaluate {old.run_id}" in section.tables[0].notes[0]
    assert draw(section.figures[0].draw).png


def test_nothing_to_show_is_no_section() -> None:
    assert slices_section(()) is None
    assert beyond_section(()) is None


def test_facts_stand_beside_the_metrics_of_a_run(store: RunStore) -> None:
    run = store.all()[0]
    table = pd.read_parquet(run.paths.metrics)
    assert {fact_column(name) for name in FACTS} <= set(table.columns)
    assert run.summary()["n_items"] == len(tiny_dataset().catalog)
    assert run.summary()["generated"] is None
