"""``train.jsonl``: one JSON line per logged step, appended while the run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np


class TrainLog:
    """Appends records; each line reaches the file at once, so a kill loses at most the line being written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. Numbers that are not finite become null, for which JSON has a word."""
        self._stream.write(json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._stream.name)

    def replace(self, lines: str) -> None:
        """Put other lines in place of all that was written so far."""
        self._stream.truncate(0)
        self._stream.write(lines)
        self._stream.flush()


@contextmanager
def open_train_log(path: Path) -> Iterator[TrainLog]:
    """Open a log for appending, after cutting off half a line that a killed attempt may have left.

    Steps that lie behind the checkpoint from which a run resumes appear twice: every record says which step it is of.
    """
    _cut_half_line(path)
    with path.open("a", encoding="utf-8") as stream:
        yield TrainLog(stream)


def _cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("rb+") as stream:
            stream.truncate(end)


def plain(value: Any) -> Any:
    """Return nested values as plain JSON values: numpy scalars as Python numbers, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
