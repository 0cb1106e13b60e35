"""Running jobs in a worker process: nothing that RecBole does to its process reaches ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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


class Worker:
    """A worker process for the jobs of one method, one after the other.

    It starts with the first job (which takes seconds: it imports torch and RecBole) and has its own arguments, working
    directory, environment and log. Its events come as JSON lines through a pipe. It is killed when a job ends early
    (Ctrl-C, an error) and when this object goes, and it ends by itself when this process dies.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        log: file to which everything is appended that the worker and RecBole print.
    """

    def __init__(self, device: str, log: Path) -> None:
        self.device = device
        self.log = log
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None

    def run(self, folder: Path, on_event: OnEvent) -> None:
        """Run the job in ``folder`` and return when it is done.

        Args:
            folder: the job folder.
            on_event: called with every event of the job.

        Raises:
            RecbenchError: what the worker raised; or, if it died without a word, how, with the end of its log.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        try:
            self._follow(self._process, folder, on_event)
        except BaseException:
            self._end()
            raise

    def _start(self) -> subprocess.Popen[str]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "baselines.recbole.worker"],
                cwd=self.log.parent,
                env=_environment(self.device),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C on the terminal reaches us only; we kill the worker.
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _kill, process)
        return process

    def _follow(self, process: subprocess.Popen[str], folder: Path, on_event: OnEvent) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{folder.resolve()}\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._death(process.wait()) from None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                return
            if event["event"] == "error":
                raise _ERRORS[event["type"]](event["message"], event["hint"])
            on_event(event)
        raise self._death(process.wait())

    def _death(self, status: int) -> RecbenchError:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        hint = None
        if status == -signal.SIGKILL:
            hint = "The system kills processes when memory runs out: try a smaller train_batch_size."
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        tail = "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:]) or "  | (empty)"
        return RecbenchError(f"RecBole's worker process {how}. The end of its log ({self.log}):\n{tail}", hint)


def _kill(process: subprocess.Popen[str]) -> None:
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
    # Threads that wait by spinning make training five times as slow where others use the cores too.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    else:
        number = int(device.partition(":")[2] or 0)
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)
    return environment
