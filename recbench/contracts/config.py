"""Typed configuration: immutable pydantic models that refuse unknown keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from recbench.contracts.errors import ConfigError, did_you_mean


class StrictModel(BaseModel):
    """Base of every configuration and stored record: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


ModelT = TypeVar("ModelT", bound=BaseModel)


def build_config(model: type[ModelT], values: Mapping[str, Any], where: str) -> ModelT:
    """Build ``model`` from plain values.

    Args:
        model: a pydantic model.
        values: nested plain values, as read from YAML and ``--set``.
        where: what the values configure, for the message (``"method 'bigrec'"``).

    Raises:
        ConfigError: names every wrong key or value with its dotted path, and the closest known key. A number that is
            not finite is wrong everywhere: no comparison holds for NaN, and JSON knows neither.
    """
    try:
        built = model.model_validate(dict(values))
        problems = [f"{path}: got {value}; a number must be finite." for path, value in _not_finite(built, "")]
    except ValidationError as error:
        problems = describe_problems(model, error)
    if problems:
        plural = "problem" if len(problems) == 1 else "problems"
        raise ConfigError(
            f"Configuration of {where}: {len(problems)} {plural}.\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return built


def _not_finite(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Yield the dotted path and value of every NaN and infinity in a configuration."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    parts: Any = ()
    if isinstance(value, (BaseModel, Mapping)):
        parts = value if isinstance(value, BaseModel) else value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    for key, part in parts:
        yield from _not_finite(part, f"{path}.{key}" if path else str(key))


def describe_problems(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Return one sentence per wrong key or value, with its dotted path and, for a key, the closest known one."""
    return [_describe(model, item) for item in error.errors()]


def _describe(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        return f"{path}: unknown key.{did_you_mean(location[-1], known)} Known here: {', '.join(known) or 'none'}."
    if problem["type"] == "missing":
        return f"{path}: is needed and missing."
    if problem["type"] == "value_error":  # raised by a validator of ours, in our words
        message = str(problem["ctx"]["error"]).rstrip(".")
        return f"{path}: {message}." if location else f"{message}."
    return f"{path}: got {problem.get('input')!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}."


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    current = model
    for part in path:
        if part.isdigit():  # a place in a list of models
            continue
        field = current.model_fields.get(part)
        nested = _model_in(field.annotation) if field else None
        if nested is None:
            return []
        current = nested
    return sorted(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation is, or that its list, tuple or union holds."""
    plain = [one for one in (annotation, *get_args(annotation)) if get_origin(one) is None]
    return next((one for one in plain if isinstance(one, type) and issubclass(one, BaseModel)), None)
