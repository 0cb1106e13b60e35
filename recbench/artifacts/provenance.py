"""Where a result comes from: code, packages, hardware, command. It explains a run and is no part of its identity."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def collect_provenance(command: Sequence[str], packages: Mapping[str, str], device: str) -> dict[str, Any]:
    """Return plain facts about this process and machine.

    Args:
        command: the command line as the user gave it.
        packages: name and version of every package that can change the result.
        device: "cpu", "cuda" or "cuda:N".
    """
    return {
        "command": list(command),
        "recbench": version("recbench"),
        "git": git_state(Path(__file__)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu_name(device) if device.startswith("cuda") else None,
        "packages": dict(packages),
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """Return ``commit`` and ``dirty`` of the checkout that tracks ``file``, or None where none does."""
    folder = file.parent
    try:
        if not _git(folder, "ls-files", file.name):
            return None  # installed inside somebody else's repository, say
        return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_name(device: str) -> str:
    """Return the name of a CUDA device."""
    import torch

    return str(torch.cuda.get_device_name(torch.device(device)))
