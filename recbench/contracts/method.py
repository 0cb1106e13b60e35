"""The contract of a recommender. All that the author of a method needs to read.

A method is built from its configuration, fitted on training rows (early stopping may look at validation rows),
and asked for one ranked list per query. Queries carry no targets. Everything else that a method may use (seed,
device, folders, progress, log) comes in one :class:`RunContext`; a method reads no environment, no command line
and no global random state.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from recbench.contracts.config import StrictModel
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.progress import Progress, SilentProgress
from recbench.contracts.rankings import Rankings


class MethodConfig(StrictModel):
    """Base of every method's configuration. Give each field a default and a description with its unit."""


class BackboneSpec(StrictModel):
    """Which language model a method builds on.

    Attributes:
        name: preset ("nano", "micro"), Hugging Face id or local folder.
        revision: commit of a hub model or content hash of a preset or folder, never a moving name.
        requested: what the user asked for ("auto" where recbench chose).
    """

    name: str
    revision: str | None = None
    requested: str = ""


@dataclass(frozen=True)
class Capabilities:
    """What a method needs and promises.

    Attributes:
        uses_backbone: builds on a language model (``--backbone``).
        trains: learns from training rows (False: fit may be empty).
        writes_text: returns generations.
        max_places: places a list can have at most, None for the whole catalogue (10 with 10 beams).
        distributed: fit may run in all processes of ``torchrun`` or ``accelerate launch`` at once, with one scratch
            folder for all; rank and save are called in the first one only.
        packages: installed packages whose version can change the result; they enter the run id.
        extra: recbench's optional dependency that it needs ("recbole"), or None.
    """

    uses_backbone: bool = False
    trains: bool = True
    writes_text: bool = False
    max_places: int | None = None
    distributed: bool = False
    packages: tuple[str, ...] = ("numpy",)
    extra: str | None = None


def _drop(record: Mapping[str, Any]) -> None:
    """Log nowhere."""


@dataclass(frozen=True)
class RunContext:
    """The surroundings of one run.

    Attributes:
        catalog: the items that can be recommended.
        seed: the run's seed; derive generators with :mod:`recbench.contracts.seeding`.
        device: "cpu", "cuda" or "cuda:N".
        work_dir: the run's own scratch folder. It survives a crash and is deleted when the run is complete: a
            method keeps its checkpoints here and goes on from those it finds.
        cache_dir: folder shared by all runs, for things that depend on content only (a pretrained preset).
        backbone: the language model, for methods that use one.
        mask_history: whether items of the history must be left out of the lists.
        log: writes one record (plain values) as a line of ``train.jsonl``.
        progress: shows progress bars.
        timings_s: seconds per stage, filled by :meth:`stage`.
    """

    catalog: ItemCatalog
    seed: int
    device: str
    work_dir: Path
    cache_dir: Path
    backbone: BackboneSpec | None = None
    mask_history: bool = False
    log: Callable[[Mapping[str, Any]], None] = _drop
    progress: Progress = field(default_factory=SilentProgress)
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def start_model(self) -> Path:
        """Folder with the saved model of :meth:`Method.starts_from`, where one was kept; else it does not exist."""
        return self.work_dir / "start" / "model"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage ("sft", "rl", "decode") and say in the log that it begins."""
        import time

        logging.getLogger("recbench").info("Stage %s begins.", name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - start


class Method(ABC):
    """A recommender.

    Attributes:
        config_class: what it is configured with.
        capabilities: what it needs and promises; where that depends on the configuration, ``__init__`` gives the
            instance its own.
    """

    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    capabilities: Capabilities = Capabilities()

    def __init__(self, config: MethodConfig) -> None:
        """Store the configuration. No GPU, file or random state is touched here."""
        self.config: Any = config

    @abstractmethod
    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Learn; a second call forgets the first. Go on from what an earlier attempt left in ``ctx.work_dir``."""

    @abstractmethod
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return one list per query, in their order, with at least ``k`` places where the method can.

        A list must not end inside a tie (see :class:`~recbench.contracts.rankings.Rankings`).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what :meth:`load` needs into an existing empty folder (safetensors, JSON, Parquet; no pickles)."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Method:
        """Return a fitted method that ranks exactly as the saved one."""

    def fit_identity(self) -> dict[str, Any] | None:
        """Return plain JSON values that, with data, backbone, seed and packages, determine the fitted model.

        Runs whose identities are equal may share one fit: the model that one of them saved is loaded by the others
        with their own configuration. So a method whose :meth:`rank` alone reads some settings leaves these out, and
        two methods that fit the same model in the same way, and save it in the same form, may return the same values.
        None: there is nothing worth sharing.
        """
        cls = type(self)
        return {"method": f"{cls.__module__}:{cls.__qualname__}", "config": self.config.model_dump(mode="json")}

    def starts_from(self) -> Method | None:
        """Return the method, configured, whose fitted model this one's fit goes on from; None: it needs none.

        If a kept model of that fit is at hand (same data, seed, backbone), it lies in ``ctx.start_model`` when
        :meth:`fit` is called. Otherwise ``fit`` makes it itself. Its cost is part of the cost of this fit either way.
        """
        return None

    def likelihood(self, examples: Examples, ctx: RunContext) -> Likelihood | None:
        """Return how likely the true titles are; None: the method has no probabilities of titles.

        It is asked after :meth:`rank`, when the lists are final: here, and only here, a method meets the targets of the
        test rows. Nothing that it learns from them may reach a list.
        """
        return None

    def summary(self) -> dict[str, Any]:
        """Return plain facts about the fit or the lists for ``summary.json`` (best epoch, truncated texts, ...)."""
        return {}
