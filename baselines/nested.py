"""A method that is fitted inside the fit of another one."""

from __future__ import annotations

from dataclasses import replace

from recbench.artifacts.files import atomic_folder
from recbench.contracts.examples import Examples
from recbench.contracts.method import Method, RunContext


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
