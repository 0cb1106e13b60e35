"""MovieLens-100K as RecBole ships it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.describe import describe
from recbench.data.sources import movielens
from recbench.data.sources.movielens import ml_100k

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1\t3\t10\n1\t2\t4\t5\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tHeat, The\t1995\tCrime Film-Noir\n2\tLand\tV\tDrama\n"
)


def test_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.inter").write_text(INTER)
    (tmp_path / "ml-100k.item").write_text(ITEM)
    dataset = ml_100k(tmp_path)
    assert dataset.catalog.titles == ("Heat, The (1995)", "Land")
    assert dataset.catalog.categories == ("Crime | Film-Noir", "Drama")
    assert dataset.catalog.noun == "movies"
    assert dataset.interactions.item.tolist() == [1, 0]
    (tmp_path / "ml-100k.item").write_text(ITEM.replace("release_year", "year"))
    with pytest.raises(DataError, match="lacks the column 'release_year'"):
        ml_100k(tmp_path)
    (tmp_path / "ml-100k.item").unlink()
    with pytest.raises(DataError, match=r"no .item file"):
        ml_100k(tmp_path)


def test_without_recbole_the_command_that_mends_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="RecBole is not installed") as error:
        ml_100k()
    assert "pip install 'recbench[recbole]'" in str(error.value)
    assert "--from-dir" in str(error.value)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    if find_spec("recbole") is None:
        pytest.skip("needs the RecBole package")
    return ml_100k()


def test_the_real_data(dataset: Dataset) -> None:
    assert (len(dataset.users), len(dataset.catalog), len(dataset.interactions)) == (943, 1_682, 100_000)
    number = dataset.catalog.number_of
    assert dataset.catalog.titles[number["50"]] == "Star Wars (1977)"
    assert dataset.catalog.titles[number["267"]] == "unkonwn"
    assert dataset.catalog.titles[number["1412"]] == "Land Before Time III: The Time of the Great Giving (1995)"
    description = describe(dataset)
    assert description["titles"]["shared_groups"] == 18
    assert description["titles"]["items_sharing"] == 36
    assert description["repeated_user_item_events"] == 0
    assert description["time"]["from"] == "1997-09-20T03:05:10Z"
    assert description["items_without_event"] == 0
