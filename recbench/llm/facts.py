"""What a decoding leaves beside its lists: plain facts for the run's ``summary.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbench.artifacts.files import read_json, write_json

_NAME = "facts.json"


def write_decoding_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Keep the facts of the last decoding in ``folder``.

    Raises:
        ArtifactError: the file cannot be written.
    """
    write_json(folder / _NAME, dict(facts))


def decoding_facts(folder: Path) -> dict[str, Any]:
    """Return what the last decoding in ``folder`` left for the run's summary; nothing where it left nothing."""
    path = folder / _NAME
    return dict(read_json(path)) if path.exists() else {}
