"""What a run is made of, before anything runs."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from recbench.contracts.errors import ConfigError, MissingExtraError
from recbench.contracts.method import Capabilities
from recbench.data.store import save_dataset
from recbench.experiment.config import ExperimentConfig
from recbench.experiment.plan import make_plan, package_versions, resolve_protocol
from recbench.experiment.resources import choose_device, peak_memory_bytes
from recbench.testing.tiny import tiny_dataset

WITH_TORCH = Capabilities(packages=("numpy", "torch"))


def test_a_method_without_torch_knows_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", Capabilities()) == "cpu"
    assert choose_device("cuda", Capabilities()) == "cpu"
    assert choose_device("auto", WITH_TORCH) == "cuda"
    assert choose_device("cpu", WITH_TORCH) == "cpu"


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", WITH_TORCH) == "cpu"
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        choose_device("cuda", WITH_TORCH)


def test_peak_memory_never_falls() -> None:
    before = peak_memory_bytes("cpu")["host"]
    block = bytearray(200_000_000)
    after = peak_memory_bytes("cpu")["host"]
    assert after >= max(before, len(block))


def test_missing_package_names_its_extra() -> None:
    capabilities = Capabilities(packages=("no-such-package",), extra="recbole")
    with pytest.raises(MissingExtraError, match="needs the package 'no-such-package'") as caught:
        package_versions("popularity", capabilities)
    assert "pip install 'recbench[recbole]'" in str(caught.value)


def test_plan_is_resolved_and_its_id_stands_for_content(monkeypatch: pytest.MonkeyPatch) -> None:
    save_dataset(tiny_dataset())
    asked = ExperimentConfig(method="popularity", dataset="tiny", protocol={"limit_test": 9})
    plan = make_plan(asked)
    assert plan.protocol.split == "global-time"
    assert plan.protocol.limited
    assert plan.resolved["config"] == {"count": "targets"}
    assert len(plan.split.test) == 9
    assert make_plan(ExperimentConfig(**plan.resolved)).run_id == plan.run_id

    version = importlib.metadata.version
    newer = {"numpy": "99.0"}
    monkeypatch.setattr("recbench.experiment.plan.version", lambda name: newer.get(name) or version(name))
    assert make_plan(asked).run_id != plan.run_id, "another numpy may rank otherwise"


def test_sources_own_split_is_the_default() -> None:
    from recbench.contracts.dataset import ProvidedSplit
    from recbench.experiment.plan import resolve_protocol
    from recbench.testing.tiny import tiny_split

    split = tiny_split()
    dataset = tiny_dataset()
    assert resolve_protocol({}, dataset).split == "global-time"
    provided = type(dataset)(
        dataset.name, dataset.users, dataset.catalog, dataset.interactions,
        provided=ProvidedSplit(split.train, split.valid, split.test),
    )  # fmt: skip
    assert resolve_protocol({}, provided).split == "provided"
    assert resolve_protocol({"split": "leave-one-out"}, provided).split == "leave-one-out"


def test_rules_of_another_version_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol.version is 99; this recbench follows version \d"):
        resolve_protocol({"version": 99}, tiny_dataset())
