"""Content hashes: the same content gives the same hash on any machine, platform and time zone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def hash_json(value: Any, length: int = 16) -> str:
    """Return a hexadecimal hash of a JSON-serialisable value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hash_arrays(arrays: Iterable[np.ndarray], length: int = 16) -> str:
    """Return a hash of numbers: shape, kind and little-endian bytes of every array in order."""
    digest = hashlib.sha256()
    for array in arrays:
        fixed = np.ascontiguousarray(array)
        fixed = fixed.astype(fixed.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{fixed.shape}{fixed.dtype.str}".encode())
        digest.update(fixed.tobytes())
    return digest.hexdigest()[:length]


def hash_strings(strings: Iterable[str], length: int = 16) -> str:
    """Return a hash of a sequence of strings."""
    digest = hashlib.sha256()
    for text in strings:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(4, "little"))
        digest.update(raw)
    return digest.hexdigest()[:length]


def hash_file(path: Path) -> str:
    """Return the full SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
