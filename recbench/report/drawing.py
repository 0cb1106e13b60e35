"""All figures of a report, drawn by several processes at once where there are several cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from recbench.report.figures import Drawn, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Make = Callable[[], "MatplotlibFigure"]

_MOST_PROCESSES = 8
# A process is not worth its start for fewer.
_FIGURES_PER_PROCESS = 4


def draw_all(makes: Sequence[Make], processes: int | None = None) -> list[Drawn]:
    """Draw figures, in their order; the bytes do not depend on the number of processes.

    A figure costs matplotlib almost half a second. On Linux the work is shared by forked processes, which need no
    pickled figures; elsewhere forking is not safe, and one process draws all.

    Args:
        makes: each makes one figure.
        processes: how many draw; None: as many as there are cores and enough figures for.
    """
    if processes is None:
        processes = min(_cores(), _MOST_PROCESSES, len(makes) // _FIGURES_PER_PROCESS)
    if processes < 2 or not sys.platform.startswith("linux"):
        return [draw(make) for make in makes]
    context = multiprocessing.get_context("fork")
    # Loaded once here instead of once in every process.
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401

    drawn: list[Drawn | None] = [None] * len(makes)
    helpers = []
    for start in range(1, processes):
        receiver, sender = context.Pipe(duplex=False)
        helper = context.Process(target=_draw_share, args=(makes[start::processes], sender), daemon=True)
        helper.start()
        sender.close()
        helpers.append((start, receiver, helper))
    drawn[::processes] = [draw(make) for make in makes[::processes]]
    for start, receiver, helper in helpers:
        drawn[start::processes] = _received(receiver) or [draw(make) for make in makes[start::processes]]
        helper.join()
    return [one for one in drawn if one is not None]


def _draw_share(makes: Sequence[Make], sender: Connection) -> None:
    """Draw in a process of its own. A figure that fails ends it in silence: the parent draws again and sees why."""
    try:
        drawn = [draw(make) for make in makes]
    except Exception:
        drawn = []
    sender.send(drawn)
    sender.close()


def _received(receiver: Connection) -> list[Drawn]:
    """Return what a process drew; nothing where it ended before its time."""
    try:
        return receiver.recv()
    except EOFError:
        return []
    finally:
        receiver.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
