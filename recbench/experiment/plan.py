"""From what the user asked for to one fully determined run, with nothing run yet."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from recbench.contracts.config import build_config
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ConfigError, MissingExtraError
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import BackboneSpec, Capabilities, Method
from recbench.contracts.protocol import Protocol
from recbench.contracts.registry import method_registry
from recbench.contracts.split import Split
from recbench.data.split import default_strategy, make_split
from recbench.data.store import load_dataset
from recbench.experiment.config import ExperimentConfig
from recbench.experiment.fit import FitPlan
from recbench.experiment.resources import DeviceChoice, choose_device
from recbench.methods.load import build_method

log = logging.getLogger(__name__)

RUN_ID_LENGTH = 12


@dataclass(frozen=True)
class RunPlan:
    """Everything that determines a result, and what a reader must know about it.

    Attributes:
        asked: what the user asked for.
        method: configured, not fitted.
        protocol: with every field filled in.
        dataset: the data.
        split: its rows under ``protocol``.
        backbone: the language model, or None.
        device: "cpu", "cuda" or "cuda:N".
        packages: versions of the packages that can change the result, the method's own among them.
        prepare_s: seconds it took to get the data and its split.
    """

    asked: ExperimentConfig
    method: Method
    protocol: Protocol
    dataset: Dataset
    split: Split
    backbone: BackboneSpec | None
    device: str
    packages: dict[str, str]
    prepare_s: float

    @property
    def method_config(self) -> dict[str, Any]:
        """The method's configuration with every default filled in, as plain values."""
        return dict(self.method.config.model_dump(mode="json"))

    @property
    def fit(self) -> FitPlan:
        """The part of the plan that the fit depends on."""
        return FitPlan(
            name=self.asked.method,
            method=self.method,
            dataset=self.dataset.name,
            dataset_fingerprint=self.dataset.fingerprint,
            catalog=self.dataset.catalog,
            train=self.split.train,
            valid=self.split.valid,
            mask_history=self.protocol.mask_history,
            backbone=self.backbone,
            seed=self.asked.seed,
            device=self.device,
            packages=self.packages,
        )

    @property
    def fit_id(self) -> str | None:
        """Hash of everything that determines the fitted model; runs that share it may share the fit."""
        return self.fit.fit_id

    @property
    def run_id(self) -> str:
        """Hash of everything that determines the result. The names of data set and plugin file are no part of it."""
        backbone = self.backbone
        identity = {
            "method": self.asked.method,
            "config": self.method_config,
            "backbone": [backbone.name, backbone.revision] if backbone else None,
            "dataset": self.dataset.fingerprint,
            "split": self.split.fingerprint,
            "protocol": self.protocol.hash,
            "seed": self.asked.seed,
            "device": self.device.partition(":")[0],
            "packages": self.packages,
        }
        return hash_json(identity, RUN_ID_LENGTH)

    @property
    def resolved(self) -> dict[str, Any]:
        """What ``config.yaml`` holds: the same run again, whatever the defaults of a later version are."""
        return {
            "method": self.asked.method,
            "dataset": self.asked.dataset,
            "backbone": self.backbone.name if self.backbone else None,
            "seed": self.asked.seed,
            "protocol": self.protocol.model_dump(mode="json"),
            "config": self.method_config,
        }


def make_plan(asked: ExperimentConfig, device: DeviceChoice = "auto") -> RunPlan:
    """Resolve every choice, get the data, and cut it. What is quick to check is checked first.

    Raises:
        ConfigError: wrong names, keys or values, all of a kind in one message.
        MissingExtraError: a package that the method needs is not installed.
        DataError: the data set is unknown or damaged.
    """
    method = _build_method(asked)
    packages = package_versions(asked.method, method.capabilities)
    chosen = choose_device(device, method.capabilities)
    backbone = _resolve_backbone(asked, method.capabilities, chosen)
    start = time.perf_counter()
    dataset = load_dataset(asked.dataset)
    protocol = resolve_protocol(asked.protocol, dataset)
    split = make_split(dataset, protocol)
    return RunPlan(
        asked, method, protocol, dataset, split, backbone, chosen, packages, prepare_s=time.perf_counter() - start
    )


def with_config(plan: RunPlan, config: dict[str, Any]) -> RunPlan:
    """Return the same plan for another configuration of its method, not fitted.

    Raises:
        ConfigError: a key or value is not accepted.
    """
    asked = plan.asked.model_copy(update={"config": config})
    method = _build_method(asked)
    return replace(plan, asked=asked, method=method, packages=package_versions(asked.method, method.capabilities))


def with_seed(plan: RunPlan, seed: int) -> RunPlan:
    """Return the same plan for another seed."""
    return replace(plan, asked=plan.asked.model_copy(update={"seed": seed}))


def without_test(plan: RunPlan) -> RunPlan:
    """Return the same plan with no test row in it, for whoever must not see them."""
    return replace(plan, split=replace(plan.split, test=plan.split.test.take([])))


def _build_method(asked: ExperimentConfig) -> Method:
    """Build the method; wrong keys of the protocol are told in the same message as those of the method."""
    problems: list[ConfigError] = []
    try:
        build_config(Protocol, asked.protocol, "the protocol")
    except ConfigError as error:
        problems.append(error)
    try:
        method = build_method(asked.method, asked.config)
    except ConfigError as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        hints = [problem.hint for problem in problems if problem.hint]
        raise ConfigError("\n".join(problem.message for problem in problems), "\n".join(hints) or None)
    return method


def resolve_protocol(values: dict[str, Any], dataset: Dataset) -> Protocol:
    """Fill in the protocol; where the user names no split it is the data set's own.

    Raises:
        ConfigError: a key or value is not accepted, or the rules are those of another version.
    """
    protocol = build_config(Protocol, {"split": default_strategy(dataset), **values}, "the protocol")
    current = Protocol.model_fields["version"].default
    if protocol.version != current:
        raise ConfigError(
            f"protocol.version is {protocol.version}; this recbench follows version {current} of the rules.",
            "Leave it out, or use the recbench that had that version.",
        )
    return protocol


def _resolve_backbone(asked: ExperimentConfig, capabilities: Capabilities, device: str) -> BackboneSpec | None:
    if not capabilities.uses_backbone:
        if asked.backbone is not None:
            raise ConfigError(
                f"The method '{asked.method}' builds on no language model, but backbone '{asked.backbone}' was given.",
                "Leave out --backbone (or backbone: in the --config file).",
            )
        return None
    from recbench.llm.backbone import resolve

    return resolve(asked.backbone or "auto", device)


def package_versions(method: str, capabilities: Capabilities) -> dict[str, str]:
    """Return the versions of everything that can change the result: recbench, the method's package, its libraries.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    versions = {"recbench": version("recbench"), "method": method_registry().entries(method)[0].distribution}
    for package in capabilities.packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError as error:
            extra = capabilities.extra
            install = f"pip install 'recbench[{extra}]'" if extra else f"pip install {package}"
            raise MissingExtraError(
                f"The method '{method}' needs the package '{package}', which is not installed.",
                f"{install} ('recbench doctor' shows what is missing and how to mend it).",
            ) from error
    return versions
