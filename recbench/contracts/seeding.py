"""One run seed, many independent and named random generators.

No code of recbench draws from a global generator: a draw depends on the seed and the names alone, so resuming,
batching and the order of other draws change nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and ``names`` only."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for one named purpose."""
    return np.random.default_rng(derive_seed(seed, *names))
