"""Every check of the contract fails for a method that breaks just that promise, and passes for one that keeps it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import Capabilities, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.methods.dense import rank_by_scores
from recbench.methods.popularity import Popularity
from recbench.methods.random import RandomMethod
from recbench.testing.method_checks import CheckResult, assert_method, check_method


def failures(method: type[Method]) -> dict[str, str]:
    return {result.name: result.message for result in check_method(method) if result.status == "failed"}


@pytest.mark.parametrize("name", ["random", "popularity"])
def test_built_in_methods_keep_the_contract(name: str) -> None:
    results = check_method(name)
    assert [result.status for result in results] == ["passed"] * len(results)
    assert all(result.promise.endswith(".") and result.seconds >= 0 for result in results)
    assert len({result.name for result in results}) == len(results)


def test_values_reach_the_method() -> None:
    assert_method("popularity", {"count": "events"})


def test_results_are_told_one_by_one() -> None:
    told: list[CheckResult] = []
    assert check_method("random", on_result=told.append) == told


class Loose(MethodConfig):
    """Accepts anything."""

    model_config = ConfigDict(extra="allow")


class Forgetful(MethodConfig):
    """Does not come back from JSON as it was."""

    values: Any = Field((1, 2))


class LooseMethod(Popularity):
    config_class = Loose


class ForgetfulMethod(Popularity):
    config_class = Forgetful

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        self.counts = np.bincount(train.target, minlength=len(ctx.catalog))


class ImpureConstructor(Popularity):
    def __init__(self, config: BaseModel) -> None:
        super().__init__(config)  # type: ignore[arg-type]
        np.random.random()


class GlobalRandomness(Popularity):
    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        super().fit(train, valid, ctx)
        np.random.seed(3)


class ChangesEnvironment(Popularity):
    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        super().fit(train, valid, ctx)
        os.environ["RECBENCH_TEST_LEAK"] = os.environ.get("RECBENCH_TEST_LEAK", "") + "x"


class ChangesWarnings(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        warnings.simplefilter("ignore", category=type("New", (UserWarning,), {}))
        return super().rank(queries, k, ctx)


class ChangesTorch(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        import torch

        torch.rand(1)
        return super().rank(queries, k, ctx)


class LeavesOutColdUsers(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        return super().rank(queries.take(np.nonzero(queries.user < 38)[0]), k, ctx)


class ShortLists(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        scores = np.full(len(ctx.catalog), -np.inf)
        scores[:3] = [3.0, 2.0, 1.0]
        return rankings_from_scores(queries.example_id, np.tile(scores, (len(queries), 1)), k)


class ListsTwice(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        lists = super().rank(queries, k, ctx)
        lists.items[1] = lists.items[0]
        return lists


class CutsTies(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        lists = super().rank(queries, k, ctx)
        keep = np.concatenate([np.arange(start, start + k) for start in lists.offsets[:-1]])
        offsets = np.arange(len(queries) + 1) * k
        return Rankings(lists.example_id, offsets, lists.items[keep], lists.scores[keep])


class ScoresByPositionInBatch(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        scores = np.random.default_rng(0).random((len(queries), len(ctx.catalog)))
        return rankings_from_scores(queries.example_id, scores, k)


class IgnoresMask(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        return rank_by_scores(queries, k, len(ctx.catalog), lambda b: np.tile(self.counts, (len(b), 1)), False)


class SavesNothing(Popularity):
    def save(self, folder: Path) -> None:
        """Forget."""

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> SavesNothing:
        method = cls(config)
        method.counts = np.zeros(len(ctx.catalog))
        return method


class Accumulates(Popularity):
    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        before = self.counts
        super().fit(train, valid, ctx)
        if len(before):
            self.counts = self.counts + before


class FreshChance(Popularity):
    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        self.counts = np.random.default_rng().random(len(ctx.catalog))


class LogsArrays(Popularity):
    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        super().fit(train, valid, ctx)
        ctx.log({"loss": np.float32(1.0)})


class WritesIntoInput(Popularity):
    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        queries.items[:] = 0
        return super().rank(queries, k, ctx)


class NoGenerations(Popularity):
    capabilities = Capabilities(writes_text=True)


BREACHES: list[tuple[type[Method], str, str]] = [
    (LooseMethod, "unknown-key", "was accepted"),
    (ForgetfulMethod, "config-round-trip", "came back from JSON"),
    (ImpureConstructor, "building-is-pure", "numpy.random"),
    (GlobalRandomness, "global-state", "numpy.random"),
    (ChangesEnvironment, "global-state", "os.environ"),
    (ChangesWarnings, "global-state", "warnings.filters"),
    (ChangesTorch, "global-state", "torch's generator"),
    (LeavesOutColdUsers, "valid-lists", "not exactly"),
    (ShortLists, "valid-lists", "fewer than 10 places"),
    (ListsTwice, "valid-lists", "an item twice"),
    (CutsTies, "whole-ties", "inside a tie"),
    (ScoresByPositionInBatch, "batch-free", "differs when"),
    (IgnoresMask, "mask-history", "of its own history"),
    (SavesNothing, "save-load", "saved and loaded"),
    (Accumulates, "refit", "does not forget"),
    (FreshChance, "refit", "same seed"),
    (LogsArrays, "plain-log", "ctx.log holds a value"),
    (WritesIntoInput, "valid-lists", "read-only"),
    (NoGenerations, "valid-lists", "no generations"),
]


@pytest.mark.parametrize(("method", "check", "message"), BREACHES, ids=[breach[0].__name__ for breach in BREACHES])
def test_each_breach_is_found(method: type[Method], check: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECBENCH_TEST_LEAK", "")
    with warnings.catch_warnings():
        found = failures(method)
    assert check in found
    assert message in found[check]
    with pytest.raises(AssertionError, match=check), warnings.catch_warnings():
        assert_method(method)


def test_a_single_breach_fails_a_single_check() -> None:
    assert set(failures(CutsTies)) == {"whole-ties"}
    assert set(failures(IgnoresMask)) == {"mask-history"}
    assert set(failures(SavesNothing)) == {"save-load"}


def test_fewer_places_are_fine_if_said() -> None:
    class Three(ShortLists):
        capabilities = Capabilities(max_places=3)

        def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
            hidden = [set(queries.history(row).tolist()) if ctx.mask_history else set() for row in range(len(queries))]
            rows = [[item for item in range(len(ctx.catalog)) if item not in seen][:3] for seen in hidden]
            offsets = np.arange(len(queries) + 1) * 3
            return Rankings(queries.example_id, offsets, np.concatenate(rows), np.tile([3.0, 2.0, 1.0], len(queries)))

    results = {result.name: result.status for result in check_method(Three)}
    assert results["whole-ties"] == "skipped"
    assert set(results.values()) == {"passed", "skipped"}


def test_context_can_be_given() -> None:
    seen: list[Path] = []

    def make(folder: Path, method_class: type[Method]) -> RunContext:
        from recbench.testing.tiny import tiny_catalog

        seen.append(folder)
        folder.mkdir(parents=True)
        return RunContext(tiny_catalog(), 5, "cpu", folder, folder)

    assert_method(RandomMethod, context=make)
    assert len(set(seen)) == len(seen) > 1
