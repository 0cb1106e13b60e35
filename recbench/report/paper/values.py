"""Values that a paper prints, and which of them belong beside an entry of a leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbench.contracts.leaderboard import Leaderboard, LeaderboardRow

_FILE = Path(__file__).parent / "latentr3.yaml"
# The paper's way of cutting and ranking; with any other, its values say nothing about ours.
_PROTOCOL = {"split": "global-time", "boundary": "row", "max_history": 10, "mask_history": False}


@dataclass(frozen=True)
class PaperRow:
    """One line of one table for one data set.

    Attributes:
        table: number of the table.
        dataset: our name of the data set.
        label: the paper's name of the method.
        method: ours.
        settings: dotted key of the method's configuration -> the value that a run must have there, if it has the key.
        differs: the same for keys that a run must have: what the row is about. They win over ``settings``.
        values: printed metric ("NDCG@10") -> value, as printed.
        backbone: language model that a run must have; None: any.
        flag: key of what is doubtful about it, or None.
    """

    table: int
    dataset: str
    label: str
    method: str
    settings: Mapping[str, Any]
    values: Mapping[str, float]
    backbone: str | None = None
    flag: str | None = None
    differs: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Say whether a method's resolved configuration is the one that the row is about."""
        own = flatten(config)
        wanted = {**self.settings, **self.differs}
        return all(key in own for key in self.differs) and all(
            own.get(key, value) == value for key, value in wanted.items()
        )


@dataclass(frozen=True)
class Paper:
    """The values of one paper.

    Attributes:
        paper, source: its name, and where to find it.
        backbone: the language model it used, unless a row says otherwise.
        truth: what counts as a hit there.
        flags: key -> what is doubtful.
        notes: number of a table -> what must be known of it.
        rows: in order; the first one that fits a run counts.
    """

    paper: str
    source: str
    backbone: str
    truth: str
    flags: Mapping[str, str]
    notes: Mapping[int, str]
    rows: tuple[PaperRow, ...]


@cache
def load_paper() -> Paper:
    """Return the values of the LatentR3 paper."""
    values = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    del values["settings"]
    return Paper(**{**values, "rows": tuple(PaperRow(**row) for row in values["rows"])})


def paper_values(board: Leaderboard) -> dict[str, PaperRow]:
    """Return label -> the paper's line, for the entries of a leaderboard that have one.

    None for try-outs, and none where data set, split or history are not the paper's.
    """
    if board.limited or any(board.protocol.get(key) != value for key, value in _PROTOCOL.items()):
        return {}
    found = ((row.entry.label, _line_of(board.dataset, row)) for row in board.rows)
    return {label: line for label, line in found if line is not None}


def _line_of(dataset: str, row: LeaderboardRow) -> PaperRow | None:
    for line in load_paper().rows:
        same = line.dataset == dataset and line.method == row.entry.method
        if same and line.backbone in (None, row.entry.backbone) and line.fits(row.config):
            return line
    return None


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every value, nested ones and what they are nested in, under its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat[prefix + key] = value
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
    return flat
