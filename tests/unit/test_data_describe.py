"""The statistics table, on data whose numbers are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.contracts.protocol import Protocol
from recbench.data.describe import describe, description_rows, to_markdown
from recbench.data.importing import import_dataset
from recbench.data.sources.options import ImportOptions
from recbench.data.split import make_split
from recbench.testing.tiny import tiny_dataset


def test_by_hand() -> None:
    events = Interactions(
        np.array([0, 0, 0, 1], np.int32), np.array([2, 2, 0, 1], np.int32), np.array([0, 0, 86_400, 172_800], np.int64)
    )
    catalog = ItemCatalog(("a", "b", "c", "d"), ("A", "B", "", "A"))
    description = describe(Dataset("hand", ("u", "v"), catalog, events, notes=("remember | this",)))
    assert description["density"] == 0.5
    assert description["items_without_event"] == 1
    assert description["repeated_user_item_events"] == 1
    assert description["events_per_user"] == {"min": 1, "median": 2.0, "mean": 2.0, "max": 3}
    assert description["users_with_one_event"] == 1
    assert description["top_tenth_items_share"] == 0.5
    assert description["time"] == {
        "from": "1970-01-01T00:00:00Z",
        "to": "1970-01-03T00:00:00Z",
        "resolution": "day",
        "distinct_times": 3,
        "tied_within_user_share": 0.5,
    }
    assert description["titles"]["untitled"] == 1
    text = to_markdown(description)
    assert "| note | remember \\| this |" in text
    assert all(line.startswith("| ") or line == "|---|---|" for line in text.splitlines())


def test_the_split_is_described_and_all_is_json() -> None:
    dataset = tiny_dataset()
    description = describe(dataset, make_split(dataset, Protocol(limit_train=9)))
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    rows = dict(description_rows(description))
    assert rows["train"].startswith("9 rows of 1 users")
    assert rows["limit on train"] == "9 of 398 rows kept"
    assert description["split"]["parts"]["test"]["rows_of_unseen_users"] > 0
    order_only = replace(
        dataset,
        has_time=False,
        interactions=replace(dataset.interactions, timestamp=np.arange(len(dataset.interactions))),
    )
    assert dict(description_rows(describe(order_only)))["time"] == "order only"


def test_published_counts_of_beauty(shared: Path) -> None:
    """The counts that come with the data were made by other code."""
    folder = shared / "data" / "beauty_2014"
    stats = json.loads((folder / "STATS.json").read_text())
    description = describe(import_dataset([folder], ImportOptions("beauty_2014")))
    assert description["titles"]["shared_groups"] == stats["duplicate_titles"]
    assert description["titles"]["items_sharing"] == stats["items_sharing_a_title"]
    assert description["titles"]["most_shared"][0][1] == stats["max_items_per_title"]
    assert description["titles"]["with_markup"] == stats["junk_titles_markup"]
    assert description["density"] == pytest.approx(stats["density"], abs=1e-6)
    assert description["top_tenth_items_share"] == pytest.approx(stats["top10pct_items_interaction_share"], abs=1e-3)
    assert [description["time"][end][:10] for end in ("from", "to")] == stats["time_range"]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/New_York"])
def test_the_time_zone_changes_nothing(zone: str) -> None:
    code = (
        "from recbench.testing.tiny import tiny_dataset as t; from recbench.data.split import make_split as m;"
        "from recbench.data.describe import describe as d; from recbench.contracts.protocol import Protocol as P;"
        "s = m(t(), P()); print(s.fingerprint, d(t(), s)['time'], s.facts['boundaries']['test']['time'])"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "TZ": tz}, capture_output=True, text=True, check=True
        ).stdout
        for tz in ("UTC", zone)
    ]
    assert printed[0] == printed[1]
    assert "T" in printed[0]
