"""One process at a time at one piece of work; the others wait and then find it done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbench.artifacts.files import cannot_write

logger = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; wait, and say so, while another process holds it.

    The operating system lets go of the lock when its process dies, however it dies.

    Args:
        path: the lock file; its folder is made.
        doing: what is done under the lock, in words ("prepares toys").

    Raises:
        ArtifactError: the lock file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another process %s; waiting until it is done.", doing)
            lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()
