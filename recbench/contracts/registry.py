"""Names to things, resolved on first use through entry points.

Listing names imports nothing; a plugin that cannot be imported, or two that claim one name, concern only whoever
asks for that name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from recbench.contracts.errors import ConfigError, UsageError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        name: the name asked for.
        target: "module:attribute".
        distribution: name and version of the package that registered it ("recbench 0.1.0").
    """

    name: str
    target: str
    distribution: str


class Registry:
    """Everything registered in one entry point group, and optionally in a group of families.

    A family ``f`` answers every name ``f:<argument>``: its entry point is a function of the argument.

    Args:
        kind: what the names stand for, for messages ("method").
        group: entry point group ("recbench.methods").
        families: entry point group of families, or None.
    """

    def __init__(self, kind: str, group: str, families: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self.families_group = families

    @cached_property
    def _points(self) -> dict[str, list[EntryPoint]]:
        return _grouped(self.group)

    @cached_property
    def _families(self) -> dict[str, list[EntryPoint]]:
        return _grouped(self.families_group) if self.families_group else {}

    def names(self) -> list[str]:
        """Return all names in order, clashing and broken ones too; families are not among them."""
        return sorted(self._points)

    def families(self) -> list[str]:
        """Return the names of all families."""
        return sorted(self._families)

    def entries(self, name: str) -> list[Entry]:
        """Return every registration of a name (more than one is a clash). Imports nothing.

        Raises:
            ConfigError: the name is unknown.
        """
        points = self._lookup(name)
        return [Entry(name, p.value, _distribution(p)) for p in points]

    def load(self, name: str) -> Any:
        """Import and return what a name stands for.

        Raises:
            ConfigError: the name is unknown, claimed twice, or its plugin cannot be imported.
        """
        points = self._lookup(name)
        if len(points) > 1:
            claims = "; ".join(f"{_distribution(p)} ({p.value})" for p in points)
            raise ConfigError(
                f"The {self.kind} name '{name}' is claimed by {len(points)} packages: {claims}.",
                "Uninstall one of them or rename its entry point.",
            )
        try:
            loaded = points[0].load()
        except (UsageError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise ConfigError(
                f"The {self.kind} '{name}' of {_distribution(points[0])} cannot be imported from "
                f"'{points[0].value}': {type(error).__name__}: {error}.",
                "Mend or uninstall that package; all other names keep working.",
            ) from error
        family, colon, argument = name.partition(":")
        return self._member(loaded, family, argument) if colon else loaded

    def _member(self, factory: Callable[[str], Any], family: str, argument: str) -> Any:
        if not argument:
            raise ConfigError(f"The {self.kind} family '{family}' needs a name after the colon: '{family}:<name>'.")
        return factory(argument)

    def _lookup(self, name: str) -> list[EntryPoint]:
        family, colon, _ = name.partition(":")
        points = self._families.get(family) if colon else self._points.get(name)
        if not points:
            known = [*self.names(), *(f"{f}:<name>" for f in self.families())]
            raise ConfigError(
                f"Unknown {self.kind} '{name}'.{did_you_mean(name, self.names())} Known: {', '.join(known)}.",
                f"Run 'recbench {self.kind}s list' for the full list.",
            )
        return points


def _grouped(group: str) -> dict[str, list[EntryPoint]]:
    grouped: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=group):
        # An editable install can show the same distribution twice on the path; that is no clash.
        grouped.setdefault(point.name, {})[(point.value, point.dist.name if point.dist else "")] = point
    return {name: list(points.values()) for name, points in grouped.items()}


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"


def method_registry() -> Registry:
    """Return the registry of methods: ``recbench.methods`` and the families in ``recbench.method_families``."""
    return Registry("method", "recbench.methods", "recbench.method_families")
