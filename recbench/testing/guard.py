"""What a method must leave as it found it: the global state of the process."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# rich draws from Python's generator when it is imported, which a method's first log line on a terminal may cause.
import rich.style  # noqa: F401

_UNLIKELY_SEED = 3_141_592_653


def global_state() -> dict[str, Any]:
    """Return a comparable snapshot of the process's global state, by name.

    torch is looked at if it is imported already; a caller that wants it watched imports it first.
    """
    state: dict[str, Any] = {
        "random (Python's generator)": random.getstate(),
        "numpy.random (the global generator)": _numpy_state(),
        "sys.argv": list(sys.argv),
        "os.environ": dict(os.environ),
        "the working directory": os.getcwd(),
        "warnings.filters": list(warnings.filters),
        "the root logger": (logging.root.level, list(logging.root.handlers)),
        "numpy's error handling": np.geterr(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state |= {
            "torch's generator": torch.get_rng_state().numpy().tobytes(),
            "torch's default dtype": torch.get_default_dtype(),
            "torch's thread count": torch.get_num_threads(),
            "torch's gradient mode": torch.is_grad_enabled(),
            "torch's anomaly detection": torch.is_anomaly_enabled(),
            "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        }
    return state


def changes_of(action: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Run ``action``; return what it returns and the names of the global state that it changed.

    The global generators stand at an unlikely place meanwhile, so that seeding them anew is seen even where somebody
    seeded them the same way before. Afterwards they stand where they stood.
    """
    with _unlikely_generators():
        before = global_state()
        result = action()
        after = global_state()
    return result, [name for name in before if before[name] != after[name]]


@contextmanager
def _unlikely_generators() -> Iterator[None]:
    torch = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None
    random.seed(_UNLIKELY_SEED)
    np.random.seed(_UNLIKELY_SEED)
    if torch:
        torch.default_generator.manual_seed(_UNLIKELY_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])


def _numpy_state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return (name, np.asarray(keys).tobytes(), *rest)
