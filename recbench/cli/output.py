"""What the command line writes where: results on stdout, everything else (logs, progress, errors) on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.contracts.progress import Bar, Progress, SilentProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

JsonFlag = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]

# Shorter work shows no bar: one that flashes up and goes only distracts.
_SHOW_AFTER_S = 2.0
_PIPE_WIDTH = 200
_OUR_LOGGERS = ("recbench", "baselines", "latent")


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, and with it end what the command says there.

    Raises:
        ValueError: the document holds NaN or infinity, for which JSON has no word.
    """
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


@cache
def console() -> Console:
    """Return the console for results: stdout, as wide as the terminal, or wide enough for tables in a file or pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


@cache
def stderr_console() -> Console:
    """Return the console that logs, errors and progress bars share, so that none breaks another's line."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def progress() -> Progress:
    """Return progress bars on stderr where it is a terminal, and bars that show nothing elsewhere."""
    return TerminalProgress() if sys.stderr.isatty() else SilentProgress()


class TerminalProgress:
    """Bars on the terminal, for work that lasts longer than two seconds. Bars may be nested."""

    def __init__(self) -> None:
        self._bars: RichBars | None = None
        self._open = 0

    @contextmanager
    def bar(self, label: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """Show one bar while the block runs.

        Args:
            label: what is being done ("Ranking").
            total: number of steps, or None where it is not known.
            done: steps that an earlier attempt already did.
        """
        bars = self._bars or self._make()
        task = bars.add_task(label, total=total, completed=done, note="")
        self._open += 1
        try:
            yield _TerminalBar(bars, task)
        finally:
            self._open -= 1
            bars.remove_task(task)
            if not self._open:
                bars.stop()
                self._bars = None

    def _make(self) -> RichBars:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
            TextColumn("{task.fields[note]}"),
            console=stderr_console(),
            transient=True,
        )
        return self._bars


class _TerminalBar:
    def __init__(self, bars: RichBars, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self._show_from = time.monotonic() + _SHOW_AFTER_S

    def advance(self, steps: int = 1) -> None:
        """Say that ``steps`` more steps are done."""
        self._bars.advance(self._task, steps)
        self._show()

    def note(self, text: str) -> None:
        """Show a short text beside the bar."""
        self._bars.update(self._task, note=text)
        self._show()

    def _show(self) -> None:
        if not self._bars.live.is_started and time.monotonic() > self._show_from:
            self._bars.start()


class StderrHandler(logging.Handler):
    """Log lines for people: our own from INFO on, those of other packages from WARNING on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record above the progress bars, if there are any."""
        try:
            if record.levelno < self._least(record.name):
                return
            style = "yellow" if record.levelno >= logging.WARNING else None
            word = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            stderr_console().print(word + record.getMessage(), style=style, markup=False)
        except Exception:
            self.handleError(record)

    @staticmethod
    def _least(name: str) -> int:
        package = name.partition(".")[0]
        if package == "py":  # py.warnings: notes from package to developer, for the log file only
            return logging.ERROR
        return logging.INFO if package in _OUR_LOGGERS else logging.WARNING


def configure_logging() -> None:
    """Send log lines to stderr. Called once per process, by the command line only."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(StderrHandler())
