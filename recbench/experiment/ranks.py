"""Several processes, one run: under ``torchrun`` or ``accelerate launch`` all processes fit, the first does the rest.

The first process (rank 0) owns the run folder: lock, manifest, logs, lists. The others wait for orders and call the
same method's ``fit`` with the same rows and the same scratch folder, in which ``transformers.Trainer`` lets its main
process write. When the first process ends well they end well; when its connection is lost they end with an error.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.method import Method
from recbench.contracts.progress import SilentProgress
from recbench.experiment.fit import FitPlan

log = logging.getLogger(__name__)

# Ranking by the first process may take hours; the others wait all the while.
_PATIENCE = timedelta(days=7)


class Team:
    """The processes of one run.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._group: Any = None

    @classmethod
    def of_environment(cls) -> Team:
        """Return the team that ``torchrun`` or ``accelerate launch`` started; without them a team of one."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def leads(self) -> bool:
        """Whether this is the process that owns the run."""
        return self.rank == 0

    def check(self, name: str, method: Method) -> None:
        """Refuse several processes for a method whose fit is the work of one.

        Raises:
            ConfigError: the method cannot be fitted by several processes.
        """
        if self.size > 1 and not method.capabilities.distributed:
            raise ConfigError(
                f"{self.size} processes were started, but '{name}' is fitted by one process.",
                "Start it without torchrun or accelerate launch.",
            )

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Connect the processes while the block runs; the first one tells the others when it ended well."""
        if self.size == 1:
            yield
            return
        import torch
        import torch.distributed as dist

        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", rank=self.rank, world_size=self.size)
        # Orders have a group of their own: training may use other backends and shorter time limits.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield
        # Not after an error: the others may be in the middle of a step and would never hear it. They lose the
        # connection when this process ends.
        if self.leads:
            self._exchange({"end": True})
        dist.destroy_process_group()

    def order_fit(self, method: Method, work_dir: Path) -> None:
        """Let all other processes begin the fit that this one begins now."""
        if self.size > 1:
            self._exchange({"config": method.config.model_dump(mode="json"), "work_dir": str(work_dir.absolute())})

    def follow(self, plan: FitPlan) -> bool:
        """Take part in every fit until the first process ends; return whether it ended well."""
        while True:
            try:
                order = self._exchange(None)
            except RuntimeError:  # the connection is lost: the first process says why
                return False
            if "end" in order:
                return True
            method_class = type(plan.method)
            method = method_class(build_config(method_class.config_class, order["config"], f"method '{plan.name}'"))
            try:
                method.fit(plan.train, plan.valid, plan.context(Path(order["work_dir"]), _drop, SilentProgress()))
            except Exception:
                log.error("Process %d of %d failed:\n%s", self.rank, self.size, traceback.format_exc())
                return False

    def _exchange(self, order: dict[str, Any] | None) -> dict[str, Any]:
        """Send an order (first process), or wait for one (others); return it."""
        import torch.distributed as dist

        orders = [order]
        dist.broadcast_object_list(orders, src=0, group=self._group)
        return dict(orders[0] or {})


def _drop(record: Any) -> None:
    """Log nowhere: the first process logs for all."""
