"""train.jsonl -> training curves: loss, reward and validation metrics per step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbench.artifacts.store import StoredRun
from recbench.contracts.curves import TrainingCurve
from recbench.contracts.errors import ArtifactError


def training_curves(run: StoredRun, label: str) -> list[TrainingCurve]:
    """Return the curves of one run; none if it logged no training.

    Recognised keys of a record are ``loss`` and ``eval_loss``, everything that begins with ``reward``, and
    ``valid/<metric>``. A resumed run may have logged a step twice: the later record counts.

    Raises:
        ArtifactError: a line of the log is not a JSON object.
    """
    points: dict[tuple[str, str, str], dict[float, float]] = {}
    by_epoch: dict[str, bool] = {}
    for record in _records(run.paths.train_log):
        x = record.get("step", record.get("epoch"))
        if not _is_number(x):
            continue
        stage = str(record.get("stage", ""))
        by_epoch[stage] = by_epoch.get(stage, True) and record.get("epoch") == x
        for key, value in record.items():
            panel = _panel(key)
            if panel and _is_number(value):
                points.setdefault((stage, panel, key), {})[float(x)] = float(value)
    return [
        TrainingCurve(
            label=label,
            seed=run.manifest.seed,
            stage=stage,
            panel=panel,
            series=series,
            unit="epoch" if by_epoch[stage] else "step",
            x=tuple(sorted(values)),
            y=tuple(values[x] for x in sorted(values)),
        )
        for (stage, panel, series), values in points.items()
    ]


def _records(path: Path) -> list[Mapping[str, Any]]:
    if not path.exists():
        return []
    records: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{path}, line {number} is not JSON: {error}.", "Delete that line.") from None
        if not isinstance(record, dict):
            raise ArtifactError(f"{path}, line {number} is not a JSON object.", "Delete that line.")
        records.append(record)
    return records


def _panel(key: str) -> str | None:
    """Return the panel that a logged quantity is drawn in, or None if it is not drawn."""
    if key in ("loss", "eval_loss"):
        return "loss"
    if key.startswith("reward"):
        return "reward"
    return "validation" if key.startswith("valid/") else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
