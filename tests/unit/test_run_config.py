"""From YAML, --set and flags to one experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbench.contracts.config import StrictModel, build_config
from recbench.contracts.errors import ConfigError, UsageError
from recbench.experiment.config import build_experiment, merge, parse_assignments, protocol_assignments


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.1", 0.1),
        ("true", True),
        ("null", None),
        ("[1, 5]", [1, 5]),
        ("leave-one-out", "leave-one-out"),
        ("'3'", "3"),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("a=b", "a=b"),
    ],
)
def test_values_of_assignments(text: str, value: object) -> None:
    assert parse_assignments([f"key={text}"]) == {"config": {"key": value}}


def test_assignments_nest_and_the_last_one_wins() -> None:
    assignments = ["decoding.beams=5", "epochs=1", "decoding.mode=grounding", "decoding.beams=20", "protocol.depth=30"]
    assert parse_assignments(assignments) == {
        "config": {"decoding": {"beams": 20, "mode": "grounding"}, "epochs": 1},
        "protocol": {"depth": 30},
    }


@pytest.mark.parametrize("assignment", ["beams", "=3", "a..b=3", ".a=3", "a=[1", "protocol=3"])
def test_malformed_assignments_are_named(assignment: str) -> None:
    with pytest.raises(UsageError, match="--set "):
        parse_assignments([assignment])


def test_a_value_is_no_group() -> None:
    with pytest.raises(UsageError, match="'a' was given a value before"):
        parse_assignments(["a=1", "a.b=2"])


def test_only_the_protocol_can_be_set_without_a_method() -> None:
    assert protocol_assignments(["protocol.depth=3"]) == {"depth": 3}
    with pytest.raises(UsageError, match="--set beams="):
        protocol_assignments(["beams=3"])


def test_merge_is_deep_and_changes_nothing_given() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"b": 9}, "d": {"e": 1}}) == {"a": {"b": 9, "c": 2}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_flags_win_over_assignments_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("method: sasrec\ndataset: a\nseed: 1\nconfig: {epochs: 3, lr: 0.1}\nprotocol: {limit_test: 5}\n")
    flags = {"dataset": "b", "seed": None, "protocol": {"limit_test": 7, "limit_train": None}}
    asked = build_experiment(file, flags, ["epochs=4", "protocol.limit_test=6"])
    assert asked.model_dump() == {
        "method": "sasrec",
        "dataset": "b",
        "backbone": None,
        "seed": 1,
        "protocol": {"limit_test": 7},
        "config": {"epochs": 4, "lr": 0.1},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("method: [", "is not valid YAML"),
        ("- a\n- b\n", "holds a list, not keys"),
        ("metod: sasrec\nmethod: x\ndataset: y\n", "metod: unknown key. Did you mean 'method'?"),
        ("method: x\ndataset: y\nseed: -1\n", "seed: got -1"),
        ("method: x\ndataset: y\nsede: 1\nprotcol: {}\n", "2 problems"),
        ("seed: 3\n", "No method and no dataset given"),
        ("method: x\ndataset: y\nprotocol: 3\n", "protocol: holds 3, expected keys"),
        ("method: x\ndataset: y\nconfig: [a]\n", "config: holds ['a'], expected keys"),
        ("", "No method and no dataset given"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        build_experiment(file, {}, [])
    assert message in caught.value.message


def test_a_group_without_keys_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("method: x\ndataset: y\nconfig:\n  # epochs: 3\nprotocol:\n")
    asked = build_experiment(file, {"protocol": {"limit_test": 7}}, [])
    assert (asked.config, asked.protocol) == ({}, {"limit_test": 7})


def test_missing_and_wrongly_encoded_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        build_experiment(tmp_path / "none.yaml", {}, [])
    (tmp_path / "f.yaml").write_bytes(b"method: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        build_experiment(tmp_path / "f.yaml", {}, [])


class _Inner(StrictModel):
    grid: tuple[float, ...] = (0.5,)


class _Outer(StrictModel):
    rate: float | None = None
    inner: _Inner = _Inner()
    free: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"rate": float("nan")}, "rate: got nan; a number must be finite"),
        ({"rate": "-inf"}, "rate: got -inf; a number must be finite"),
        ({"inner": {"grid": [1, float("inf")]}}, "inner.grid.1: got inf; a number must be finite"),
        ({"free": {"a": [{"b": float("nan")}]}}, "free.a.0.b: got nan; a number must be finite"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match="Configuration of a test: 1 problem") as caught:
        build_config(_Outer, values, "a test")
    assert problem in caught.value.message
