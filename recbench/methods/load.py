"""From a method's name and plain values to a configured method."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.method import Capabilities, Method, MethodConfig
from recbench.contracts.registry import method_registry


def load_method_class(name: str) -> type[Method]:
    """Import the class behind a registered name (``"popularity"``, ``"recbole:NARM"``).

    Raises:
        ConfigError: the name is unknown or claimed twice, its package cannot be imported, or what it names is not a
            method.
    """
    loaded = method_registry().load(name)
    problem = _contract_problem(loaded)
    if problem:
        target = method_registry().entries(name)[0]
        raise ConfigError(
            f"The method '{name}' of {target.distribution} ('{target.target}') {problem}.",
            "See recbench.contracts.method for the contract and recbench.methods.popularity for a worked example.",
        )
    return loaded


def build_method(name: str, values: Mapping[str, Any] | None = None) -> Method:
    """Build the method of a name from nested plain values, as read from YAML and ``--set``.

    Raises:
        ConfigError: as :func:`load_method_class`, or a key or value is not accepted.
    """
    method_class = load_method_class(name)
    return method_class(build_config(method_class.config_class, values or {}, f"method '{name}'"))


def _contract_problem(loaded: Any) -> str | None:
    """Say what keeps an object from being a method class, if anything does."""
    if not (inspect.isclass(loaded) and issubclass(loaded, Method)):
        return f"is not a subclass of recbench.contracts.method.Method but {_what(loaded)}"
    missing = sorted(loaded.__abstractmethods__)
    if missing:
        return f"does not define {', '.join(missing)}"
    if not (inspect.isclass(loaded.config_class) and issubclass(loaded.config_class, MethodConfig)):
        return "has a config_class that is not a subclass of MethodConfig"
    if not isinstance(loaded.capabilities, Capabilities):
        return "has capabilities that are not an instance of Capabilities"
    return None


def _what(loaded: Any) -> str:
    return f"the class {loaded.__name__}" if inspect.isclass(loaded) else f"a {type(loaded).__name__}"
