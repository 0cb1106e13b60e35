"""Fixtures for tests of the command line."""

from __future__ import annotations

import pytest
from helpers_run_commands import Here


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """Return what runs a command line in the process of the test."""
    return Here(capsys)
