"""How long work tells that it moves on, without knowing whether anybody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of work with a known or unknown number of steps."""

    def advance(self, steps: int = 1) -> None:
        """Say that ``steps`` more steps are done."""

    def note(self, text: str) -> None:
        """Show a short text beside the bar (a loss, say)."""


class Progress(Protocol):
    """Something that shows bars."""

    def bar(self, label: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
        """Return a context manager that shows one bar while it is open."""


class _SilentBar:
    def advance(self, steps: int = 1) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class SilentProgress:
    """Shows nothing (pipes, tests, ``--json``)."""

    @contextmanager
    def bar(self, label: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """Yield a bar that shows nothing."""
        yield _SilentBar()
