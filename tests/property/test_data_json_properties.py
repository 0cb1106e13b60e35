"""JSON lines: the fast reader and the one line by line agree on whatever JSON can say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbench.contracts.errors import DataError
from recbench.data import tables
from recbench.data.tables import open_table, read_columns

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(st.integers(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)
RECORDS = st.lists(
    st.fixed_dictionaries({"a": VALUES}, optional={"b c'": VALUES, 'ü"': VALUES}), min_size=1, max_size=6
)
COLUMNS = ("a", "b c'", 'ü"')


def by_line(path: Path) -> list[dict[str, Any]]:
    """Read a file with the standard library only, as the contract says."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [{name: tables._as_text(record.get(name)) for name in COLUMNS} for record in records]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, ascii_only=st.booleans(), blank=st.sampled_from(["\n", "\n\n", "\r\n", "\n \n"]))
def test_both_readers_agree(records: list[dict[str, Any]], ascii_only: bool, blank: str, tmp_path: Path) -> None:
    path = tmp_path / "it's [1]*.jsonl"
    path.write_text(
        blank.join(json.dumps(record, ensure_ascii=ascii_only) for record in records), encoding="utf-8", newline=""
    )
    file = open_table(path)
    columns = [name for name in COLUMNS if name in file.columns]
    expected = [{name: row[name] for name in columns} for row in by_line(path)]
    assert read_columns(file, columns).to_pylist() == expected


def test_the_fast_reader_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "é", "b": 1}\n{"a": "q\\"", "b": 2.0}\n{"b": 3.5}\n')
    file = open_table(path)
    monkeypatch.setattr(tables, "numbered_lines", None)
    assert read_columns(file, ("a", "b")).to_pylist() == [
        {"a": "é", "b": "1"},
        {"a": 'q"', "b": "2"},
        {"a": None, "b": "3.5"},
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 1', "line 3: not valid JSON"),
        ('{"a": 1} {"a": 2}', "line 3: not valid JSON"),
        ("[1]", "line 3: a JSON list"),
        ("{'a': 1}", "line 3: not valid JSON"),
        ('{"a": "tab\there"}', "line 3: not valid JSON"),
    ],
)
def test_the_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n')
    with pytest.raises(DataError, match=words):
        read_columns(open_table(path), ("a",))


def test_what_only_one_reader_takes_is_taken(tmp_path: Path) -> None:
    """A repeated key, as the standard library reads it: the last one counts."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1, "a": 2}\n{"A": 3, "a": 4}\n')
    assert read_columns(open_table(path), ("a", "A")).to_pylist() == [{"a": "2", "A": None}, {"a": "4", "A": "3"}]
