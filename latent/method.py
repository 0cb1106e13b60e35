"""LatentR3 as a method: a continuous thought before the title, learned by SFT and then by LR-GRPO.

Zhang et al., "Reinforced Latent Reasoning for LLM-based Recommendation" (arXiv 2505.19092).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import Tensor

from latent.answer_rl import reinforce_answers
from latent.config import LatentR3Config
from latent.item_vectors import item_vectors
from latent.model import LatentModel
from latent.reasoner import LatentWriter
from latent.rl import check_processes, reinforce
from recbench.artifacts.files import atomic_folder
from recbench.contracts.errors import UsageError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.backbone import open_backbone, rl_learning_rate
from recbench.llm.background import Background
from recbench.llm.decode import rank_titles
from recbench.llm.facts import decoding_facts
from recbench.llm.fit_checks import check_fit
from recbench.llm.likelihood import title_likelihood
from recbench.llm.sft import fine_tune


class LatentR3(Method):
    """Thinks N continuous tokens (one by default), then writes the next title.

    The paper's ablations and variants are settings; benchmarks/methods/latentr3/ has a file for each of them.
    """

    config_class = LatentR3Config
    capabilities = Capabilities(
        uses_backbone=True,
        writes_text=True,
        max_places=10,
        distributed=True,
        packages=("torch", "transformers", "tokenizers"),
    )

    config: LatentR3Config

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.capabilities = replace(type(self).capabilities, max_places=self.config.decoding.max_places)
        self._fitted: LatentModel | None = None
        self._decoding: dict[str, Any] = {}

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Fine-tune everything, or take the model that this one begins with; then do reinforcement learning."""
        begins = self.config.begins_with
        if begins is None:
            self._fitted = self._fine_tuned(train, valid, ctx)
            return
        check_processes(self.config.rl)
        if ctx.start_model.is_dir():
            self._fitted = LatentModel.load(ctx.start_model, begins, ctx).under(self.config)
        else:
            self._fitted = self._start(begins, train, valid, ctx).under(self.config)
        self._reinforce(self._fitted, train, ctx)

    def starts_from(self) -> LatentR3 | None:
        """Return the fit that stage 2 goes on from: the same SFT, or the fully trained model of ``start_from``."""
        begins = self.config.begins_with
        return None if begins is None else LatentR3(begins)

    def _fine_tuned(self, train: Examples, valid: Examples, ctx: RunContext) -> LatentModel:
        check_fit(self.config.template, self.config.sft, ctx)
        backbone = open_backbone(train, ctx, self.config.precision)
        settings = self.config.sft
        if settings.learning_rate is None:
            settings = settings.model_copy(update={"learning_rate": backbone.sft_learning_rate})
        model = LatentModel.fresh(self.config, backbone, Background.of(train, valid, len(ctx.catalog)), ctx)
        folder = ctx.work_dir / "sft"
        result = fine_tune(model.writer, model.codec, train, valid, settings, folder, ctx, self.config.decoding)
        model.facts = {"sft": {**asdict(result), "learning_rate": settings.learning_rate}, **model.facts}
        return model

    def _start(self, begins: LatentR3Config, train: Examples, valid: Examples, ctx: RunContext) -> LatentModel:
        """Fit the model that this fit begins with, and keep it for a resumed attempt."""
        work = ctx.start_model.parent / "work"
        start_ctx = replace(ctx, work_dir=work)
        if self.config.start_from is not None:
            # Both fits have stages of the same names.
            start_ctx = replace(start_ctx, log=lambda record: ctx.log({**record, "stage": f"start-{record['stage']}"}))
        start = LatentR3(begins)
        start.fit(train, valid, start_ctx)
        state = PartialState()
        if state.is_main_process:
            with atomic_folder(ctx.start_model) as folder:
                start.save(folder)
            shutil.rmtree(work)
        state.wait_for_everyone()
        return start._model

    def _reinforce(self, model: LatentModel, train: Examples, ctx: RunContext) -> None:
        settings = self.config.rl
        if settings.learning_rate is None:
            settings = settings.model_copy(update={"learning_rate": rl_learning_rate(ctx)})
        assert isinstance(model.writer, LatentWriter)
        arguments = (model.writer, model.codec, train, settings, ctx.work_dir / "rl", ctx)
        counts: dict[str, int] = {}
        if settings.reward == "match":
            result, counts = reinforce_answers(*arguments)
        else:
            result = reinforce(*arguments)
        if self.config.start_from is not None:
            model.facts["rl_of_start"] = model.facts.pop("rl", None)
        model.facts["rl"] = {**asdict(result), **counts, "learning_rate": settings.learning_rate}

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        """Return the items of the titles that the decoding finds (grounding: of those nearest to the text written)."""
        model, thought = self._model, self.config.thought_at_inference
        folder = ctx.work_dir / ("decode" if thought == "normal" else f"decode-{thought}")
        writer = model.ranking_writer(self.config)
        rankings = rank_titles(
            writer, model.codec, queries, self.config.decoding, folder, ctx, k=k, background=model.background
        )
        self._decoding = decoding_facts(folder)
        return rankings

    def likelihood(self, examples: Examples, ctx: RunContext) -> Likelihood | None:
        """Return how likely the true titles are behind the thoughts that the lists were made with."""
        writer = self._model.ranking_writer(self.config)
        return title_likelihood(writer, self._model.codec, examples, self.config.decoding.batch_size, ctx)

    def save(self, folder: Path) -> None:
        """Write the fitted model."""
        self._model.save(folder)

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> LatentR3:
        """Read what :meth:`save` wrote."""
        method = cls(config)
        method._fitted = LatentModel.load(folder, method.config, ctx)
        return method

    def item_vectors(self, kind: str, batch_size: int, ctx: RunContext) -> tuple[Tensor, np.ndarray]:
        """Return a vector of every item with a title (see :func:`latent.item_vectors.item_vectors`)."""
        return item_vectors(self._model.writer, self._model.codec, kind, batch_size, ctx)

    def fit_identity(self) -> dict[str, Any]:
        """Runs that differ in decoding or in the thought at inference alone share one fit."""
        return self.config.fit_identity

    @property
    def _model(self) -> LatentModel:
        if self._fitted is None:
            raise UsageError("The method was asked for lists before it was fitted.", "Call fit or load first.")
        return self._fitted

    def summary(self) -> dict[str, Any]:
        """Return the facts of all stages and of decoding."""
        return {**(self._fitted.facts if self._fitted else {}), **self._decoding}
