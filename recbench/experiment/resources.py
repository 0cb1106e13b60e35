"""Devices and memory."""

from __future__ import annotations

import resource
import sys
from typing import Literal

from recbench.contracts.errors import ConfigError
from recbench.contracts.method import Capabilities

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(wanted: DeviceChoice, capabilities: Capabilities) -> str:
    """Return the device a method runs on: a method without torch only knows the CPU.

    Raises:
        ConfigError: CUDA is asked for and torch sees no CUDA device.
    """
    if wanted == "cpu" or "torch" not in capabilities.packages:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ConfigError(
            f"--device cuda: torch {torch.__version__} sees no CUDA device.",
            "Use --device cpu, or see 'recbench doctor' for what is installed.",
        )
    return "cpu"


def peak_memory_bytes(device: str) -> dict[str, int]:
    """Return peak memory so far in bytes.

    ``host`` is the largest resident size that this process or one of its finished worker processes ever had (workers
    run one at a time, while this process waits); ``device`` is what torch allocated on the CUDA device at most.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    result = {"host": largest * unit}
    if device.startswith("cuda"):
        import torch

        result["device"] = int(torch.cuda.max_memory_allocated(device))
    return result
