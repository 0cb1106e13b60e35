"""Facts about test examples: against plain loops on the tiny data set, and by hand where that matters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.contracts.examples import build_examples
from recbench.evaluation.facts import FACTS, example_facts, fact_column, missing_facts
from recbench.testing.tiny import COLD_USERS, tiny_dataset, tiny_split


@pytest.fixture(scope="module")
def facts() -> pd.DataFrame:
    split = tiny_split()
    return example_facts(split.test, split.train, tiny_dataset())


def test_every_fact_is_a_column(facts: pd.DataFrame) -> None:
    assert list(facts.columns) == [fact_column(name) for name in FACTS]
    assert missing_facts(["example_id", *facts.columns]) == []
    assert missing_facts(list(facts.columns[1:])) == ["fact/target_train_count"]
    assert len(facts) == len(tiny_split().test)


def test_facts_equal_plain_loops(facts: pd.DataFrame) -> None:
    dataset, split = tiny_dataset(), tiny_split()
    train, test = split.train, split.test
    titles = dataset.catalog.titles
    occurrences = [int(t) for t in train.target] + [int(i) for i in train.items]
    for row in range(len(test)):
        target = int(test.target[row])
        same_title = [i for i, title in enumerate(titles) if i == target or (title and title == titles[target])]
        assert facts["fact/target_train_count"][row] == sum(t == target for t in train.target)
        assert facts["fact/target_seen_count"][row] == occurrences.count(target)
        assert facts["fact/title_seen_count"][row] == sum(occurrences.count(item) for item in same_title)
        assert facts["fact/history_length"][row] == len(test.history(row))
        assert facts["fact/user_train_rows"][row] == sum(u == test.user[row] for u in train.user)
        events = dataset.interactions
        first = min(t for i, t in zip(events.item, events.timestamp, strict=True) if i == target)
        assert facts["fact/item_age_s"][row] == test.timestamp[row] - first


def test_cold_users_have_no_training_row(facts: pd.DataFrame) -> None:
    cold = np.isin(tiny_split().test.user, COLD_USERS)
    assert cold.any()
    assert (facts["fact/user_train_rows"][cold] == 0).all()


def test_a_cold_item_may_have_a_warm_title() -> None:
    # Items 0 and 1 share a title, item 2 has none, nor has item 3: those are no twins.
    catalog = ItemCatalog(("a", "b", "c", "d"), ("Same", '"Same"', "", ""))
    events = Interactions(np.array([0, 0, 0, 0]), np.array([0, 2, 1, 3]), np.array([0, 10, 20, 30]))
    dataset = Dataset("d", ("u",), catalog, events)
    train = build_examples([0], [0], [10], [[0]], [2])
    test = build_examples([1, 2], [0, 0], [20, 30], [[0, 2], [0, 2, 1]], [1, 3])
    facts = example_facts(test, train, dataset)
    assert facts["fact/target_seen_count"].tolist() == [0, 0]
    assert facts["fact/title_seen_count"].tolist() == [1, 0]
    assert facts["fact/item_age_s"].tolist() == [0.0, 0.0]


def test_without_times_no_item_has_an_age() -> None:
    split = tiny_split()
    facts = example_facts(split.test, split.train, dataclasses.replace(tiny_dataset(), has_time=False))
    assert facts["fact/item_age_s"].isna().all()
