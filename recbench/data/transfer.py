"""Getting one file from one address, however often the connection breaks.

What has come is kept in a ``.part`` file. The next attempt, in this process or a later one, asks for the rest only
(``Range``), on the condition that the file is still the same one (``If-Range`` with its entity tag or date, RFC 9110
section 13.1.5). A server that knows neither, or ignores the request for a range, starts afresh.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import requests
import urllib3
from urllib3.exceptions import NameResolutionError

from recbench.artifacts.files import read_json, write_json
from recbench.contracts.config import StrictModel
from recbench.contracts.errors import ArtifactError
from recbench.contracts.progress import Progress

logger = logging.getLogger(__name__)

# What a stalled connection may lose: a piece that is not whole yet is fetched again.
_CHUNK_BYTES = 1 << 16
_MB = 10**6
_PASSING_STATUS = {408, 425, 429}  # request timeout, too early, too many requests
#: First bytes of the files that have such; a page of HTML is never taken for one of them.
_MAGIC = {".gz": b"\x1f\x8b", ".zip": b"PK"}
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html)", re.IGNORECASE)
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """How patient a download is.

    Attributes:
        attempts: attempts in a row that bring nothing new before an address is given up.
        connect_s: seconds until a connection must stand.
        read_s: seconds without a single byte after which a connection counts as stalled.
        backoff_s: seconds before the second attempt; doubled before each further one.
        longest_wait_s: no wait is longer, whatever the server asks for.
    """

    attempts: int = 6
    connect_s: float = 20.0
    read_s: float = 60.0
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0


class RefusedError(Exception):
    """An address does not give the file, and asking again will not help. The text says why."""


class _PassingError(Exception):
    """Something that may be over at the next attempt."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class _PartState(StrictModel):
    """What is known of the file that a ``.part`` is the beginning of (``.part.json``)."""

    url: str
    validator: str | None = None
    total_bytes: int | None = None


def transfer(url: str, part: Path, limits: Limits, progress: Progress) -> None:
    """Bring ``part`` to the whole length that the server announces, going on from what is already there.

    Args:
        url: http(s) address.
        part: file to fill; its name without ``.part`` tells the kind of file that is expected.
        limits: how patient to be.
        progress: shows a bar, in megabytes.

    Raises:
        RefusedError: the address does not give the file.
        ArtifactError: it cannot be written; what has come is kept.
    """
    failures, most = 0, 0
    while True:
        try:
            _attempt(url, part, limits, progress)
            return
        except _PassingError as error:
            failures = failures + 1 if _size(part) <= most else 1
            most = max(most, _size(part))
            if failures >= limits.attempts:
                raise RefusedError(f"{error} ({failures} attempts in a row brought nothing new)") from error
            wait = error.wait_s if error.wait_s is not None else limits.backoff_s * 2 ** (failures - 1)
            wait = min(wait, limits.longest_wait_s)
            logger.info("%s: %s. Going on in %.0f s, %s are there.", url, error, wait, _megabytes(_size(part)))
            time.sleep(wait)


def discard_part(part: Path) -> None:
    """Forget what has come so far."""
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, limits: Limits, progress: Progress) -> None:
    state = _read_state(part)
    # A part that comes from elsewhere stays until this address has something better.
    ours = state is not None and state.url == url and state.validator is not None
    have = _size(part) if ours else 0
    if state is not None and have and have == state.total_bytes:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": f"recbench/{version('recbench')}"}
    if state is not None and state.validator and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    with _answer(url, headers, limits) as response:
        start, total = _place(response, have, part)
        chunks = _chunks(response)
        first = next(chunks, b"")
        if not start:
            _refuse_other_kinds(response, first, part, total)
            discard_part(part)
        write_json(_state_path(part), _state(url, response, total).model_dump(mode="json"))
        _append(part, first, chunks, total, progress)
    if total is not None and _size(part) != total:
        raise _PassingError(f"the connection ended after {_size(part):,} of {total:,} bytes")


@contextmanager
def _answer(url: str, headers: dict[str, str], limits: Limits) -> Iterator[requests.Response]:
    """Ask, and turn what can go wrong on the way into an error that passes or one that stays."""
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(limits.connect_s, limits.read_s)) as response:
            yield response
    except requests.exceptions.SSLError as error:
        raise RefusedError(f"no secure connection: {_reason(error)}") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _PassingError(f"nothing came for {limits.read_s:g} s") from error
    except requests.exceptions.ConnectionError as error:
        if isinstance(getattr(error.args[0] if error.args else None, "reason", None), NameResolutionError):
            raise RefusedError("its host has no address; is there a network?") from error
        raise _PassingError(f"no connection: {_reason(error)}") from error
    except urllib3.exceptions.HTTPError as error:
        raise _PassingError(f"the connection broke: {_reason(error)}") from error
    except requests.exceptions.RequestException as error:
        raise RefusedError(_reason(error)) from error


def _place(response: requests.Response, have: int, part: Path) -> tuple[int, int | None]:
    """Return at which byte the answer starts and how long the whole file is (None: not said).

    Raises:
        RefusedError, _PassingError: the answer is not the file.
    """
    status = response.status_code
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            discard_part(part)
            raise _PassingError("the server sent another range than asked for; starting afresh")
        return have, None if match[2] == "*" else int(match[2])
    if status == 200:
        if have:
            logger.info("The server sends %s from its beginning again.", response.url)
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    if status == 416:
        discard_part(part)
        raise _PassingError("the server cannot go on where the last attempt stopped; starting afresh")
    answer = f"the server answers {status} {response.reason}".rstrip()
    if status >= 500 or status in _PASSING_STATUS:
        asked = response.headers.get("Retry-After", "")
        raise _PassingError(answer, float(asked) if asked.isdigit() else None)
    raise RefusedError(answer)


def _refuse_other_kinds(response: requests.Response, first: bytes, part: Path, total: int | None) -> None:
    """Refuse a page of HTML, and whatever does not begin like a file of the kind that is expected.

    Raises:
        RefusedError: with the title of the page, where it has one.
    """
    suffix = Path(_final_name(part)).suffix
    magic = _MAGIC.get(suffix)
    if magic is not None and first.startswith(magic):
        return
    if _HTML.match(first) or response.headers.get("Content-Type", "").strip().startswith(_HTML_TYPES):
        title = _TITLE.search(first)
        words = f" titled '{title[1].decode('utf-8', 'replace')[:80]}'" if title else ""
        raise RefusedError(f"it gives a web page{words} in place of the file")
    if magic is not None:
        raise RefusedError(f"what it gives is no {suffix} file")
    if total is None and not response.raw.chunked:
        raise RefusedError("the server does not say how long the file is, so nobody would notice if it broke off")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes as they are sent, not unpacked: a .gz file stays one."""
    yield from response.raw.stream(_CHUNK_BYTES, decode_content=False)


def _append(part: Path, first: bytes, rest: Iterator[bytes], total: int | None, progress: Progress) -> None:
    have = _size(part)
    _require_space(part, (total or have) - have)
    label = f"Downloading {_final_name(part)} (MB)"
    steps = None if total is None else total // _MB
    # Unbuffered: a write that fails must not be tried again when the file is closed.
    with part.open("ab", buffering=0) as stream, progress.bar(label, steps, have // _MB) as bar:
        chunk = first
        while chunk:
            try:
                _write(stream, chunk)
            except OSError as error:
                raise _no_space(part, error.strerror or str(error)) from error
            bar.advance((have + len(chunk)) // _MB - have // _MB)
            have += len(chunk)
            chunk = next(rest, b"")
        os.fsync(stream.fileno())


def _write(stream: io.RawIOBase, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[stream.write(view) or 0 :]


def _require_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise _no_space(part, f"{_megabytes(needed)} are still to come, and {_megabytes(free)} are free")


def _no_space(part: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"Cannot write {part}: {why}.",
        "Free some space, mend the permissions or choose another place for all caches (RECBENCH_HOME). "
        f"{_megabytes(_size(part))} are there and stay; the same command goes on from them.",
    )


def _state(url: str, response: requests.Response, total: int | None) -> _PartState:
    tag = response.headers.get("ETag")
    # A weak tag promises equal meaning, not equal bytes: RFC 9110 forbids it in If-Range.
    strong = tag if tag and not tag.startswith("W/") else None
    return _PartState(url=url, validator=strong or response.headers.get("Last-Modified"), total_bytes=total)


def _read_state(part: Path) -> _PartState | None:
    path = _state_path(part)
    if not part.is_file() or not path.is_file():
        return None
    try:
        return _PartState.model_validate(read_json(path))
    except (ArtifactError, ValueError):
        return None


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _final_name(part: Path) -> str:
    return part.name.removesuffix(".part")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / _MB:,.1f} MB"


def _reason(error: BaseException) -> str:
    """Return what went wrong at the bottom of nested errors, on one line."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    inner = getattr(error, "reason", None)
    return _reason(inner) if isinstance(inner, BaseException) else " ".join(str(error).split())
