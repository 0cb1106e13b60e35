"""The errors that a user may cause, and the exit code each one ends the command line with.

Everything else is a bug: it leaves a traceback and exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecbenchError(Exception):
    """Something the user can mend.

    Args:
        message: what was found and what was expected.
        hint: what to do about it, as a sentence or a command.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(RecbenchError):
    """Wrong use of the command line or of a public function."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value or key that is not accepted."""


class TrainingError(UsageError):
    """Training cannot go on (a loss that is not finite, say); other settings are needed."""


class MissingExtraError(UsageError):
    """An optional package is needed and not installed."""


class DataError(RecbenchError):
    """A data set or an input file is missing, damaged or not what it should be."""

    exit_code = 3


class ArtifactError(RecbenchError):
    """A run folder or one of its files is missing, damaged or cannot be written."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
