"""The command line as a whole: help, errors, exit codes, what goes to which stream."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from helpers_run_commands import Here

from recbench.cli import app as frame
from recbench.cli.output import TerminalProgress, print_json, progress
from recbench.contracts.errors import ArtifactError, ConfigError, DataError
from recbench.contracts.progress import SilentProgress

COMMANDS = ["run", "evaluate", "compare", "slices", "latency", "audit", "report", "doctor"]
GROUPS = ["datasets", "methods", "runs", "suite"]


def test_help_names_every_command(here: Here) -> None:
    done = here("--help")
    assert done.returncode == 0
    for command in COMMANDS + GROUPS:
        assert re.search(rf"\b{command}\b", done.stdout)


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys; from recbench.cli.app import execute; code = execute(['run', '--help']); "
        "print([name for name in ('torch', 'pandas', 'transformers', 'scipy', 'matplotlib') if name in sys.modules]); "
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["runs", "list"],
        ["runs", "export"],
        ["doctor"],
        ["runs", "import"],
        ["suite", "plan"],
        ["suite", "run"],
    ],
)
def test_every_command_has_help_with_examples(here: Here, command: list[str]) -> None:
    done = here(*command, "--help")
    assert done.returncode == 0
    assert f"recbench {' '.join(command)}" in done.stdout
    assert "Examples" in done.stdout


def test_version(here: Here) -> None:
    assert re.fullmatch(r"recbench \d+\.\d+\.\d+\n", here("--version").stdout)


def test_unknown_command_and_option(here: Here) -> None:
    assert here("rum").returncode == 2
    done = here("run", "--metod", "x")
    assert done.returncode == 2
    assert "--metod" in done.stderr
    assert done.stdout == ""
    done = here("run", "--device", "tpu", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let ``recbench boom`` raise an error."""
    app = typer.Typer()

    @app.callback()
    def options() -> None: ...

    @app.command()
    def boom(as_json: bool = typer.Option(False, "--json")) -> None:
        raise error

    monkeypatch.setattr(frame, "app", app)


WRAPPED = RuntimeError("writing failed")
WRAPPED.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("no", "yes"), 2, "no"),
        (DataError("no", "yes"), 3, "no"),
        (ArtifactError("no"), 3, "no"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 3, "There is no space left to write"),
        (WRAPPED, 3, "There is no space left to write"),
        (RuntimeError("safetensors: No space left on device (os error 28)"), 3, "There is no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3, "No permission"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (typer.Abort(), 130, "Interrupted."),
        (ValueError("odd"), 1, "ValueError: odd"),
        (EOFError("Compressed file ended"), 1, "EOFError: Compressed file ended"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_how_errors_end(
    here: Here, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str, as_json: bool
) -> None:
    raising(monkeypatch, error)
    done = here("boom", *(["--json"] if as_json else []))
    assert done.returncode == code
    assert message in done.stderr
    assert ("Traceback" in done.stderr) == (code == 1)
    if not as_json:
        assert done.stdout == ""
        return
    document = json.loads(done.stdout)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"type", "message", "hint", "exit_code"}
    assert document["error"]["exit_code"] == code
    assert message in document["error"]["message"]


def test_traceback_shows_no_values_of_variables(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def boom() -> None:
        token = "".join(["se", "cret"])
        raise ValueError(len(token))

    monkeypatch.setattr(frame, "app", app)
    done = here()
    assert done.returncode == 1
    assert "secret" not in done.stderr


def test_a_reader_who_leaves_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m recbench methods list --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stdout == "{"
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_json_knows_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "é", "value": 0.1})
    assert capsys.readouterr().out == '{\n  "name": "é",\n  "value": 0.1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        print_json(float("nan"))
    assert capsys.readouterr().out == ""


def test_bars_only_on_a_terminal_and_only_for_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress(), SilentProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bars = progress()
    assert isinstance(bars, TerminalProgress)
    now = [0.0]
    monkeypatch.setattr("recbench.cli.output.time.monotonic", lambda: now[0])
    with bars.bar("Ranking", total=3) as bar:
        rich_bars = bars._bars
        assert rich_bars is not None
        now[0] = 1.9
        bar.advance()
        assert not rich_bars.live.is_started
        now[0] = 2.1
        bar.advance()
        assert rich_bars.live.is_started
        with bars.bar("inner", total=None) as inner:
            inner.note("loss 0.1")
    assert not rich_bars.live.is_started
