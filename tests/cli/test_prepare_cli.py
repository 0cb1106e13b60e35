"""`recbench datasets prepare` from raw files and over a server: what it makes, what it survives, what it says."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from helpers_faulty_server import FaultyServer, faulty_server

from recbench.cli.app import execute
from recbench.contracts.hashing import hash_file
from recbench.data import prepare as prepare_module
from recbench.data.folders import check_name, save_dataset
from recbench.data.recipes import RECIPES, find_recipe
from recbench.data.sources.amazon import staging
from recbench.data.store import load_dataset
from recbench.testing.tiny import tiny_dataset

Command = Callable[..., tuple[int, str, str]]

REVIEWS = "Toys_and_Games_5.json"
META = "meta_Toys_and_Games.json"
DAY_S = 86_400


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("RECBENCH_MIRROR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as state:
        yield state


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `recbench datasets prepare ...` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = execute(["datasets", "prepare", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run


def reviews() -> list[dict[str, Any]]:
    """Six users review six toys, one a day from 2018-01-01 on."""
    start = 1_514_764_800
    return [
        {"overall": 5.0, "reviewerID": f"U{u}", "asin": f"A{i}", "unixReviewTime": start + (6 * i + u) * DAY_S}
        for i in range(6)
        for u in range(6)
    ]


def meta() -> list[dict[str, Any]]:
    return [{"asin": f"A{i}", "title": f"Toy &amp; game {i}"} for i in range(6)]


def lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with the raw files of toys, packed."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / f"{REVIEWS}.gz").write_bytes(gzip.compress(lines(reviews())))
    (folder / f"{META}.gz").write_bytes(gzip.compress(lines(meta())))
    return folder


def movielens_zip() -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ml-20m/ratings.csv", "userId,movieId,rating,timestamp\n1,1,5.0,10\n1,2,3.5,20\n2,1,1.0,5\n")
        archive.writestr("ml-20m/movies.csv", "movieId,title,genres\n1,One (1999),Drama\n2,Two (2000),Drama|War\n")
    return packed.getvalue()


def test_from_a_folder_in_any_form_gives_the_same(prepare: Command, raw: Path, tmp_path: Path, home: Path) -> None:
    code, out, _ = prepare("toys", "--from-dir", raw, "--json")
    assert code == 0
    first = json.loads(out)
    assert (first["users"], first["items"], first["interactions"]) == (6, 6, 36)
    assert first["name"] == "toys"
    assert [file["name"] for file in first["origin"]["files"]] == [f"{REVIEWS}.gz", f"{META}.gz"]
    assert first["origin"]["files"][0]["sha256"] == hash_file(raw / f"{REVIEWS}.gz")
    assert not (home / "scratch" / "toys").exists()
    assert not (home / "downloads").exists()
    plain = tmp_path / "plain"
    (plain / "amazon_v2" / "metaFiles2").mkdir(parents=True)
    (plain / "Toys_and_Games.json").write_bytes(lines(reviews()))
    (plain / "amazon_v2" / "metaFiles2" / META).write_bytes(lines(meta()))
    code, out, _ = prepare("toys", "--from-dir", plain, "--again", "--json")
    assert code == 0
    again = json.loads(out)
    assert again["fingerprint"] == first["fingerprint"]
    assert [file["name"] for file in again["origin"]["files"]] == ["Toys_and_Games.json", META]


def test_the_time_zone_changes_nothing(
    prepare: Command, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    try:
        for zone in ("UTC", "Pacific/Auckland", "America/New_York"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / zone.replace("/", "_")))
            for mode in ("reference", "strict"):
                assert prepare("toys", "--from-dir", raw, "--mode", mode)[0] == 0
            folders.append(tmp_path / zone.replace("/", "_") / "datasets")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    files = sorted(file.relative_to(folders[0]) for file in folders[0].rglob("*") if file.is_file())
    assert len(files) == 4 + 7
    for file in files:
        assert len({hash_file(folder / file) for folder in folders}) == 1, file


def test_downloaded_once_and_told(prepare: Command, raw: Path, server: FaultyServer, home: Path) -> None:
    server.serve_folder(raw)
    code, out, error = prepare("toys", "--mirror", server.url, "--json")
    assert code == 0, error
    origin = json.loads(out)["origin"]
    assert origin["files"][0]["url"] == f"{server.url}/{REVIEWS}.gz"
    assert origin["files"][0]["size_bytes"] == (raw / f"{REVIEWS}.gz").stat().st_size
    n_requests = len(server.requests)
    assert prepare("toys", "--mirror", server.url)[0] == 0
    assert prepare("toys", "--mode", "strict", "--mirror", server.url)[0] == 0
    assert prepare("toys", "--again", "--mirror", server.url)[0] == 0
    assert len(server.requests) == n_requests
    assert sorted(path.name for path in (home / "datasets").iterdir()) == ["toys", "toys-strict"]
    assert load_dataset("toys-strict").provided is not None
    code = execute(["datasets", "describe", "toys", "--markdown"])
    assert code == 0


def test_describe_names_source_checksums_and_rules(
    prepare: Command, raw: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prepare("toys", "--from-dir", raw)
    assert execute(["datasets", "describe", "toys", "--markdown", "--plot", str(tmp_path / "toys.png")]) == 0
    out = capsys.readouterr().out
    assert "| rules | reference: D3/R3 preprocessing" in out
    assert hash_file(raw / f"{META}.gz") in out
    assert "no licence known to recbench" in out
    assert (tmp_path / "toys.png").read_bytes().startswith(b"\x89PNG")


# What is wrong with a line of the reviews, and what is said about it.
FAULTS = [
    ("cut", b'{"overall": 5.0, "reviewerID": "U1", "as', "line 4"),
    ("not utf-8", b'{"overall": 5.0, "reviewerID": "\xff", "asin": "A1", "unixReviewTime": 1514764800}', "line 4"),
    ("missing", b'{"overall": 5.0, "reviewerID": "U1", "unixReviewTime": 1514764800}', "line 4"),
    ("no time", b'{"overall": 5.0, "reviewerID": "U1", "asin": "A1", "unixReviewTime": "x"}', "line 4"),
    ("milliseconds", b'{"overall": 5.0, "reviewerID": "U1", "asin": "A1", "unixReviewTime": 1514764800000}', "line 4"),
    ("negative", b'{"overall": 5.0, "reviewerID": "U1", "asin": "A1", "unixReviewTime": -86400}', "line 4"),
    ("page", b"<html>", "line 4"),
]


@pytest.mark.parametrize(("line", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_wrong_content_is_named_with_file_and_line(
    prepare: Command, raw: Path, home: Path, line: bytes, words: str
) -> None:
    good = lines(reviews()).splitlines(keepends=True)
    (raw / f"{REVIEWS}.gz").write_bytes(gzip.compress(b"".join([*good[:3], line + b"\n", *good[3:]])))
    code, out, error = prepare("toys", "--from-dir", raw)
    assert code == 3
    assert words in error
    assert f"{REVIEWS}.gz" in error
    assert "Traceback" not in error
    assert not out
    assert not (home / "datasets").exists()
    (raw / f"{REVIEWS}.gz").write_bytes(gzip.compress(b"".join(good)))
    assert prepare("toys", "--from-dir", raw)[0] == 0


def test_a_truncated_file_of_ones_own_is_named(prepare: Command, raw: Path) -> None:
    content = (raw / f"{META}.gz").read_bytes()
    (raw / f"{META}.gz").write_bytes(content[:-12])
    code, _, error = prepare("toys", "--from-dir", raw)
    assert code == 3
    assert f"{META}.gz is a gzip file that breaks off" in error


def test_repeated_metadata_rows_follow_the_published_rules(prepare: Command, raw: Path) -> None:
    records = [*meta(), {"asin": "A0", "title": "Another title"}, {"asin": "A1", "title": "x"}]
    (raw / f"{META}.gz").write_bytes(gzip.compress(lines(records)))
    assert prepare("toys", "--from-dir", raw)[0] == 0
    catalog = load_dataset("toys").catalog
    assert catalog.titles[catalog.number_of["A0"]] == "Another title"
    assert "A1" not in catalog.ids


def test_an_interrupted_preparation_goes_on_where_it_stopped(
    prepare: Command, raw: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prepare_module, "save_dataset", interrupt)
        assert prepare("toys", "--from-dir", raw)[0] == 130
    assert not (home / "datasets").exists()
    assert len(list((home / "scratch" / "toys").glob("*.parquet"))) == 2
    monkeypatch.setattr(staging, "_copy_fast", interrupt)
    assert prepare("toys", "--from-dir", raw)[0] == 0
    assert not (home / "scratch" / "toys").exists()


def test_an_imported_data_set_is_not_taken_for_a_prepared_one(prepare: Command, raw: Path) -> None:
    save_dataset(replace(tiny_dataset(), name="toys"))
    code, _, error = prepare("toys", "--from-dir", raw)
    assert code == 3
    assert "was imported, not prepared" in error
    assert load_dataset("toys").fingerprint == tiny_dataset().fingerprint
    assert prepare("toys", "--from-dir", raw, "--again")[0] == 0
    assert len(load_dataset("toys").users) == 6


def test_movielens(prepare: Command, tmp_path: Path, server: FaultyServer) -> None:
    """A zip file that is not the one whose checksum GroupLens publishes is refused, but one's own file is one's own."""
    server.files["movielens/ml-20m.zip"] = movielens_zip()
    code, _, error = prepare("ml-20m", "--mirror", server.url)
    assert code == 3
    assert "its project publishes cd245b17a1ae2cc31bb14903e1204af3" in error
    (tmp_path / "ml-20m.zip").write_bytes(movielens_zip())
    assert prepare("ml-20m", "--from-dir", tmp_path)[0] == 0
    packed = load_dataset("ml-20m").fingerprint
    (tmp_path / "ml-20m.zip").unlink()
    with zipfile.ZipFile(BytesIO(movielens_zip())) as archive:
        archive.extractall(tmp_path)
    code, out, _ = prepare("ml-20m", "--from-dir", tmp_path, "--again", "--json")
    assert code == 0
    assert json.loads(out)["fingerprint"] == packed
    assert [file["name"] for file in json.loads(out)["origin"]["files"]] == ["ratings.csv", "movies.csv"]


def test_a_file_that_cannot_be_had_is_told_with_its_address(prepare: Command, raw: Path, server: FaultyServer) -> None:
    (raw / f"{META}.gz").unlink()
    code, out, error = prepare("toys", "--from-dir", raw, "--mirror", server.url)
    assert code == 3
    assert f"{server.url}/{META}.gz: the server answers 404" in error
    assert "--from-dir DIR" in error
    assert not out


# From here on in processes of their own, which are killed, limited, or started twice.


def start(*arguments: str, **options: Any) -> subprocess.Popen:
    command = [sys.executable, "-m", "recbench", "datasets", "prepare", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **{"stderr": subprocess.PIPE, **options})


def _limit_files_to_200_kb() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@pytest.fixture
def big(raw: Path, server: FaultyServer) -> int:
    """Serve the raw files of toys, with reviews of half a megabyte that cannot be packed; returns their size."""
    noise = os.urandom(250_000).hex()
    records = [{**record, "reviewText": noise[at * 13_000 :][:13_000]} for at, record in enumerate(reviews())]
    (raw / f"{REVIEWS}.gz").write_bytes(gzip.compress(lines(records), 1))
    server.serve_folder(raw)
    return len(server.files[f"{REVIEWS}.gz"])


def test_a_killed_download_goes_on_where_it_stopped(server: FaultyServer, big: int, home: Path) -> None:
    server.faults[f"{REVIEWS}.gz"] = ["slow"]
    part = home / "downloads" / "amazon_v2" / "categoryFilesSmall" / f"{REVIEWS}.gz.part"
    process = start("toys", "--mirror", server.url)
    while not (part.is_file() and part.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < part.stat().st_size < big
    assert not part.with_suffix("").exists()
    assert not (home / "datasets").exists()
    server.requests.clear()
    out, error = start("toys", "--mirror", server.url).communicate()
    assert json.loads(out)["interactions"] == 36, error
    resumed = [request for request in server.requests if request.range]
    assert len(resumed) == 1
    assert not part.exists()


def test_a_full_disk_is_told_and_the_download_goes_on_later(server: FaultyServer, big: int, home: Path) -> None:
    process = start("toys", "--mirror", server.url, preexec_fn=_limit_files_to_200_kb)
    out, error = process.communicate()
    assert process.returncode == 3
    assert "Cannot write" in error
    assert "Free some space" in error
    assert "Traceback" not in error
    assert json.loads(out)["error"]["exit_code"] == 3
    assert not (home / "datasets").exists()
    out, error = start("toys", "--mirror", server.url).communicate()
    assert json.loads(out)["interactions"] == 36, error
    assert [request.range for request in server.requests if request.range] == ["bytes=200000-"]


def test_two_processes_at_once_do_the_work_once(server: FaultyServer, raw: Path, tmp_path: Path) -> None:
    server.serve_folder(raw)
    server.faults[f"{META}.gz"] = ["wait"]
    first = start("toys", "--mirror", server.url)
    while not any(request.path == f"{META}.gz" for request in server.requests):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    log = tmp_path / "second.log"
    with log.open("w") as stream:
        second = start("toys", "--mirror", server.url, stderr=stream)
        while "Another process prepares 'toys'" not in log.read_text():
            assert second.poll() is None, log.read_text()
            time.sleep(0.02)
        server.release.set()
        outputs = [process.communicate()[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], log.read_text()
    assert len({json.loads(out)["fingerprint"] for out in outputs}) == 1
    served = [request.path for request in server.requests]
    assert (served.count(f"{REVIEWS}.gz"), served.count(f"{META}.gz")) == (1, 1)


def test_recipes_are_sound() -> None:
    paths: dict[str, tuple[str, ...]] = {}
    for name, recipe in RECIPES.items():
        check_name(name)
        for mode in recipe.modes:
            assert find_recipe(recipe.stored_name(mode)) == (recipe, mode)
        for need in recipe.needs:
            assert need.options
            for file in need.options:
                assert ".." not in file.path.split("/")
                assert not file.path.startswith("/")
                assert file.urls
                assert all(url.startswith("https://") and url.endswith(file.name) for url in file.urls)
                assert paths.setdefault(file.path, file.urls) == file.urls
    assert {"toys", "cds", "games", "instruments", "books", "office", "sports", "steam"} <= set(RECIPES)
    assert {"ml-100k", "ml-1m", "ml-20m", "ml-25m", "beauty-2014"} <= set(RECIPES)
    assert {"games-2023", "cds-2023", "instruments-2023"} <= set(RECIPES)
    assert find_recipe("ml-1m-strict") is None
    assert find_recipe("../toys") is None
