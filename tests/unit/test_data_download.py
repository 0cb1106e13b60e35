"""Downloads over a server that does everything wrong: each fault ends in the whole file, or in a clear message."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_faulty_server import FaultyServer, faulty_server

from recbench.contracts.errors import ArtifactError, DataError
from recbench.data import transfer
from recbench.data.download import RemoteFile, Source, fetch
from recbench.data.transfer import Limits

CONTENT = gzip.compress(random.Random(5).randbytes(300_000))
NAME = "folder/reviews.json.gz"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as state:
        state.files[NAME] = CONTENT
        yield state


@pytest.fixture
def source() -> Source:
    return Source(limits=Limits(attempts=3, connect_s=2, read_s=0.3, backoff_s=0.01))


def remote(server: FaultyServer, name: str = NAME, md5: str | None = None) -> RemoteFile:
    return RemoteFile(name, (f"{server.url}/{name}",), md5)


def leftovers(home: Path) -> set[str]:
    return {file.name for file in (home / "downloads").rglob("*") if file.is_file() and not file.name.endswith(".lock")}


def test_fetched_once_with_a_record(server: FaultyServer, source: Source, home: Path) -> None:
    path, record = fetch(remote(server), source)
    assert path == home / "downloads" / NAME
    assert path.read_bytes() == CONTENT
    assert (record.size_bytes, record.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert record.url == f"{server.url}/{NAME}"
    assert leftovers(home) == {"reviews.json.gz", "reviews.json.gz.json"}
    assert fetch(remote(server), source) == (path, record)
    assert fetch(remote(server), replace(source, offline=True)) == (path, record)
    assert len(server.requests) == 1


# Faults of the first requests, and the byte from which each request asks (None: from the beginning). Of a stalled
# connection, the pieces of 64 KiB that came whole are kept.
MENDED = [
    (["break:1000"], [None, 1000]),
    (["break:1000", "break:5", "break:70000"], [None, 1000, 1005, 71_005]),
    (["break:0"], [None, None]),
    (["stall"], [None, 131_072]),
    (["long"], [None, len(CONTENT), None]),
    (["break:1000", "norange"], [None, 1000]),
    (["break:1000", "shifted"], [None, 1000, None]),
    (["503", "429"], [None, None, None]),
    (["break:1000", "502"], [None, 1000, 1000]),
    (["short"], [None, None]),
    (["other"], [None, None]),
]


@pytest.mark.parametrize(("faults", "starts"), MENDED, ids=["+".join(faults) for faults, _ in MENDED])
def test_what_passes_is_tried_again(
    server: FaultyServer, source: Source, home: Path, faults: list[str], starts: list[int | None]
) -> None:
    server.faults[NAME] = list(faults)
    path, record = fetch(remote(server), source)
    assert path.read_bytes() == CONTENT
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    asked = [None if start is None else f"bytes={start}-" for start in starts]
    assert [request.range for request in server.requests] == asked
    assert all((request.range is None) == (request.if_range is None) for request in server.requests)
    assert leftovers(home) == {"reviews.json.gz", "reviews.json.gz.json"}


REFUSED = [
    (["404"] * 9, "answers 404", 1),
    (["403"] * 9, "answers 403", 1),
    (["503"] * 9, "answers 503.*3 attempts in a row", 3),
    (["html"] * 9, "web page titled 'Please accept our terms'", 1),
    (["break:0"] * 9, "the connection .*3 attempts in a row", 3),
    (["short"] * 9, "is a gzip file that breaks off", 2),
    (["other"] * 9, "is a damaged gzip file", 2),
]


@pytest.mark.parametrize(("faults", "words", "requests"), REFUSED, ids=[faults[0] for faults, _, _ in REFUSED])
def test_what_does_not_pass_is_told(
    server: FaultyServer, source: Source, home: Path, faults: list[str], words: str, requests: int
) -> None:
    server.faults[NAME] = list(faults)
    with pytest.raises(DataError, match=words) as error:
        fetch(remote(server), source)
    assert "reviews.json.gz cannot be had" in error.value.message
    assert f"{server.url}/{NAME}" in str(error.value)
    assert "--from-dir DIR" in str(error.value)
    assert len(server.requests) == requests
    assert "reviews.json.gz" not in leftovers(home)
    server.faults.clear()
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT


def test_the_next_address_is_tried(server: FaultyServer, source: Source) -> None:
    file = RemoteFile(NAME, ("http://127.0.0.1:9/closed", f"{server.url}/gone", f"{server.url}/{NAME}"))
    assert fetch(file, source)[1].url == f"{server.url}/{NAME}"


def test_no_host_is_told_at_once(source: Source) -> None:
    with pytest.raises(DataError, match="its host has no address; is there a network"):
        fetch(RemoteFile(NAME, ("http://recbench.invalid/x.gz",)), source)


def test_a_mirror_has_files_under_their_path_or_flat(server: FaultyServer, source: Source) -> None:
    server.files["flat.json.gz"] = CONTENT
    mirrored = replace(source, mirror=f"{server.url}/")
    fetch(RemoteFile(NAME, ("http://127.0.0.1:9/closed",)), mirrored)
    fetch(RemoteFile("elsewhere/flat.json.gz", ("http://127.0.0.1:9/closed",)), mirrored)
    assert [request.path for request in server.requests] == [NAME, "elsewhere/flat.json.gz", "flat.json.gz"]


def test_offline_touches_no_network_and_names_the_addresses(server: FaultyServer, source: Source) -> None:
    with pytest.raises(DataError, match="HF_HUB_OFFLINE") as error:
        fetch(remote(server), replace(source, offline=True))
    assert f"{server.url}/{NAME}" in str(error.value)
    assert not server.requests


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    monkeypatch.setenv("RECBENCH_MIRROR", "http://a")
    assert Source.from_environment().offline
    assert Source.from_environment().addresses(RemoteFile("p/n", ("u",))) == ("http://a/p/n", "http://a/n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("RECBENCH_MIRROR")
    assert not Source.from_environment().offline
    assert Source.from_environment().addresses(RemoteFile("p/n", ("u",))) == ("u",)


def test_a_file_that_the_project_replaced_is_told(server: FaultyServer, source: Source, home: Path) -> None:
    path, _ = fetch(remote(server), source)
    path.unlink()
    server.files[NAME] = gzip.compress(b"other content")
    with pytest.raises(DataError, match=r"bytes, 300,\d+ when it was first fetched") as error:
        fetch(remote(server), source)
    assert f"delete {path}.json" in str(error.value)
    Path(f"{path}.json").unlink()
    assert fetch(remote(server), source)[0].read_bytes() == server.files[NAME]


def test_a_file_damaged_on_disk_is_fetched_again(server: FaultyServer, source: Source) -> None:
    path, record = fetch(remote(server), source)
    path.write_bytes(CONTENT[:1000] + b"x" + CONTENT[1001:])
    with pytest.raises(DataError, match="cannot be had"):
        fetch(remote(server), replace(source, offline=True))
    assert fetch(remote(server), source) == (path, record)
    assert path.read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_checked_and_recorded(server: FaultyServer, source: Source, home: Path) -> None:
    path = home / "downloads" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(remote(server), source)[1].url is None
    path.write_bytes(CONTENT[:-9])
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT


def test_the_published_checksum_counts(server: FaultyServer, source: Source) -> None:
    with pytest.raises(DataError, match="its project publishes 00ff"):
        fetch(remote(server, md5="00ff"), source)
    fetch(remote(server, md5=hashlib.md5(CONTENT).hexdigest()), source)


def test_an_entity_that_changed_in_between_is_fetched_from_its_beginning(server: FaultyServer, source: Source) -> None:
    other = gzip.compress(random.Random(6).randbytes(200_000))
    server.faults[NAME] = ["break:1000", "503", "503"]
    with pytest.raises(DataError):
        fetch(remote(server), replace(source, limits=replace(source.limits, attempts=2)))
    server.files[NAME] = other
    server.faults.clear()
    assert fetch(remote(server), source)[0].read_bytes() == other
    assert server.requests[-1].range == "bytes=1000-"


def test_a_server_without_entity_tags_starts_afresh(server: FaultyServer, source: Source) -> None:
    server.validators = False
    server.faults[NAME] = ["break:1000"]
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, None]


def test_an_unknown_length(server: FaultyServer, source: Source) -> None:
    """A gzip file says itself whether it is whole; a table does not."""
    server.faults[NAME] = ["nolength"]
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT
    server.files["table.csv"] = b"a,b\n1,2\n"
    server.faults["table.csv"] = ["nolength"]
    with pytest.raises(DataError, match="does not say how long the file is"):
        fetch(remote(server, "table.csv"), source)
    assert fetch(remote(server, "table.csv"), source)[0].read_text() == "a,b\n1,2\n"


def test_a_whole_part_file_needs_no_request(server: FaultyServer, source: Source, home: Path) -> None:
    """Killed between the last byte and the new name."""
    path, _ = fetch(remote(server), source)
    state = {"url": f"{server.url}/{NAME}", "validator": '"x"', "total_bytes": len(CONTENT)}
    path.rename(f"{path}.part")
    Path(f"{path}.part.json").write_text(json.dumps(state))
    server.requests.clear()
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT
    assert not server.requests


@pytest.mark.parametrize("state", ["{", "[]", '{"url": 3}'])
def test_a_part_file_of_unknown_origin_is_not_built_on(
    server: FaultyServer, source: Source, home: Path, state: str
) -> None:
    part = home / "downloads" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    Path(f"{part}.json").write_text(state)
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT
    assert server.requests[0].range is None


def test_truncated_gzip_and_zip_files_are_never_taken(server: FaultyServer, source: Source, home: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/b.txt", "text" * 1000)
    for name, content, words in (
        ("cut.json.gz", CONTENT[:-1], "is a gzip file that breaks off"),
        ("empty.json.gz", b"", "no .gz file"),
        ("two.json.gz", gzip.compress(b"one") + gzip.compress(b"two")[:-3], "breaks off"),
        ("tail.json.gz", gzip.compress(b"one") + b"garbage", "damaged gzip"),
        ("cut.zip", packed.getvalue()[:-30], "no whole zip file"),
        ("not.zip", b"plain text", "no .zip file"),
    ):
        server.files[name] = content
        with pytest.raises(DataError, match=words):
            fetch(remote(server, name), source)
    server.files["whole.json.gz"] = gzip.compress(b"one") + gzip.compress(b"two") + bytes(512)
    server.files["whole.zip"] = packed.getvalue()
    for name in ("whole.json.gz", "whole.zip"):
        assert fetch(remote(server, name), source)[0].read_bytes() == server.files[name]


def test_a_full_disk_is_told_and_what_has_come_is_kept(
    server: FaultyServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def write(stream: io.RawIOBase, chunk: bytes) -> None:
        nonlocal written
        if written + len(chunk) > 250_000:
            stream.write(chunk[: 250_000 - written])
            raise OSError(28, "No space left on device")
        written += stream.write(chunk) or 0

    monkeypatch.setattr(transfer, "_CHUNK_BYTES", 100_000)
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_write", write)
        with pytest.raises(ArtifactError, match="No space left on device") as error:
            fetch(remote(server), source)
    assert "goes on from them" in str(error.value)
    assert fetch(remote(server), source)[0].read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, "bytes=250000-"]


def test_a_disk_that_is_too_small_is_told_before(
    server: FaultyServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ArtifactError, match=r"0.3 MB are still to come, and 0.0 MB are free"):
        fetch(remote(server), source)


def test_a_long_transfer_shows_its_progress(server: FaultyServer, source: Source) -> None:
    class Bars:
        def __init__(self) -> None:
            self.seen: list[tuple[str, int | None, int]] = []
            self.steps = 0

        def bar(self, label: str, total: int | None, done: int = 0):
            self.seen.append((label, total, done))
            return self

        def __enter__(self) -> Bars:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def advance(self, steps: int = 1) -> None:
            self.steps += steps

    server.files["big.json.gz"] = content = gzip.compress(random.Random(7).randbytes(3_500_000), 1)
    server.faults["big.json.gz"] = ["break:1200000"]
    bars = Bars()
    fetch(remote(server, "big.json.gz"), replace(source, progress=bars))  # type: ignore[arg-type]
    assert bars.seen[0] == ("Downloading big.json.gz (MB)", 3, 0)
    assert bars.seen[1] == ("Downloading big.json.gz (MB)", 3, 1)
    assert bars.seen[2] == ("Checking big.json.gz (MB)", 3, 0)
    assert bars.steps == 6, len(content)
