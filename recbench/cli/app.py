"""The command ``recbench``: which commands there are, and how each of them ends."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from recbench.cli import datasets, methods, runs, suite
from recbench.cli.audit import audit
from recbench.cli.compare import compare
from recbench.cli.doctor import doctor
from recbench.cli.evaluate import evaluate
from recbench.cli.latency import latency
from recbench.cli.output import configure_logging, print_json, stderr_console
from recbench.cli.report import report
from recbench.cli.run import run
from recbench.cli.slices import slices
from recbench.contracts.errors import ArtifactError, RecbenchError

EXIT_BUG = 1
EXIT_INTERRUPTED = 130

# typer raises its own copy of click's errors, or click's, depending on its version; this is their base class.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)

EPILOG = """
Start here: recbench run --method popularity --dataset ml-100k

Exit codes: 0 fine, 2 wrong use or configuration, 3 data or artifact problem, 1 a bug, 130 interrupted.
"""

app = typer.Typer(
    name="recbench",
    help="Compare recommenders honestly: the same rows for everyone, ranked lists of exact items on disk, "
    "and every number computed from them.",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

_GROUPS = {"datasets": datasets.app, "methods": methods.app, "runs": runs.app, "suite": suite.app}

for command in (run, evaluate, compare, slices, latency, audit, report, doctor):
    app.command(command.__name__)(command)
for name, group in _GROUPS.items():
    app.add_typer(group, name=name)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"recbench {version('recbench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None: ...


def main() -> NoReturn:
    """Run the command line of this process and end it with the right exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Read when torch is loaded. Threads that spin while they wait take the cores from each other's work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    configure_logging()
    sys.exit(execute(sys.argv[1:]))


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Treat SIGTERM as Ctrl-C: the run is marked as cancelled and can be resumed."""
    raise KeyboardInterrupt


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. All errors end here, and nowhere else."""
    as_json = "--json" in arguments
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="recbench", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _interrupted(as_json)
    except typer.Abort as error:
        # typer says so too when a file ends too early anywhere, which is an error like any other.
        return _failed(error.__cause__, as_json) if isinstance(error.__cause__, EOFError) else _interrupted(as_json)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _failed(error, as_json)
    if result == EXIT_INTERRUPTED:  # typer turns Ctrl-C into a result
        return _interrupted(as_json)
    return result if isinstance(result, int) else 0


def _interrupted(as_json: bool) -> int:
    hint = "The same command goes on from where it stopped."
    _show("Interrupted.", hint, "KeyboardInterrupt", EXIT_INTERRUPTED, as_json)
    return EXIT_INTERRUPTED


def _failed(error: Exception, as_json: bool) -> int:
    kind = type(error).__name__
    if isinstance(error, _CommandLineError):
        problem: Any = error
        message = problem.format_message()
        if as_json:
            _show(message, "See recbench --help.", kind, problem.exit_code, as_json)
        else:
            problem.show()
        return int(problem.exit_code)
    if not isinstance(error, RecbenchError):
        error = _as_artifact_error(error) or error
    if isinstance(error, RecbenchError):
        _show(error.message, error.hint, kind, error.exit_code, as_json)
        return error.exit_code
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    folder = getattr(error, "run_folder", None)
    hint = "This is a bug of recbench or of a method. Please report it with the traceback"
    hint += f" and the log in {folder}." if folder else "."
    _show(f"{kind}: {error}", hint, kind, EXIT_BUG, as_json)
    return EXIT_BUG


def _show(message: str, hint: str | None, kind: str, exit_code: int, as_json: bool) -> None:
    console = stderr_console()
    console.print(f"Error: {message}" if message != "Interrupted." else message, style="red", markup=False)
    if hint:
        console.print(hint, markup=False)
    if as_json:
        print_json({"error": {"type": kind, "message": message, "hint": hint, "exit_code": exit_code}})


def _as_artifact_error(error: Exception) -> ArtifactError | None:
    """Return the error that the user can mend behind one of the operating system's, if it is of that kind."""
    if _is_full_disk(error):
        return ArtifactError(
            f"There is no space left to write: {error}.",
            "Free some space or choose another place (--runs-dir, RECBENCH_HOME), then give the same command again.",
        )
    if isinstance(error, OSError) and error.errno in _NO_PERMISSION:
        return ArtifactError(f"No permission: {error}.", "Mend the permissions or choose another place.")
    return None


def _is_full_disk(error: BaseException | None) -> bool:
    """Tell whether a full disk, quota or file size limit lies at the bottom of an error, whoever wrapped it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        if any(os.strerror(number) in str(error) for number in _NO_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False
