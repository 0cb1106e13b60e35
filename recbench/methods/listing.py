"""What methods there are and what one of them is like, as plain values."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import types
import typing
from dataclasses import asdict
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from recbench.contracts.registry import Entry, method_registry
from recbench.methods.load import load_method_class


def list_methods() -> dict[str, list[dict[str, Any]]]:
    """Return all registered methods and families without importing any of them.

    Returns:
        "methods" and "families": records with ``name``, ``package``, ``target`` and ``problem``. A problem is a name
        that two packages claim, or a target that is not there; what breaks only during the import shows when the
        method is asked for.
    """
    registry = method_registry()
    families = [f"{family}:<name>" for family in registry.families()]
    return {
        "methods": [record for name in registry.names() for record in _records(name, registry.entries(name))],
        "families": [record for name in families for record in _records(name, registry.entries(name))],
    }


def _records(name: str, entries: list[Entry]) -> list[dict[str, Any]]:
    clash = f"claimed by {len(entries)} packages; uninstall one of them" if len(entries) > 1 else None
    return [
        {
            "name": name,
            "package": entry.distribution,
            "target": entry.target,
            "problem": clash or target_problem(entry.target),
        }
        for entry in entries
    ]


def target_problem(target: str) -> str | None:
    """Say what is wrong with "module:attribute" as far as its source shows, or None. Imports nothing."""
    module, _, attribute = target.partition(":")
    spec = _find_module(module)
    if spec is None:
        return f"there is no module '{module}'"
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        return f"module '{module}' cannot be read: {error}"
    if attribute.partition(".")[0] not in _names_bound(tree):
        return f"module '{module}' has no '{attribute}'"
    return None


def _find_module(module: str) -> ModuleSpec | None:
    """Find a module as the import system would, but without importing its parents."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:
        return None
    name = first
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


def _names_bound(tree: ast.Module) -> set[str]:
    """Return all names that a module may bind at its top level, also within if, try and with."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
            continue
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting.extend(ast.iter_child_nodes(node))
    return names


def describe_method(name: str) -> dict[str, Any]:
    """Import a method and describe it: text, capabilities, and every configuration field.

    Raises:
        ConfigError: the name is unknown, or its package cannot be imported.
    """
    method_class = load_method_class(name)
    entry = method_registry().entries(name)[0]
    return {
        "name": name,
        "package": entry.distribution,
        "class": f"{method_class.__module__}:{method_class.__qualname__}",
        "description": inspect.getdoc(method_class) or "",
        "capabilities": asdict(method_class.capabilities),
        "config": list(config_fields(method_class.config_class)),
    }


def config_fields(
    model: type[BaseModel], prefix: str = "", may_be_left_out: bool = False
) -> typing.Iterator[dict[str, Any]]:
    """Yield one record per field of a configuration (``key``, ``type``, ``default``, ``description``).

    Groups are opened: their fields have dotted keys, as ``--set`` wants them. A group that may be left out (``Model |
    None``) has a record of its own besides; others of that kind within it stay closed.

    Args:
        prefix: of all keys.
        may_be_left_out: whether ``model`` is such a group.
    """
    for key, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from config_fields(annotation, f"{prefix}{key}.", may_be_left_out)
            continue
        default = field.get_default(call_default_factory=True)
        yield {
            "key": f"{prefix}{key}",
            "type": type_text(annotation),
            "default": None if default is PydanticUndefined else _plain(default),
            "required": field.is_required(),
            "description": field.description or "",
        }
        optional = _optional_group(annotation)
        if optional is not None and not may_be_left_out:
            yield from config_fields(optional, f"{prefix}{key}.", may_be_left_out=True)


def _optional_group(annotation: Any) -> type[BaseModel] | None:
    parts = get_args(annotation) if type(None) in get_args(annotation) else ()
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def type_text(annotation: Any) -> str:
    """Return a type as a user reads it: ``int``, ``'beam' | 'exact'``, ``list[int]``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(part) for part in arguments)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is not None:
        inner = ", ".join("..." if part is Ellipsis else type_text(part) for part in arguments)
        return f"{origin.__name__}[{inner}]"
    if annotation is type(None):
        return "null"
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value
