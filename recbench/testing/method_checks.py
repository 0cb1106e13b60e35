"""The contract of a method as checks that anybody can run: ``recbench methods check NAME``, or from pytest::

from recbench.testing.method_checks import assert_method

def test_contract():
    assert_method("my-method")
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbench.contracts.errors import RecbenchError
from recbench.contracts.method import BackboneSpec, Method, RunContext
from recbench.methods.load import load_method_class
from recbench.testing.subject import CheckFailedError, CheckSkippedError, Subject
from recbench.testing.tiny import tiny_catalog
from recbench.testing.tiny_llm import make_tiny_llm

ContextFactory = Callable[[Path, type[Method]], RunContext]


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: short name with hyphens.
        promise: what the check makes sure of, in one sentence.
        status: "skipped" says that the check does not apply to this method; ``message`` tells why.
        seconds: wall time, with what was fitted for it first.
        message: what went wrong; empty for a check that passed.
    """

    name: str
    promise: str
    status: Literal["passed", "failed", "skipped"]
    seconds: float
    message: str = ""


def check_method(
    method: str | type[Method],
    values: Mapping[str, Any] | None = None,
    context: ContextFactory | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run the contract on one method, on tiny planted data on the CPU.

    Args:
        method: a registered name or a class.
        values: configuration, as given with ``--set``.
        context: makes the run's surroundings from a scratch folder and the class; by default :func:`tiny_context`.
        on_result: called after each check (to show progress).

    Returns:
        One result per check, in a fixed order. If fitting or ranking itself fails, the checks that need it fail.

    Raises:
        ConfigError: the name is unknown or cannot be loaded, or the configuration is not accepted.
    """
    name = method if isinstance(method, str) else method.__name__
    method_class = load_method_class(method) if isinstance(method, str) else method
    results = []
    with tempfile.TemporaryDirectory(prefix="recbench-check-") as folder:
        make_context = context or tiny_context
        subject = Subject(name, method_class, values or {}, Path(folder), lambda f: make_context(f, method_class))
        for check_name, promise, check in subject.checks():
            result = _run(check_name, promise, check)
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results


def assert_method(
    method: str | type[Method], values: Mapping[str, Any] | None = None, context: ContextFactory | None = None
) -> None:
    """Raise an AssertionError that names every check of :func:`check_method` that failed."""
    failed = [result for result in check_method(method, values, context) if result.status == "failed"]
    assert not failed, "\n".join(f"{result.name}: {result.message}" for result in failed)


def tiny_context(folder: Path, method_class: type[Method]) -> RunContext:
    """Return the surroundings of a run on the tiny data set; a random two-layer language model if one is needed."""
    backbone = None
    if method_class.capabilities.uses_backbone:
        model = folder.parent / "tiny-llm"
        if not model.exists():
            with _quiet_progress():
                make_tiny_llm(model, tiny_catalog().titles)
        backbone = BackboneSpec(name=str(model), requested=str(model))
    work, cache = folder / "work", folder.parent / "cache"
    work.mkdir(parents=True)
    cache.mkdir(exist_ok=True)
    return RunContext(tiny_catalog(), seed=7, device="cpu", work_dir=work, cache_dir=cache, backbone=backbone)


@contextmanager
def _quiet_progress() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _run(name: str, promise: str, check: Callable[[], None]) -> CheckResult:
    start = time.perf_counter()
    status: Literal["passed", "failed", "skipped"] = "passed"
    message = ""
    try:
        check()
    except CheckSkippedError as error:
        status, message = "skipped", str(error)
    except (CheckFailedError, RecbenchError) as error:
        status, message = "failed", str(error)
    except Exception as error:  # A plugin may raise anything; its traceback is the message.
        status, message = "failed", f"{_last_frames(error)}"
    return CheckResult(name, promise, status, time.perf_counter() - start, message)


def _last_frames(error: Exception, frames: int = 3) -> str:
    lines: Sequence[str] = traceback.format_exception(type(error), error, error.__traceback__.tb_next, limit=-frames)  # type: ignore[union-attr]
    return "".join(lines).strip()
