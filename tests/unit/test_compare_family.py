"""Declared families: what a file may say, and that p-values are adjusted over exactly its tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_runs import make_run

from recbench.artifacts.store import RunStore
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ConfigError, UsageError
from recbench.experiment.compare import compare
from recbench.experiment.family import FamilyFile, compare_family, read_family
from recbench.stats.multiple import holm
from recbench.testing.tiny import tiny_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    folder = tmp_path_factory.mktemp("runs")
    tiny = tiny_dataset()
    other = Dataset("other", tiny.users, tiny.catalog, tiny.interactions)
    for dataset in (tiny, other):
        make_run(folder, "good", quality=0.55, dataset=dataset, seed=1)
        make_run(folder, "fair", quality=0.45, dataset=dataset, seed=2)
        make_run(folder, "weak", quality=0.2, dataset=dataset, seed=3)
    return RunStore(folder)


def family_of(**tests) -> FamilyFile:
    return FamilyFile.model_validate({"name": "claims", "tests": [tests]})


def test_all_tests_of_all_data_sets_are_one_family(store: RunStore) -> None:
    family = compare_family(
        store,
        family_of(pairs=[["good", "fair"], ["good", "weak"]], metrics=["NDCG@10", "HR@5"], datasets=["tiny", "other"]),
    )
    assert [(one.dataset, one.metric, len(one.pairs)) for one in family.comparisons] == [
        ("tiny", "NDCG@10", 2),
        ("tiny", "HR@5", 2),
        ("other", "NDCG@10", 2),
        ("other", "HR@5", 2),
    ]
    pairs = [pair for one in family.comparisons for pair in one.pairs]
    assert [pair.p_adjusted for pair in pairs] == pytest.approx(holm([pair.p for pair in pairs]))
    assert {(one.n_tests, one.family) for one in family.comparisons} == {(8, "claims")}
    assert [(pair.a, pair.b) for pair in pairs[:2]] == [("good", "fair"), ("good", "weak")]


def test_each_test_is_the_one_of_a_plain_comparison(store: RunStore) -> None:
    declared = compare_family(store, family_of(pairs=[["good", "weak"]], datasets=["tiny"])).comparisons[0].pairs[0]
    plain = compare(store, ["good"], baseline="weak", dataset="tiny").pairs[0]
    assert declared == plain


def test_alpha_margin_and_truth_come_from_the_file(store: RunStore) -> None:
    family = FamilyFile.model_validate(
        {
            "name": "claims",
            "alpha": 0.01,
            "margin": 0.4,
            "tests": [{"pairs": [["fair", "weak"]], "truths": ["title"], "datasets": ["other"]}],
        }
    )
    comparison = compare_family(store, family).comparisons[0]
    assert (comparison.alpha, comparison.margin, comparison.truth) == (0.01, "0.4", "title")
    assert comparison.pairs[0].margin == 0.4


def test_a_test_named_twice_is_refused_in_either_direction(store: RunStore) -> None:
    with pytest.raises(ConfigError, match="names the test of weak against good by item NDCG@10 on tiny twice"):
        compare_family(store, family_of(pairs=[["good", "weak"], ["weak", "good"]], datasets=["tiny"]))


def test_members_must_be_one_entry_each(store: RunStore, tmp_path: Path) -> None:
    make_run(tmp_path, "one", config={"a": 1})
    make_run(tmp_path, "one", config={"a": 2})
    make_run(tmp_path, "two")
    with pytest.raises(UsageError, match="The member of the family 'one' stands for 2 entries"):
        compare_family(RunStore(tmp_path), family_of(pairs=[["one", "two"]]))
    with pytest.raises(ConfigError, match="are the same entry"):
        compare_family(store, family_of(pairs=[["good", "good"]], datasets=["tiny"]))
    with pytest.raises(UsageError, match="Unknown metric 'NDCG@7'"):
        compare_family(store, family_of(pairs=[["good", "weak"]], metrics=["NDCG@7"], datasets=["tiny"]))
    with pytest.raises(UsageError, match="dataset differs"):
        compare_family(store, family_of(pairs=[["good", "weak"]]))


def test_files_are_read_and_wrong_ones_explained(tmp_path: Path) -> None:
    path = tmp_path / "family.yaml"
    path.write_text("name: claims\ntests:\n  - pairs: [[a, b]]\n    metrics: [HR@5]\n")
    assert read_family(path).tests[0].pairs == (("a", "b"),)
    for text, message in {
        "name: x\ntests: [{pairs: [[a, b]], metric: [HR@5]}]": r"tests.0.metric: unknown key",
        "name: x\ntests: []": "tests",
        "tests: [{pairs: [[a, b]]}]": "name: is needed and missing",
        "name: x\ntests: [{pairs: [[a, b, c]]}]": "tests.0.pairs.0",
        "name: x\nalpha: 2\ntests: [{pairs: [[a, b]]}]": "alpha",
        "- a": "holds no mapping",
        "name: [": "cannot be read",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_family(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_family(tmp_path / "missing.yaml")
