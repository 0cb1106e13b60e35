"""What a suite's file means: its runs, in which order, with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbench.contracts.errors import ConfigError, UsageError
from recbench.experiment.suite import Job, Suite, find_suite, read_suite

USES = {"popularity": False, "bigrec": True, "latentr3": True}


def suite(folder: Path, **changes: Any) -> Suite:
    """Write a suite with two related entries and read it."""
    (folder / "laptop.yaml").write_text(
        "method: latentr3\ndataset: other\nseed: 7\nbackbone: micro\nconfig: {sft: {max_rows: 5, epochs: 2}}\n"
    )
    (folder / "grid.yaml").write_text("space: {sft.learning_rate: [1, 2]}\n")
    content = {
        "name": "try",
        "datasets": ["a", "b"],
        "backbones": ["nano"],
        "seeds": [1, 2],
        "entries": [
            {"name": "pop", "method": "popularity", "seeds": [1]},
            {"name": "sft", "file": "laptop.yaml", "config": {"rl.enabled": False}, "tune": "grid.yaml"},
            {"name": "rl", "like": "sft", "config": {"rl": {"enabled": True}}, "tune": "grid.yaml"},
            {"name": "masked", "like": "rl", "config": {"thought_at_inference": "masked"}},
        ],
        **changes,
    }
    path = folder / "try.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_suite(path)


def test_runs_come_data_set_by_data_set_and_those_of_one_seed_together(tmp_path: Path) -> None:
    jobs = list(suite(tmp_path).jobs(USES))
    of_a = [("pop", None, 1)] + [(entry, "nano", seed) for seed in (1, 2) for entry in ("sft", "rl", "masked")]
    assert jobs == [Job(entry, dataset, backbone, seed) for dataset in "ab" for entry, backbone, seed in of_a]
    assert str(jobs[0]) == "pop on a, seed 1"
    assert str(jobs[-1]) == "masked (nano) on b, seed 2"


def test_a_method_without_a_language_model_runs_once_for_several_backbones(tmp_path: Path) -> None:
    jobs = list(suite(tmp_path, backbones=["nano", "micro"], datasets=["a"]).jobs(USES))
    assert [job.backbone for job in jobs if job.entry == "pop"] == [None]
    assert [job.backbone for job in jobs if job.entry == "rl"] == ["nano", "nano", "micro", "micro"]


def test_settings_are_those_of_the_entry_it_is_like_then_its_own_then_what_was_chosen(tmp_path: Path) -> None:
    read = suite(tmp_path, protocol={"limit_test": 9, "depth": 20}, datasets={"a": {"protocol": {"limit_test": 3}}})
    chosen = {"sft": {"sft": {"learning_rate": 2}, "rl": {"enabled": False}}, "rl": {"rl": {"sigma": 0.5}}}
    asked = read.asked(Job("masked", "a", "nano", 2), chosen)
    assert asked.config == {
        "sft": {"max_rows": 5, "epochs": 2, "learning_rate": 2},
        "rl": {"enabled": True, "sigma": 0.5},
        "thought_at_inference": "masked",
    }
    assert (asked.method, asked.dataset, asked.backbone, asked.seed) == ("latentr3", "a", "nano", 2)
    assert asked.protocol == {"limit_test": 3, "depth": 20}
    assert read.tuned_for("masked") == ["sft", "rl"]
    assert read.tuned_for("sft") == ["sft"]
    untuned = read.asked(Job("sft", "a", "nano", 1), {})
    assert untuned.config == {"sft": {"max_rows": 5, "epochs": 2}, "rl": {"enabled": False}}
    assert read.asked(Job("pop", "a", None, 1), {}).backbone is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "seeds: one is named twice"),
        ({"entries": []}, "entries"),
        ({"datasets": "a"}, "datasets"),
        ({"entries": [{"name": "x", "method": "bigrec"}, {"name": "x", "method": "d3"}]}, "two called 'x'"),
        ({"entries": [{"name": "x", "like": "y"}, {"name": "y", "method": "d3"}]}, "no entry above it"),
        ({"entries": [{"name": "x"}]}, "'x' of the suite .* has no method"),
        ({"entries": [{"name": "x", "method": "d3", "tune": "none.yaml"}]}, "none.yaml, which does not exist"),
        ({"entries": [{"name": "x", "file": "none.yaml"}]}, "none.yaml does not exist"),
        ({"entries": [{"name": "x", "methd": "d3"}]}, "Did you mean 'method'"),
    ],
)
def test_wrong_suites(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        suite(tmp_path, **changes)


def test_a_suite_is_found_by_its_name_or_path(tmp_path: Path) -> None:
    suite(tmp_path)
    assert find_suite("try", tmp_path) == tmp_path / "try.yaml"
    assert find_suite(str(tmp_path / "try.yaml"), Path("nowhere")) == tmp_path / "try.yaml"
    with pytest.raises(UsageError, match=r"no suite 'tri'.*Did you mean 'try'"):
        find_suite("tri", tmp_path)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "benchmarks" / "suites").glob("*.yaml")), ids=str)
def test_our_own_suites_can_be_read(path: Path) -> None:
    read = read_suite(path)
    assert read.declared.name == path.stem
    assert read.declared.why
