"""The figure of a data set: written whole, equal bytes for equal data, and quiet."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import UsageError
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.plot import plot_dataset
from recbench.data.split import make_split
from recbench.testing.tiny import tiny_dataset


def stretched(seconds: int) -> tuple[Dataset, Split]:
    """Return the tiny data set with its events spread over a span of time."""
    dataset = tiny_dataset()
    time = dataset.interactions.timestamp
    scaled = (time - time.min()) * seconds // max(int(time.max() - time.min()), 1) + 1_500_000_000
    dataset = replace(dataset, interactions=replace(dataset.interactions, timestamp=scaled))
    return dataset, make_split(dataset, Protocol())


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_equal_data_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    dataset, split = stretched(86_400 * 400)
    for name in ("a", "b"):
        plot_dataset(dataset, split, tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert content == (tmp_path / f"b.{suffix}").read_bytes()
    assert {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix] in content[:10]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("days", [0, 1, 1137, 12_000])
def test_any_span_of_time_is_drawn_quietly(tmp_path: Path, days: int) -> None:
    dataset, split = stretched(86_400 * days)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_dataset(dataset, split, tmp_path / "x.png")


def test_an_order_is_no_time(tmp_path: Path) -> None:
    dataset, _ = stretched(100)
    user = dataset.interactions.user
    position = np.arange(len(user)) - np.searchsorted(user, user)
    order = replace(dataset, has_time=False, interactions=replace(dataset.interactions, timestamp=position))
    plot_dataset(order, make_split(order, Protocol(split="leave-one-out")), tmp_path / "x.svg")
    plot_dataset(dataset, make_split(dataset, Protocol(split="leave-one-out")), tmp_path / "y.svg")
    assert (tmp_path / "x.svg").stat().st_size < (tmp_path / "y.svg").stat().st_size


def test_another_kind_of_file_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    dataset, split = stretched(100)
    with pytest.raises(UsageError, match="no kind of picture"):
        plot_dataset(dataset, split, tmp_path / "x.jpeg")
    assert not list(tmp_path.iterdir())
