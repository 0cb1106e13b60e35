"""The section on pairs: its columns, words and warnings."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore
from recbench.experiment.compare import compare
from recbench.experiment.pairs import CompareOptions
from recbench.report.sections.comparison import (
    comparison_section,
    entry_table,
    explanation,
    needed_text,
    pair_table,
    verdict_text,
    warnings,
)
from recbench.stats.equivalence import parse_margin


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        make_run(folder, "good", quality=0.7, seed=seed)
        make_run(folder, "same", quality=0.7, seed=seed + 7)
    make_run(folder, "weak", quality=0.0)
    return RunStore(folder)


def test_every_column_has_its_value_and_numbers_are_not_rounded(store: RunStore) -> None:
    options = CompareOptions(margin=parse_margin("5%"), runs_test="welch")
    comparison = compare(store, ["good", "same"], options=options)
    table = pair_table(comparison)
    row, pair = table.rows[0], comparison.pairs[0]
    assert {column.key for column in table.columns} <= set(row.values)
    assert row.values["difference"] == pair.difference
    assert row.values["runs_p"] == pair.runs_test.p
    assert row.values["users"] == f"{pair.wins} / {pair.ties} / {pair.losses}"
    assert len({column.key for column in table.columns}) == len(table.columns)


def test_columns_of_what_was_not_asked_are_left_out(store: RunStore) -> None:
    keys = {column.key for column in pair_table(compare(store, ["good", "weak"])).columns}
    assert not keys & {"margin", "p_equivalence_adjusted", "runs_p", "runs_p_adjusted"}


def test_entries_that_may_be_best_are_bold(store: RunStore) -> None:
    table = entry_table(compare(store, ["good", "same", "weak"]))
    assert {row.values["label"] for row in table.rows if "label" in row.bold} == {"good", "same"}
    assert [row.values["rank"] for row in table.rows] == [(1, 2), (1, 2), (3, 3)]


def test_words_say_what_was_done(store: RunStore) -> None:
    options = CompareOptions(margin=parse_margin("5%"), runs_test="welch", correction="bh")
    text = " ".join(explanation(compare(store, ["good", "same"], options=options)))
    for words in ("users and seeds", "p (BH)", "± 5% of the mean of B", "Welch's t-test", "this one comparison"):
        assert words in text


def test_exploration_and_a_chosen_baseline_are_warned_of(store: RunStore) -> None:
    explored = compare(store, ["good", "weak"], options=CompareOptions(correction="bh"))
    assert any("Exploratory" in text for text in warnings(explored))
    best = compare(store, ["good", "same", "weak"]).entries[0].label
    others = [label for label in ("good", "same", "weak") if label != best]
    assert any("luck" in text for text in warnings(compare(store, others, baseline=best)))
    assert warnings(compare(store, ["good", "same"], baseline="weak")) == []


def test_an_undecided_pair_says_what_would_decide(store: RunStore, tmp_path: Path) -> None:
    pair = compare(store, ["good", "same"]).pairs[0]
    assert verdict_text(pair) == "undecided"
    assert needed_text(pair, 50) != ""
    decided = compare(store, ["good", "weak"]).pairs[0]
    assert (verdict_text(decided), needed_text(decided, 50)) == ("better", "")


def test_one_entry_has_no_section(store: RunStore) -> None:
    from recbench.experiment.align import align
    from recbench.experiment.select import select
    from recbench.experiment.statistics import compare_entries

    entries = select(store, ["good"]).entries
    alone = compare_entries(entries, align(entries, ["item/HR@5"]), "HR@5", "item", None)
    assert comparison_section(alone) is None
    assert (alone.entries[0].rank_low, alone.entries[0].rank_high) == (1, 1)
