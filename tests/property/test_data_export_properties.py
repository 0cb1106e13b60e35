"""Whatever ids and titles hold, tables give back the same data set."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.data.export import export_dataset
from recbench.data.importing import import_dataset
from recbench.data.sources.options import ImportOptions
from recbench.data.text import clean_title

text = st.text(st.characters(codec="utf-8"), max_size=12)
# Ids are taken without blanks at their ends, and a table cannot hold line ends in them.
ids = text.map(lambda value: clean_title(value).strip()).filter(bool)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    items = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    users = draw(st.lists(ids, min_size=1, max_size=3, unique=True))
    titles = draw(st.lists(text.map(clean_title), min_size=len(items), max_size=len(items)))
    events = sorted(
        (user, draw(st.integers(-(2**36), 2**36)), draw(st.integers(0, len(items) - 1)))
        for user in range(len(users))
        for _ in range(draw(st.integers(1, 3)))
    )
    user, time, item = (np.array(column) for column in zip(*events, strict=True))
    interactions = Interactions(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64))
    return Dataset("any", tuple(users), ItemCatalog(tuple(items), tuple(titles)), interactions)


@pytest.mark.parametrize("layout", ["tsv", "parquet", "recbole"])
@given(dataset=datasets())
@settings(deadline=None, max_examples=60)
def test_round_trip(layout: str, dataset: Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if layout == "recbole":
            export_dataset(dataset, out, "recbole")
        else:
            export_dataset(dataset, out, "table", table_format="parquet" if layout == "parquet" else "tsv")
        again = import_dataset([out], ImportOptions("any"))
    assert again.users == dataset.users
    assert again.catalog == dataset.catalog
    assert again.fingerprint == dataset.fingerprint
