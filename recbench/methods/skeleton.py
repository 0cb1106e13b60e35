"""A new method as a package of its own: a working start for authors."""

from __future__ import annotations

import re
from pathlib import Path

from recbench.artifacts.files import atomic_folder
from recbench.contracts.errors import UsageError
from recbench.contracts.registry import method_registry

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "recbench-{name}"
version = "0.1.0"
description = "The method '{name}' for recbench."
requires-python = ">=3.10"
dependencies = ["recbench"]

[project.entry-points."recbench.methods"]
{name} = "{package}.method:{cls}"

[tool.setuptools.packages.find]
include = ["{package}*"]
"""

_METHOD = '''\
"""The method '{name}'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save_file

from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.methods.dense import rank_by_scores


class {cls}Config(MethodConfig):
    """Settings: every field has a default and a description."""

    smoothing: float = Field(0.1, ge=0, description="weight of an item's popularity beside its transitions")


class {cls}(Method):
    """Ranks items by how often they followed the last item of the history in the training rows.

    Replace this by your own idea. `recbench methods check {name}` tells what is still missing.
    """

    config_class = {cls}Config
    # Packages whose version can change the result enter the run's identity.
    capabilities = Capabilities(packages=("numpy",))

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.transitions = np.zeros((0, 0), dtype=np.float32)

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Count (last item, next item) pairs of the training rows."""
        n_items = len(ctx.catalog)
        popularity = np.bincount(train.target, minlength=n_items)
        self.transitions = np.tile(self.config.smoothing * popularity / len(train), (n_items, 1)).astype(np.float32)
        last_item = train.items[train.offsets[1:] - 1]
        np.add.at(self.transitions, (last_item, train.target), 1.0)

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Look up the last item's row of counts."""

        def score(batch: Queries) -> np.ndarray:
            return self.transitions[batch.items[batch.offsets[1:] - 1]]

        return rank_by_scores(queries, k, len(ctx.catalog), score, ctx.mask_history)

    def save(self, folder: Path) -> None:
        """Write the counts."""
        save_file({{"transitions": self.transitions}}, folder / "transitions.safetensors")

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> {cls}:
        """Read the counts."""
        method = cls(config)
        method.transitions = load_file(folder / "transitions.safetensors")["transitions"]
        return method
'''

_TEST = '''\
"""The contract that every method of recbench keeps."""

from recbench.testing.method_checks import assert_method

from {package}.method import {cls}


def test_contract() -> None:
    assert_method({cls})
'''

_README = """\
# recbench-{name}

The method `{name}` for recbench.

    pip install -e .
    recbench methods check {name}
    recbench run --method {name} --dataset ml-100k
"""


def write_skeleton(name: str, out: Path) -> list[Path]:
    """Write a package ``recbench-NAME`` with one working method, its registration and its test.

    Args:
        name: the new method's name: small letters, digits and single hyphens.
        out: parent of the new folder.

    Returns:
        The files written, the folder's own path first.

    Raises:
        UsageError: the name is not well-formed or is taken, or the folder exists.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be a method's name: use small letters, digits and single hyphens, a letter first.",
            "For instance: recbench methods new item-graph",
        )
    if name in method_registry().names():
        owner = method_registry().entries(name)[0].distribution
        raise UsageError(f"There is a method '{name}' already, of {owner}.", "Choose another name.")
    folder = out / f"recbench-{name}"
    if folder.exists():
        raise UsageError(f"{folder} exists already.", "Choose another --out, or remove it.")
    package = "recbench_" + name.replace("-", "_")
    cls = "".join(part.capitalize() for part in name.split("-"))
    texts = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{package}/__init__.py": "",
        f"{package}/method.py": _METHOD,
        "tests/test_method.py": _TEST,
    }
    with atomic_folder(folder) as temporary:
        for file, text in texts.items():
            path = temporary / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(name=name, package=package, cls=cls), encoding="utf-8")
    return [folder, *(folder / file for file in texts)]
