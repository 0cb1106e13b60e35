"""Raw files of public data sets in the cache: fetched once, checked, and never half there.

A file lies in ``RECBENCH_HOME/downloads`` under the path it has on a mirror. Beside it lies a record (``.json``) with
its size and SHA-256, written when it was first fetched; from then on the file must be that one, also when it is
fetched again. The checks before a file is taken: the server's length, the checksum its project publishes (where there
is one), the checks of gzip itself to the last byte, the directory at the end of a zip file, and the record.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from recbench.artifacts.files import read_json, write_json
from recbench.artifacts.paths import downloads_folder
from recbench.contracts.config import StrictModel
from recbench.contracts.errors import DataError
from recbench.contracts.progress import Progress, SilentProgress
from recbench.data.transfer import Limits, RefusedError, discard_part, transfer
from recbench.data.waiting import one_at_a_time

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 22
_MB = 10**6


@dataclass(frozen=True)
class RemoteFile:
    """One file of a public data set.

    Attributes:
        path: where it lies below the cache and below any mirror.
        urls: its public addresses, tried in this order.
        md5: the checksum that its project publishes, or None.
    """

    path: str
    urls: tuple[str, ...]
    md5: str | None = None

    @property
    def name(self) -> str:
        """Its file name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """How files may be fetched.

    Attributes:
        mirror: an address to ask in place of the public ones; its files lie below it under their path, or flat.
        offline: touch no network.
        limits: how patient to be.
        progress: shows bars.
    """

    mirror: str | None = None
    offline: bool = False
    limits: Limits = field(default_factory=Limits)
    progress: Progress = field(default_factory=SilentProgress)

    @classmethod
    def from_environment(cls, mirror: str | None = None, progress: Progress | None = None) -> Source:
        """Return what the environment says: ``RECBENCH_MIRROR``, and ``HF_HUB_OFFLINE`` (1, on, yes, true).

        Args:
            mirror: goes before ``RECBENCH_MIRROR``.
            progress: shows bars.
        """
        offline = os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "on", "yes", "true")
        return cls(mirror or os.environ.get("RECBENCH_MIRROR") or None, offline, progress=progress or SilentProgress())

    def addresses(self, file: RemoteFile) -> tuple[str, ...]:
        """Return the addresses to ask for a file."""
        if not self.mirror:
            return file.urls
        base = self.mirror.rstrip("/")
        return (f"{base}/{file.path}", f"{base}/{file.name}")


class FileRecord(StrictModel):
    """What a raw file was when it was first seen.

    Attributes:
        name: its file name.
        url: the address that gave it; None: it was put there by hand.
        size_bytes: its size.
        sha256: of its bytes, as they lie on disk.
        first_seen: UTC, ISO 8601; None where nothing is remembered of it.
    """

    name: str
    url: str | None = None
    size_bytes: int
    sha256: str
    first_seen: str | None = None


class _DamagedError(Exception):
    """A file came whole, by its length, and is not what it must be. The text says why."""


def fetch(file: RemoteFile, source: Source) -> tuple[Path, FileRecord]:
    """Return a file of the cache, whole and checked; it is fetched if it is not there, or no longer what it was.

    Another process that fetches the same file is waited for.

    Raises:
        DataError: no address gives it; names every address with its reason, and how to do without.
        ArtifactError: it cannot be written; what has come is kept, and the next call goes on from there.
    """
    target = downloads_folder() / file.path
    with one_at_a_time(target.with_name(f".{target.name}.lock"), f"downloads {file.name}"):
        record = _read_record(_record_path(target))
        if target.is_file():
            try:
                return target, _verify(target, file, record, target.name, source)
            except _DamagedError as error:
                logger.warning("%s %s; it is fetched again.", target, error)
                if source.offline:
                    raise _unavailable(file, target, [f"{target} {error}"], source) from error
                target.unlink()
        if source.offline:
            raise _unavailable(file, target, ["no network may be touched (HF_HUB_OFFLINE is set)"], source)
        return target, _download(file, target, record, source)


def is_here(file: RemoteFile) -> bool:
    """Tell whether a file lies in the cache."""
    return (downloads_folder() / file.path).is_file()


def describe_file(path: Path) -> FileRecord:
    """Return the record of any file that a user has.

    Raises:
        DataError: it is damaged (gzip or zip).
    """
    try:
        return _look(path, path.name, SilentProgress())[0]
    except _DamagedError as error:
        raise DataError(f"{path} {error}.", "Download or copy it again.") from error


def by_hand(files: list[RemoteFile], source: Source) -> str:
    """Return how to fetch files without recbench: addresses and file names, one line each."""
    lines = [f"  {address}" for file in files for address in source.addresses(file)[:1]]
    return "\n".join(["Fetch by hand, keeping the file names (plain files without .gz do as well):", *lines])


def _download(file: RemoteFile, target: Path, record: FileRecord | None, source: Source) -> FileRecord:
    part = target.with_name(target.name + ".part")
    reasons = []
    for url in source.addresses(file):
        logger.info("Downloading %s to %s.", url, target)
        # A file may be damaged on the way although its length is right: once more, from its beginning.
        for is_last in (False, True):
            try:
                transfer(url, part, source.limits, source.progress)
                found = _verify(part, file, record, target.name, source)
            except RefusedError as error:
                reasons.append(f"{url}: {error}")
                break
            except _DamagedError as error:
                discard_part(part)
                if is_last:
                    reasons.append(f"{url}: what it gives {error}")
                else:
                    logger.warning("%s: what it gave %s; fetching it once more.", url, error)
                continue
            found = found.model_copy(update={"url": url})
            if record is None:
                write_json(_record_path(target), found.model_dump(mode="json"))
            part.replace(target)
            discard_part(part)
            return found
    raise _unavailable(file, target, reasons, source)


def _verify(path: Path, file: RemoteFile, record: FileRecord | None, name: str, source: Source) -> FileRecord:
    """Check a file that is there in its whole length.

    Raises:
        _DamagedError: it is not what it must be.
    """
    if record is not None and path.stat().st_size != record.size_bytes:
        raise _DamagedError(f"has {path.stat().st_size:,} bytes, {record.size_bytes:,} when it was first fetched")
    found, md5 = _look(path, name, source.progress)
    if file.md5 is not None and md5 != file.md5:
        raise _DamagedError(f"has the MD5 {md5}, its project publishes {file.md5}")
    if record is not None and found.sha256 != record.sha256:
        raise _DamagedError(f"has the SHA-256 {found.sha256}, {record.sha256} when it was first fetched")
    return record or found


def _look(path: Path, name: str, progress: Progress) -> tuple[FileRecord, str]:
    """Read a file once: size and checksums, and for gzip its own check of every byte.

    Returns:
        Its record, and its MD5.

    Raises:
        _DamagedError: it is a broken gzip or zip file.
    """
    size = path.stat().st_size
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    unpack = _GzipCheck() if name.endswith(".gz") else None
    done = 0
    with path.open("rb") as stream, progress.bar(f"Checking {name} (MB)", size // _MB) as bar:
        while chunk := stream.read(_CHUNK_BYTES):
            sha256.update(chunk)
            md5.update(chunk)
            if unpack is not None:
                unpack.feed(chunk)
            bar.advance((done + len(chunk)) // _MB - done // _MB)
            done += len(chunk)
    if unpack is not None:
        unpack.end()
    if name.endswith(".zip") and not zipfile.is_zipfile(path):
        raise _DamagedError("is no whole zip file: the directory at its end is missing")
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return FileRecord(name=name, size_bytes=size, sha256=sha256.hexdigest(), first_seen=now), md5.hexdigest()


class _GzipCheck:
    """Unpacks gzip bytes (any number of members, zeros behind them) and keeps nothing."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._begun = False

    def feed(self, chunk: bytes) -> None:
        """Check the next bytes."""
        try:
            while chunk:
                if self._member.eof:
                    chunk = chunk.lstrip(b"\0")
                    if not chunk:
                        return
                    self._member = zlib.decompressobj(wbits=31)
                self._begun = True
                while chunk and not self._member.eof:
                    self._member.decompress(chunk, _CHUNK_BYTES)
                    chunk = self._member.unconsumed_tail
                chunk = self._member.unused_data
        except zlib.error as error:
            raise _DamagedError(f"is a damaged gzip file ({error})") from error

    def end(self) -> None:
        """Check that the last member was whole."""
        self._member.flush()
        if not self._begun or not self._member.eof:
            raise _DamagedError("is a gzip file that breaks off")


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _read_record(path: Path) -> FileRecord | None:
    if not path.is_file():
        return None
    try:
        return FileRecord.model_validate(read_json(path))
    except ValueError as error:
        raise DataError(f"{path} is not the record of a download: {error}.", "Delete it and run again.") from error


def _unavailable(file: RemoteFile, target: Path, reasons: list[str], source: Source) -> DataError:
    hint = (
        f"{by_hand([file], source)}\nand give their folder: --from-dir DIR. Another server with these files: --mirror "
        "URL or RECBENCH_MIRROR."
    )
    if any("when it was first fetched" in reason for reason in reasons):
        hint = f"If the file was replaced on purpose, delete {_record_path(target)} and prepare again.\n{hint}"
    return DataError(f"{file.name} cannot be had:\n" + "\n".join(f"  {reason}." for reason in reasons), hint)
