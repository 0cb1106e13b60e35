"""A loopback HTTP server that serves files, and does so as badly as it is told to."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = b"<!DOCTYPE html><html><head><title>Please accept our terms</title></head><body>no file here</body></html>"


@dataclass
class Request:
    """One request as it came: its path, and the headers that matter here."""

    path: str
    range: str | None
    if_range: str | None


@dataclass
class FaultyServer:
    """What is served, how, and what was asked for.

    Attributes:
        files: path (without leading slash) -> content. Requests for others get a 404.
        faults: path -> faults, one per request, used up from the front; then the file is served as it should be.
            ``break:N`` ends the connection after N bytes of the body, ``stall`` sends nothing more after its first
            half, ``short`` announces and sends the first half only, ``long`` announces more than there is, ``html``
            is a page with status 200, a number is that status, ``other`` serves other bytes of the same length,
            ``norange`` ignores a request for a range, ``shifted`` answers with another range than asked for,
            ``nolength`` does not say how long the file is, ``slow`` takes two seconds, ``wait`` waits until
            ``release`` is set.
        validators: whether files have an entity tag.
        requests: every request, in order.
        release: lets the answers go on that wait.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    validators: bool = True
    requests: list[Request] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def serve_folder(self, folder: Path) -> None:
        """Serve all files of a folder under their names."""
        self.files |= {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    """Run a server on a free loopback port while the block runs."""
    state = FaultyServer()

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: FaultyServer
    protocol_version = "HTTP/1.1"
    headers: Message

    def handle(self) -> None:
        """Answer requests until the client goes, in whatever way it goes."""
        with suppress(ConnectionResetError):
            super().handle()

    def do_GET(self) -> None:
        """Answer one request."""
        state, path = self.server_state, self.path.lstrip("/")
        asked = self.headers.get("Range")
        state.requests.append(Request(path, asked, self.headers.get("If-Range")))
        fault = state.faults[path].pop(0) if state.faults.get(path) else ""
        if fault == "wait":
            state.release.wait(timeout=60)
        if path not in state.files:
            fault = "404"
        if fault.isdigit():
            self._answer(int(fault), b"", {})
        elif fault == "html":
            self._answer(200, HTML, {"Content-Type": "text/html; charset=utf-8"})
        else:
            self._serve(state.files[path], asked, fault)

    def _serve(self, content: bytes, asked: str | None, fault: str) -> None:
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"Content-Type": "application/gzip"} | ({"ETag": tag} if self.server_state.validators else {})
        start = 0
        if asked and fault != "norange" and self.headers.get("If-Range") in (None, tag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(content) > 0 and asked:
            self._answer(416, b"", {})
            return
        first = 0 if fault == "shifted" else start
        if start:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        body = content[first:]
        if fault == "other":
            body = body[:20] + bytes(255 - byte for byte in body[20:])
        self._answer(206 if start else 200, body, headers, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: str = "") -> None:
        length = {"short": len(body) // 2, "long": len(body) + 1000}.get(fault, len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault == "nolength":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            self._send(body, length, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send(self, body: bytes, length: int, fault: str) -> None:
        if fault.startswith("break:"):
            self.wfile.write(body[: int(fault.partition(":")[2])])
            self.close_connection = True
        elif fault == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(1.0)
            self.close_connection = True
        elif fault == "slow":
            for piece in range(0, len(body), max(len(body) // 100, 1)):
                self.wfile.write(body[piece : piece + max(len(body) // 100, 1)])
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.wfile.write(body[:length])
            self.close_connection = fault in ("long", "nolength")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test prints what it needs."""
