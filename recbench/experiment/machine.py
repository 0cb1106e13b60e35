"""What a stretch of work took of the machine, and what others took meanwhile: memory at its peak, processor time."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from recbench.artifacts.provenance import usable_cores
from recbench.experiment.resources import peak_memory_bytes

# Linux: writing 5 here sets a process's peak resident size to its present one (man 5 proc).
_RESET_PEAK = "5"
_IDLE = ("idle", "iowait", "guest", "guest_nice")  # the time of guests is part of user and nice


class MemoryPeak:
    """Peak memory of this process and its workers together since :meth:`reset`.

    Args:
        device: "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._was_reset = False

    @property
    def since(self) -> Literal["ranking", "process"]:
        """Whether the peak counts from :meth:`reset`; elsewhere than on Linux it counts from the process's start."""
        return "ranking" if self._was_reset else "process"

    def reset(self) -> None:
        """Begin to count anew."""
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            for process in _family():
                Path(f"/proc/{process}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
            self._was_reset = True
        except OSError:
            self._was_reset = False

    def bytes(self) -> dict[str, int]:
        """Return ``host`` and, on CUDA, ``device`` (what torch allocated)."""
        result = peak_memory_bytes(self._device)
        if self._was_reset:
            result["host"] = sum(_peak_bytes(process) for process in _family())
        return result


def _family() -> list[int]:
    """Return the process numbers of this process and of all that it started."""
    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def _peak_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@dataclass(frozen=True)
class CpuUse:
    """Processor seconds up to one moment.

    Attributes:
        capacity: of all processors together.
        busy: those in which something ran.
        own: those of this process and its workers.
    """

    capacity: float
    busy: float
    own: float

    @classmethod
    def now(cls) -> CpuUse:
        """Read the counters."""
        times = psutil.cpu_times()._asdict()
        idle = times["idle"] + times.get("iowait", 0.0)
        busy = sum(seconds for name, seconds in times.items() if name not in _IDLE)
        return cls(busy + idle, busy, time.process_time() + worker_seconds())

    def others_since(self, earlier: CpuUse) -> float | None:
        """Return the share of the machine that others used since ``earlier``, or None where no time has passed."""
        capacity = self.capacity - earlier.capacity
        if capacity <= 0:
            return None
        others = (self.busy - earlier.busy) - (self.own - earlier.own)
        return min(max(others / capacity, 0.0), 1.0)


def worker_seconds() -> float:
    """Return the processor seconds of all live processes that this one started, so far."""
    return sum(map(_cpu_seconds, psutil.Process().children(recursive=True)))


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0  # it has ended
    return float(times.user + times.system)


def clock_s(device: str) -> float:
    """Return the seconds of a clock that only moves on, once the device has done all of its work."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def torch_threads() -> int:
    """Return how many threads torch computes with here (in worker processes too: they read the same environment)."""
    if "torch" in sys.modules:
        import torch

        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() else usable_cores()
