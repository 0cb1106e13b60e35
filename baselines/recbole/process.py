"""Running a job in the worker process: nothing that RecBole does to its process reaches ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from baselines.recbole.job import LOG
from recbench.contracts.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    MissingExtraError,
    RecbenchError,
    TrainingError,
)

_ERRORS = {error.__name__: error for error in (ArtifactError, ConfigError, DataError, MissingExtraError, TrainingError)}
_TAIL_LINES = 15

OnEvent = Callable[[Mapping[str, Any]], None]


def run_worker(folder: Path, device: str, on_event: OnEvent) -> None:
    """Run the job in ``folder`` and return when it is done.

    The worker has its own arguments, working directory (``folder``), environment and log (``worker.log``). Its events
    come as JSON lines through a pipe. It is killed when this call ends early (Ctrl-C), and it ends by itself when this
    process dies.

    Args:
        folder: the job folder.
        device: "cpu", "cuda" or "cuda:N".
        on_event: called with every event that the worker sends.

    Raises:
        RecbenchError: what the worker raised; or, if it died without a word, how, with the end of its log.
    """
    failure: Mapping[str, Any] | None = None
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "baselines.recbole.worker", str(folder)],
            cwd=folder,
            env=_environment(device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "error":
                    failure = event
                else:
                    on_event(event)
            status = process.wait()
        finally:
            _end(process)
    if failure is not None:
        raise _ERRORS[failure["type"]](failure["message"], failure["hint"])
    if status != 0:
        raise _death(status, folder / LOG)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _environment(device: str) -> dict[str, str]:
    """Return the worker's environment: our packages, and only the device it may use."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    else:
        number = int(device.partition(":")[2] or 0)
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)
    return environment


def _death(status: int, log: Path) -> RecbenchError:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    hint = None
    if status == -signal.SIGKILL:
        hint = "The system kills processes when memory runs out: try a smaller train_batch_size."
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    tail = "\n".join(f"  | {line}" for line in lines) or "  | (empty)"
    return RecbenchError(f"RecBole's worker process {how}. The end of its log ({log}):\n{tail}", hint)
