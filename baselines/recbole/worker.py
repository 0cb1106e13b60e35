"""The worker process: ``python -m baselines.recbole.worker JOB_FOLDER``. The only place that imports RecBole.

It writes one JSON object per line to the standard output it was started with; everything that RecBole prints goes to
standard error. It ends when its standard input closes, that is, when the process that started it is gone.
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
from typing import Any

from recbench.contracts.errors import MissingExtraError, RecbenchError, TrainingError


def main(folder: Path) -> int:
    """Run the job in ``folder``; return the exit status."""
    events = _take_stdout()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # RecBole reads its configuration from the command line too.
    sys.argv = sys.argv[:1]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    try:
        _run(folder, emit)
    except Exception as error:
        traceback.print_exc()
        known = _as_known(error)
        if known is None:
            return 1
        emit("error", type=type(known).__name__, message=known.message, hint=known.hint)
        return 0
    return 0


def _run(folder: Path, emit: Any) -> None:
    from baselines.recbole import isolate, ranking, training
    from baselines.recbole.job import FitJob, read_job

    isolate.prepare_process()
    job = read_job(folder)
    if isinstance(job, FitJob):
        training.fit(folder, job, emit)
    else:
        ranking.rank(folder, job, emit)


def _take_stdout() -> io.TextIOWrapper:
    """Keep standard output for events, and send what anybody prints to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _end_with_parent() -> None:
    # Unbuffered: Python's own reader holds a lock that an orderly exit would wait for.
    while os.read(0, 1):
        pass
    os._exit(1)


def _as_known(error: Exception) -> RecbenchError | None:
    """Return the error that tells the user what to do, or None for what looks like a bug."""
    import torch

    from baselines.recbole.catalog import INSTALL_HINT

    if isinstance(error, RecbenchError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return MissingExtraError(f"RecBole needs the package '{error.name}', which is not installed.", INSTALL_HINT)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return TrainingError("Memory ran out while RecBole was training.", "Try a smaller train_batch_size.")
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
