"""The import arrows between packages hold, so that each of them can be read, tested and replaced alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

LEAVES = {"data", "methods", "evaluation", "stats", "report", "llm"}
# Package of recbench -> packages of recbench that it may import. Contracts and artifacts (the file layer) are for all.
ALLOWED = {
    "contracts": {"contracts"},
    "artifacts": {"contracts", "artifacts"},
    **{leaf: {"contracts", "artifacts", leaf} for leaf in LEAVES},
    # An audit looks at data sets and at lists with the eyes of both.
    "audit": {"contracts", "artifacts", "audit", "data", "evaluation"},
    "testing": {"contracts", "artifacts", "methods", "testing"},
    "experiment": {"contracts", "artifacts", "experiment", "audit", *LEAVES},
    "cli": {"contracts", "artifacts", "experiment", "testing", "cli", *LEAVES},
}


def imported_modules(path: Path) -> set[str]:
    """Return all absolute module names that a file imports anywhere."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(node.module or "")
            # `from recbench import data` names a package too.
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


def files_of(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def test_recbench_imports_no_method_package() -> None:
    for path in files_of("recbench"):
        found = {module for module in imported_modules(path) if module.split(".")[0] in ("baselines", "latent")}
        assert not found, f"{path} imports {found}: recbench reaches methods through the registry only"


@pytest.mark.parametrize(("package", "other"), [("baselines", "latent"), ("latent", "baselines")])
def test_method_packages_do_not_know_each_other(package: str, other: str) -> None:
    for path in files_of(package):
        assert not {module for module in imported_modules(path) if module.split(".")[0] == other}, path


@pytest.mark.parametrize("package", ["baselines", "latent"])
def test_methods_do_not_reach_up(package: str) -> None:
    for path in files_of(package):
        for module in imported_modules(path):
            assert not module.startswith(("recbench.cli", "recbench.experiment")), f"{path} imports {module}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_arrows_within_recbench(package: str) -> None:
    for path in files_of(f"recbench/{package}"):
        for module in imported_modules(path):
            parts = module.split(".")
            if parts[0] == "recbench" and len(parts) > 1 and parts[1] in ALLOWED:
                assert parts[1] in ALLOWED[package], f"{path.relative_to(REPOSITORY)} imports {module}"


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "recbench").glob("*/__init__.py")}
    assert packages == set(ALLOWED)


def test_recbole_is_imported_in_the_worker_only() -> None:
    for package in ("recbench", "latent", "baselines/llm"):
        for path in files_of(package):
            assert "recbole" not in {module.split(".")[0] for module in imported_modules(path)}, path


@pytest.mark.parametrize("module", ["recbench.cli.app", "baselines.recbole.method"])
def test_light_imports(module: str) -> None:
    heavy = ["torch", "transformers", "recbole", "matplotlib", "statsmodels", "scipy", "pyarrow", "pandas"]
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
