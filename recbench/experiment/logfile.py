"""The full text log of a run or a trial."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbench.contracts.method import Method

log = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    """A log that cannot be written stops the run: it would end without the record of how it came about."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the error through."""
        raise  # logging calls this while it handles the error


@contextmanager
def log_file(path: Path, method: Method) -> Iterator[None]:
    """Write a log file while the block runs: DEBUG of recbench and of the method's package, INFO of all others, and
    Python's warnings."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    detailed = map(logging.getLogger, ("recbench", type(method).__module__.partition(".")[0]))
    levels = {logger: logger.level for logger in (root, *detailed)}
    for logger in levels:
        logger.setLevel(min(root.level, logging.INFO) if logger is root else logging.DEBUG)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except BaseException:
        log.debug("The attempt ended with an error.", exc_info=True)
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)
        handler.close()
