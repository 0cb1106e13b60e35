"""The worker process (``python -m baselines.recbole.worker``). The only place that imports RecBole.

It reads job folders from standard input, one per line, and writes events as JSON lines to standard output; everything
that RecBole prints goes to standard error. When standard input closes, the process that started it is gone, and it
ends at once, also in the middle of a job.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from recbench.contracts.errors import MissingExtraError, RecbenchError, TrainingError


def main() -> None:
    """Run jobs until standard input closes, or one fails in a way that nobody foresaw."""
    events = _take_stdout()
    jobs: SimpleQueue[Path] = SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    # RecBole reads its configuration from the command line too.
    sys.argv = sys.argv[:1]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    while True:
        folder = jobs.get()
        try:
            _run(folder, emit)
        except Exception as error:
            traceback.print_exc()
            known = _as_known(error)
            if known is None:
                _leave(1)
            else:
                emit("error", type=type(known).__name__, message=known.message, hint=known.hint)
        else:
            emit("done")


def _run(folder: Path, emit: Any) -> None:
    from baselines.recbole import isolate, ranking, training
    from baselines.recbole.job import FitJob, read_job

    os.chdir(folder)
    job = read_job(folder)
    isolate.prepare_process(job.device)
    if isinstance(job, FitJob):
        training.fit(folder, job, emit)
    else:
        ranking.rank(folder, job, emit)


def _take_stdout() -> io.TextIOWrapper:
    """Keep standard output for events, and send what anybody prints to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _read_jobs(jobs: SimpleQueue[Path]) -> None:
    for line in sys.stdin:
        jobs.put(Path(line.rstrip("\n")))
    _leave(0)


def _leave(status: int) -> None:
    """End now: an orderly exit would wait for the other thread."""
    sys.stderr.flush()
    os._exit(status)


def _as_known(error: Exception) -> RecbenchError | None:
    """Return the error that tells the user what to do, or None for what looks like a bug."""
    import torch

    from baselines.recbole.catalog import INSTALL_HINT

    if isinstance(error, RecbenchError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return MissingExtraError(f"RecBole needs the package '{error.name}', which is not installed.", INSTALL_HINT)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return TrainingError("Memory ran out in RecBole's worker process.", "Try a smaller train_batch_size.")
    return None


if __name__ == "__main__":
    main()
