"""What the user asks for: a YAML file, ``--set`` assignments and flags become one :class:`ExperimentConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from recbench.contracts.config import StrictModel, build_config
from recbench.contracts.errors import ConfigError, UsageError

DEFAULT_SEED = 42
_GROUPS = {"protocol", "config"}


class ExperimentConfig(StrictModel):
    """One run as it is asked for; ``config.yaml`` of a run folder has the same keys, with every default filled in."""

    method: str = Field(description="name of a method, see 'recbench methods list'")
    dataset: str = Field(description="name of a data set, see 'recbench datasets list'")
    backbone: str | None = Field(None, description="language model: auto, nano, micro, a Hugging Face id or a folder")
    # torch, numpy and transformers all take seeds of 32 bits.
    seed: int = Field(DEFAULT_SEED, ge=0, lt=2**32, description="seed of everything that is random")
    protocol: dict[str, Any] = Field(default_factory=dict, description="fields of the protocol that are not defaults")
    config: dict[str, Any] = Field(default_factory=dict, description="the method's own configuration")


def build_experiment(file: Path | None, flags: Mapping[str, Any], assignments: Sequence[str]) -> ExperimentConfig:
    """Put together what the user said; flags win over assignments, assignments over the file.

    Args:
        file: YAML file with the keys of :class:`ExperimentConfig`, or None.
        flags: the same keys from the command line; None values are left out, at any depth.
        assignments: ``a.b=c`` for the method's configuration, ``protocol.a=c`` for the protocol.

    Raises:
        ConfigError: lists every wrong key and value.
    """
    values = read_config_file(file) if file else {}
    values = merge(values, parse_assignments(assignments))
    values = merge(values, _without_none(flags))
    missing = [key for key in ("method", "dataset") if values.get(key) is None]
    if missing:
        raise ConfigError(
            f"No {' and no '.join(missing)} given.",
            f"Give {' and '.join(f'--{key}' for key in missing)}, or a --config file with "
            f"{' and '.join(f'{key}:' for key in missing)}.",
        )
    where = f"the experiment ({file})" if file else "the experiment"
    return build_config(ExperimentConfig, values, where)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping at its top.

    Raises:
        ConfigError: it is missing, is no YAML, or has something else at its top.
    """
    values = read_yaml(path, ExperimentConfig)
    for group in _GROUPS & values.keys():
        if values[group] is None:  # all keys below it are commented out
            values[group] = {}
        elif not isinstance(values[group], dict):
            raise ConfigError(f"{path}: {group}: holds {values[group]!r}, expected keys with values below it.")
    return values


def read_yaml(path: Path, model: type[StrictModel]) -> dict[str, Any]:
    """Read a YAML file that holds the keys of ``model`` at its top.

    Raises:
        ConfigError: it is missing, is no YAML, or has something else at its top.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"The configuration file {path} does not exist.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}, not keys with values.",
            "Expected keys: " + ", ".join(f"{key}:" for key in model.model_fields) + ".",
        )
    return values


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``a.b=c`` into nested values under ``config``, and ``protocol.a=c`` into values under ``protocol``.

    Values are YAML: ``3``, ``0.1``, ``true``, ``null``, ``[1, 5]``, text. A later assignment to a key wins.

    Raises:
        UsageError: an assignment has no key, no equals sign or no valid value, or treats a value as a group of keys.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(
                f"--set {assignment}: expected KEY=VALUE.", "For instance --set decoding.beams=20 or --set epochs=3."
            )
        if keys == ["protocol"]:
            raise UsageError(f"--set {assignment}: 'protocol' is a group of keys.", "Say which: protocol.depth=50.")
        group = result if keys[0] == "protocol" else result.setdefault("config", {})
        for key in keys[:-1]:
            group = group.setdefault(key, {})
            if not isinstance(group, dict):
                raise UsageError(f"--set {assignment}: '{key}' was given a value before, so it has no keys below it.")
        group[keys[-1]] = _parse_value(assignment, text)
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values under dotted keys (``a.b``) as nested ones, the inverse of flattening."""
    result: dict[str, Any] = {}
    for dotted, value in values.items():
        *groups, last = dotted.split(".")
        group = result
        for key in groups:
            group = group.setdefault(key, {})
        group[last] = value
    return result


def _parse_value(assignment: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {assignment}: the value is not valid YAML.", "Put text in quotes.") from error
    # YAML also knows dates; a configuration does not.
    return value if isinstance(value, (bool, int, float, str, list, dict, type(None))) else text


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``over`` in place, group by group."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = merge(below, value)
        else:
            result[key] = value
    return result


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def protocol_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the protocol's values from ``protocol.a=c`` assignments, where there is no method to configure.

    Raises:
        UsageError: an assignment is malformed or not about the protocol.
    """
    values = parse_assignments(assignments)
    if "config" in values:
        keys = ", ".join(f"--set {key}=..." for key in values["config"])
        raise UsageError(
            f"{keys}: only the protocol can be set here.", "For instance --set protocol.mask_history=true."
        )
    return dict(values.get("protocol", {}))
