"""A method that is fitted inside the fit of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from recbench.artifacts.files import atomic_folder
from recbench.contracts.config import StrictModel
from recbench.contracts.examples import Examples
from recbench.contracts.method import Method, RunContext
from recbench.methods.load import build_method


class NestedMethod(StrictModel):
    """Which method is fitted inside the fit of another one.

    Its configuration is completed, with every default and the content of every file that it names, so that all of it
    belongs to the identity of a run.
    """

    method: str = Field(description="a registered method")
    config: dict[str, Any] = Field({}, description="its configuration")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Put the whole configuration in the place of the given one; a wrong one is a ConfigError."""
        method, config = (values.get("method"), values.get("config", {})) if isinstance(values, dict) else (None, None)
        if not isinstance(method, str) or not isinstance(config, Mapping):
            return values
        return {**values, "config": build_method(method, config).config.model_dump(mode="json")}

    def build(self) -> Method:
        """Return the method, configured."""
        return build_method(self.method, self.config)


def fit_once(method: Method, name: str, train: Examples, valid: Examples, ctx: RunContext) -> Method:
    """Fit ``method`` on the same rows, in a work folder of its own; what an earlier attempt fitted is loaded.

    Args:
        method: configured.
        name: of its part in the outer method ("partner"); its folders and its stage are named after it.
        train, valid: rows of the outer fit.
        ctx: surroundings of the inner fit, with the outer work folder.

    Returns:
        The fitted method: ``method`` itself, or a loaded one.
    """
    own = replace(ctx, work_dir=ctx.work_dir / name)
    done = ctx.work_dir / f"{name}-model"
    if done.is_dir():
        return type(method).load(done, method.config, own)
    own.work_dir.mkdir(parents=True, exist_ok=True)
    with ctx.stage(f"fit-{name}"):
        method.fit(train, valid, own)
    with atomic_folder(done) as folder:
        method.save(folder)
    return method
