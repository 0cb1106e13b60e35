"""RecBole's sequential models as recbench methods. Training and scoring happen in a worker process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from baselines.recbole.catalog import check_model, recbole_folder
from baselines.recbole.config import CaserConfig, GRU4RecConfig, SASRecConfig, TrainingConfig, family_config
from baselines.recbole.job import (
    OUTCOME,
    QUERIES,
    RANKINGS,
    TRAIN,
    VALID,
    VOCABULARY,
    WEIGHTS,
    FitJob,
    ModelSpec,
    RankJob,
    read_arrays,
    write_arrays,
    write_job,
    write_queries,
)
from baselines.recbole.process import Worker
from recbench.artifacts.files import read_json, write_json
from recbench.contracts.errors import TrainingError, UsageError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings

_FACTS = "fitted.json"


@dataclass(frozen=True)
class _Fitted:
    """What training left: RecBole's weights, whom and what they know, and the facts about the fit."""

    weights: dict[str, np.ndarray]
    vocabulary: dict[str, np.ndarray]
    max_history: int
    outcome: dict[str, Any]


class SequentialMethod(Method):
    """A sequential model of RecBole.

    It knows the items of the training and validation rows. All other items of the catalogue share the last place of
    every list. Unknown items are left out of histories; users without a training row are RecBole's padding user.
    """

    model: ClassVar[str]
    capabilities = Capabilities(packages=("recbole", "torch"), extra="recbole")

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._fitted: _Fitted | None = None
        self._worker: Worker | None = None

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Train in a worker process, going on from the checkpoint in ``ctx.work_dir`` if it is of the same job."""
        recbole_folder()
        if not len(train):
            raise TrainingError(f"There is no training row for {self.model}.")
        folder = ctx.work_dir / "recbole"
        folder.mkdir(parents=True, exist_ok=True)
        spec = self._spec(int(max(train.history_length.max(), valid.history_length.max(initial=0))))
        job = self._fit_job(spec, train, valid, ctx)
        write_queries(folder / TRAIN, train)
        write_queries(folder / VALID, valid)
        write_job(folder, job)
        with ctx.stage("train"), ctx.progress.bar(f"{self.model} epochs", total=job.epochs) as bar:

            def on_event(event: Mapping[str, Any]) -> None:
                if event["event"] == "start":
                    bar.advance(event["epoch"])
                    return
                ctx.log(
                    {
                        "stage": "train",
                        "step": event["epoch"],
                        "epoch": event["epoch"],
                        "loss": event["loss"],
                        "valid/NDCG@10": event["ndcg"],
                        "seconds": event["seconds"],
                    }
                )
                value = "" if event["ndcg"] is None else f", valid NDCG@10 {event['ndcg']:.4f}"
                bar.note(f"loss {event['loss']:.4f}{value}")
                bar.advance()

            self._worker_for(ctx).run(folder, on_event)
        self._fitted = _Fitted(
            read_arrays(folder / WEIGHTS),
            read_arrays(folder / VOCABULARY),
            spec.max_history,
            {**read_json(folder / OUTCOME), "items_without_row": len(ctx.catalog) - _n_known(folder)},
        )

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Score the whole catalogue in a worker process and rank it."""
        fitted = self._require_fitted()
        ctx.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="recbole-rank-", dir=ctx.work_dir) as name:
            folder = Path(name)
            spec = self._spec(fitted.max_history)
            job = RankJob(spec=spec, n_items=len(ctx.catalog), k=k, mask_history=ctx.mask_history, device=ctx.device)
            write_arrays(folder / WEIGHTS, fitted.weights)
            write_arrays(folder / VOCABULARY, fitted.vocabulary)
            write_queries(folder / QUERIES, queries)
            write_job(folder, job)
            with ctx.progress.bar(f"{self.model} lists", total=len(queries)) as bar:

                def on_event(event: Mapping[str, Any]) -> None:
                    if event["event"] == "timed":
                        ctx.timings_s[event["stage"]] = ctx.timings_s.get(event["stage"], 0.0) + event["seconds"]
                    else:
                        bar.advance(event["queries"])

                self._worker_for(ctx).run(folder, on_event)
            answer = read_arrays(folder / RANKINGS)
        return Rankings(answer["example_id"], answer["offsets"], answer["items"], answer["scores"])

    def save(self, folder: Path) -> None:
        """Write weights, vocabulary and the facts about the fit."""
        fitted = self._require_fitted()
        write_arrays(folder / WEIGHTS, fitted.weights)
        write_arrays(folder / VOCABULARY, fitted.vocabulary)
        write_json(folder / _FACTS, {"max_history": fitted.max_history, "outcome": fitted.outcome})

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> SequentialMethod:
        """Read what :meth:`save` wrote."""
        facts = read_json(folder / _FACTS)
        method = cls(config)
        arrays = (read_arrays(folder / WEIGHTS), read_arrays(folder / VOCABULARY))
        method._fitted = _Fitted(*arrays, facts["max_history"], facts["outcome"])
        return method

    def summary(self) -> dict[str, Any]:
        """Return epochs done, the best one, its validation NDCG@10, parameters and items without any row."""
        if self._fitted is None:
            return {}
        outcome = dict(self._fitted.outcome)
        outcome["valid/NDCG@10"] = outcome.pop("best_value")
        outcome["epochs"] = outcome.pop("epoch")
        return outcome

    def _worker_for(self, ctx: RunContext) -> Worker:
        if self._worker is None or self._worker.device != ctx.device:
            self._worker = Worker(ctx.device, ctx.work_dir / "recbole" / "worker.log")
        return self._worker

    def _require_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise UsageError(f"{self.model} was asked for lists before it was fitted.", "Call fit or load first.")
        return self._fitted

    def _spec(self, max_history: int) -> ModelSpec:
        return ModelSpec(
            model=self.model,
            loss=self.config.loss,
            settings=self.config.settings(),
            model_args=self.config.model_args,
            max_history=max_history,
        )

    def _fit_job(self, spec: ModelSpec, train: Examples, valid: Examples, ctx: RunContext) -> FitJob:
        names = ("learning_rate", "weight_decay", "epochs", "patience", "train_batch_size")
        settings = {name: getattr(self.config, name) for name in names}
        identity = hash_json(
            [
                spec.model_dump(mode="json"),
                settings,
                [train.fingerprint, valid.fingerprint],
                [ctx.seed, ctx.mask_history, ctx.device.partition(":")[0]],
            ]
        )
        return FitJob(
            spec=spec,
            seed=ctx.seed,
            mask_history=ctx.mask_history,
            device=ctx.device,
            identity=identity,
            **settings,
        )


def _n_known(folder: Path) -> int:
    return len(read_arrays(folder / VOCABULARY)["items"])


class Caser(SequentialMethod):
    """Caser (Tang and Wang, WSDM 2018), RecBole's: convolutions over the last items, with a user embedding."""

    model = "Caser"
    config_class = CaserConfig


class GRU4Rec(SequentialMethod):
    """GRU4Rec (Tan et al., DLRS 2016), RecBole's: a recurrent network over the history."""

    model = "GRU4Rec"
    config_class = GRU4RecConfig


class SASRec(SequentialMethod):
    """SASRec (Kang and McAuley, ICDM 2018), RecBole's: self-attention over the history."""

    model = "SASRec"
    config_class = SASRecConfig


@cache
def sequential_model(name: str) -> type[SequentialMethod]:
    """Return the method of any sequential model of RecBole; its default loss is the model's own.

    Raises:
        ConfigError: RecBole has no such sequential model, or it needs data that rows of histories do not hold.
        MissingExtraError: RecBole is not installed.
    """
    model = check_model(name)
    config_class: type[TrainingConfig] = family_config(model)
    description = f"{model}, a sequential model of RecBole, with RecBole's own settings and loss."
    members = {"model": model, "config_class": config_class, "__doc__": description, "__module__": __name__}
    return type(model, (SequentialMethod,), members)
