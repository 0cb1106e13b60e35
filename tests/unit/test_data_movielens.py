"""MovieLens-100K as RecBole ships it; 1M, 20M and 25M as GroupLens does."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.describe import describe
from recbench.data.sources import movielens
from recbench.data.sources.movielens import ml_100k
from recbench.data.sources.movielens import movielens as make

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


RELEASES = {
    "ml-1m": {
        "ratings.dat": "1::2::5::978300760\n1::1::3::978300000\n2::2::1::978400000\n".encode("latin-1"),
        "movies.dat": "1::Mis\u00e9rables, Les (1995)::Drama|Musical\r\n2::Alien: The Return (1997)::Horror\r\n"
        "3::Unseen (1999)::Drama\r\n".encode("latin-1"),
    },
    "ml-25m": {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,2,5.0,978300760\n1,1,3.0,978300000\n2,2,1.0,978400000\n",
        "movies.csv": 'movieId,title,genres\n1,"Mis\u00e9rables, Les (1995)",Drama|Musical\n'
        "2,Alien: The Return (1997),Horror\n3,Unseen (1999),Drama\n".encode(),
    },
}


def zipped(folder: Path, name: str, files: dict[str, bytes], prefix: str | None = None) -> Path:
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.txt", "a path that leads out of the folder")
        for file, content in files.items():
            archive.writestr(f"{name if prefix is None else prefix}/{file}", content)
    return path


@pytest.mark.parametrize("name", list(RELEASES))
def test_releases(tmp_path: Path, name: str) -> None:
    dataset = make(name, zipped(tmp_path, name, RELEASES[name]))
    assert dataset.users == ("1", "2")
    assert dataset.catalog.ids == ("1", "2", "3")
    assert dataset.catalog.titles == ("Mis\u00e9rables, Les (1995)", "Alien: The Return (1997)", "Unseen (1999)")
    assert dataset.catalog.categories == ("Drama | Musical", "Horror", "Drama")
    assert dataset.interactions.item.tolist() == [0, 1, 1]
    assert dataset.interactions.timestamp.tolist() == [978300000, 978300760, 978400000]
    assert dataset.interactions.rating is not None
    assert dataset.interactions.rating.tolist() == [3, 5, 1]
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.zip"]  # nothing was unpacked
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for file, content in RELEASES[name].items():
        (folder / file).write_bytes(content)
    assert make(name, folder).fingerprint == dataset.fingerprint


def test_both_ways_of_writing_say_the_same(tmp_path: Path) -> None:
    datasets = [make(name, zipped(tmp_path, name, files)) for name, files in RELEASES.items()]
    assert datasets[0].fingerprint == datasets[1].fingerprint


def test_wrong_zip_files_are_named(tmp_path: Path) -> None:
    files = RELEASES["ml-1m"]
    with pytest.raises(DataError, match=r"holds no ml-1m/ratings.dat"):
        make("ml-1m", zipped(tmp_path, "ml-1m", files, prefix="other"))
    path = zipped(tmp_path, "ml-1m", {**files, "ratings.dat": files["ratings.dat"] * 2000})
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"ml-1m.zip is a damaged|ml-1m.zip cannot be read"):
        make("ml-1m", path)
    path.write_bytes(content[:200])
    with pytest.raises(DataError, match="not a zip file"):
        make("ml-1m", path)
    with pytest.raises(DataError, match="data row 2 has 1 columns, expected id, title and genres"):
        make("ml-1m", zipped(tmp_path, "ml-1m", {**files, "movies.dat": b"1::A::B\ncut"}))
    with pytest.raises(DataError, match=r"cannot be read: .*[Ee]xpected 7 columns"):
        make("ml-1m", zipped(tmp_path, "ml-1m", {**files, "ratings.dat": b"1::2::3::4\n1::2"}))
