"""`recbench doctor`: what this machine can run, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json
from recbench.contracts.errors import ArtifactError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Level = Literal["ok", "missing", "broken"]

_MARK: dict[Level, str] = {
    "ok": "[green]ok[/green]",
    "missing": "[yellow]missing[/yellow]",
    "broken": "[red]broken[/red]",
}
_RECBOLE = "recbole==1.2.1"
# What RecBole's sequential models import; its own list also pins ray, which has no wheel for Python 3.12 and later.
_RECBOLE_NEEDS = ("colorama", "colorlog", "scikit-learn", "tensorboard", "texttable", "tqdm")
_LITTLE_SPACE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: "core", "recbole", "extra NAME", "devices", "storage", "hub", "data" or "backbones".
        name: what was looked at.
        level: "missing" takes only some methods away; "broken" keeps the core from working.
        detail: what was found.
        mend: the command or advice that mends it, if anything is wrong.
        facts: the same as plain values, for machines.
    """

    area: str
    name: str
    level: Level
    detail: str
    mend: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def doctor(runs_dir: RunsDirOption = RUNS, as_json: JsonFlag = False) -> None:
    """Look at Python, packages, devices, memory, disks, caches and the model hub.

    Ends with exit code 0 if the core works (methods of missing extras do not), else with 3.

    Examples:

        recbench doctor

        recbench doctor --json
    """
    findings: list[Finding] = []
    checks: dict[str, Callable[[], list[Finding]]] = {
        "python": _python,
        "packages": _core_packages,
        "recbole": _recbole,
        "extras": _extras,
        "devices": _devices,
        "storage": lambda: _storage(runs_dir),
        "hub": _hub,
        "data": _data,
        "backbones": _backbones,
    }
    for name, check in checks.items():
        findings += _guarded(name, check)
    works = all(finding.level != "broken" for finding in findings)
    if as_json:
        print_json({"ok": works, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings, works)
    if not works:
        raise typer.Exit(ArtifactError.exit_code)


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Report a check that fails itself: a broken package must not hide what the other checks find."""
    try:
        return check()
    except Exception as error:
        return [Finding("core", name, "broken", f"this check failed: {type(error).__name__}: {error}")]


def _show(findings: list[Finding], works: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("area", "what", "state", "found", "mend it with")
    area = ""
    for finding in findings:
        shown = finding.area if finding.area != area else ""
        area = finding.area
        table.add_row(
            shown, escape(finding.name), _MARK[finding.level], escape(finding.detail), escape(finding.mend or "")
        )
    console().print(table)
    missing = sum(finding.level == "missing" for finding in findings)
    if works and missing:
        console().print(f"The core works. {missing} optional things are missing; the last column mends them.")
    else:
        console().print("Everything works." if works else "The core does not work: mend what is marked as broken.")


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = sys.version_info[:2] >= (3, 10)
    mend = None if supported else "Install Python 3.11."
    return [Finding("core", "python", "ok" if supported else "broken", version, mend, {"version": version})]


def _core_packages() -> list[Finding]:
    """Look at every package that recbench itself declares."""
    return [_package("core", need.name, str(need.specifier), "broken") for need in _declared("")]


def _extras() -> list[Finding]:
    """Look at the packages of the optional parts, those of RecBole and of recbench's developers apart."""
    from importlib.metadata import metadata

    names = [name for name in metadata("recbench").get_all("Provides-Extra") or [] if name not in ("recbole", "dev")]
    core = {need.name for need in _declared("")}
    return [
        _package(f"extra {name}", need.name, str(need.specifier), "missing", f"pip install 'recbench[{name}]'")
        for name in names
        for need in _declared(name)
        if need.name not in core
    ]


def _declared(extra: str) -> list[Requirement]:
    """Return what recbench declares for this Python and an extra (with the core, which needs no extra)."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in requires("recbench") or []]
    return [need for need in declared if need.marker is None or need.marker.evaluate({"extra": extra})]


def _package(area: str, name: str, specifier: str, if_absent: Level, mend: str | None = None) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    from packaging.specifiers import SpecifierSet

    mend = mend or f"pip install '{name}{specifier}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(area, name, if_absent, "not installed", mend, {"version": None, "wanted": specifier})
    facts = {"version": found, "wanted": specifier}
    if not SpecifierSet(specifier).contains(found, prereleases=True):
        return Finding(area, name, if_absent, f"{found}, but {specifier} is needed", mend, facts)
    return Finding(area, name, "ok", found, None, facts)


def _recbole() -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    with_pip = sys.version_info[:2] < (3, 12)
    install = "pip install 'recbench[recbole]'" if with_pip else f"pip install --no-deps {_RECBOLE}"
    name, _, wanted = _RECBOLE.partition("==")
    findings = [_package("recbole", name, f"=={wanted}", "missing", install)]
    try:
        version(name)
    except PackageNotFoundError:
        if with_pip:  # pip brings the rest
            return findings
    return findings + [_package("recbole", need, "", "missing") for need in _RECBOLE_NEEDS]


def _devices() -> list[Finding]:
    import psutil

    from recbench.artifacts.provenance import cpu_name, usable_cores

    cores, memory = usable_cores(), psutil.virtual_memory()
    findings = [
        Finding("devices", "cpu", "ok", f"{cpu_name()}, {cores} cores", None, {"name": cpu_name(), "cores": cores}),
        Finding(
            "devices",
            "memory",
            "ok",
            f"{_size(memory.available)} free of {_size(memory.total)}",
            None,
            {"total_bytes": memory.total, "available_bytes": memory.available},
        ),
    ]
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            facts = {"name": device.name, "memory_bytes": device.total_memory}
            detail = f"{device.name}, {_size(device.total_memory)}"
            findings.append(Finding("devices", f"cuda:{number}", "ok", detail, None, facts))
    else:
        mps = torch.backends.mps.is_available()
        detail = "none; methods run on the CPU" + (" (Apple's MPS is there, but not used)" if mps else "")
        findings.append(Finding("devices", "cuda", "ok", detail, None, {"mps": mps}))
    return findings


def _storage(runs_dir: Path) -> list[Finding]:
    from recbench.artifacts.paths import home

    return [_folder("caches (RECBENCH_HOME)", home()), _folder("runs (--runs-dir)", runs_dir)]


def _folder(name: str, folder: Path) -> Finding:
    """Look at a folder that need not exist yet: the nearest one above it that does decides."""
    import psutil

    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = psutil.disk_usage(str(existing)).free
    facts = {"path": str(folder.absolute()), "exists": folder.exists(), "free_bytes": free}
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "storage", name, "broken", f"{existing} is no folder that can be written to", _OTHER_PLACE, facts
        )
    if free < _LITTLE_SPACE_BYTES:
        return Finding("storage", name, "missing", f"{folder}: only {_size(free)} free", _OTHER_PLACE, facts)
    return Finding("storage", name, "ok", f"{folder}: {_size(free)} free", None, facts)


_OTHER_PLACE = "Free some space, mend the permissions, or choose another place (RECBENCH_HOME, --runs-dir)."


def _hub() -> list[Finding]:
    """Look at the model hub's cache and switches; the network is not touched."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    offline = bool(constants.HF_HUB_OFFLINE)
    mode = "offline (HF_HUB_OFFLINE is set): only cached models load" if offline else "online: models download on use"
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    models = sorted(repository.repo_id for repository in repositories if repository.repo_type == "model")
    cached = ", ".join(models) or "none"
    return [
        Finding("hub", "mode", "ok", mode, None, {"offline": offline}),
        Finding("hub", "cached models", "ok", cached, None, {"models": models}),
    ]


def _data() -> list[Finding]:
    from recbench.data.store import stored_records

    records, problems = stored_records()
    names = [record.name for record in records]
    detail = ", ".join(names) or "none yet; ml-100k is prepared on first use"
    findings = [Finding("data", "prepared", "ok", detail, None, {"datasets": names})]
    return findings + [
        Finding("data", "damaged", "missing", problem, "Prepare or import it again with --again.")
        for problem in problems
    ]


def _backbones() -> list[Finding]:
    from recbench.artifacts.paths import backbones_folder

    folder = backbones_folder()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    ready = [name for name in names if not name.endswith((".work", ".tmp"))]
    detail = ", ".join(ready) or "none yet; nano and micro are trained on first use"
    return [Finding("backbones", "trained here", "ok", detail, None, {"backbones": ready})]


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1024**3:.1f} GiB"
