"""Fixtures for all tests: where shared data lies, and a cache folder of the session's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_plugins import PluginFolder

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell without job control starts background jobs with Ctrl-C ignored, and children inherit that. The tests that
# interrupt a child must mean the same there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder ``shared`` beside the checkout (real data, reference values); skip where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder 'shared' beside the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def recbench_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep all caches of the session in a temporary folder, also those of subprocesses.

    A test that wants another folder sets ``RECBENCH_HOME`` itself (``monkeypatch.setenv``). ``RECBENCH_TEST_HOME``
    names a folder to keep between sessions instead.
    """
    kept = os.environ.get("RECBENCH_TEST_HOME")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("recbench_home")
    before = os.environ.get("RECBENCH_HOME")
    os.environ["RECBENCH_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["RECBENCH_HOME"]
    else:
        os.environ["RECBENCH_HOME"] = before


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginFolder:
    """Return an empty folder of plugins that this process and its subprocesses see."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return PluginFolder(folder)
