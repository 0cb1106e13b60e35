"""D3 on a tiny random model: what it shares with BIGRec, what its score is, and how alpha is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.llm.bigrec import BigRec
from baselines.llm.d3 import D3, D3Config
from baselines.llm.ensemble import EnsembleSettings, Partner
from baselines.llm.trie_mass import answer_masses, item_probabilities
from baselines.llm.tuned import TunedConfig
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.examples import Examples, Queries
from recbench.contracts.method import BackboneSpec, Method, MethodConfig, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.item_vectors import write_item_vectors
from recbench.methods.dense import rank_by_scores
from recbench.methods.popularity import Popularity
from recbench.testing.tiny import N_ITEMS, planted_next, tiny_catalog, tiny_split

SFT = {"epochs": 1, "batch_size": 16, "micro_batch_size": 16, "learning_rate": 1e-2, "max_rows": 64, "eval_rows": 8}
EVERY_TITLE = 60
POPULAR = {"method": "popularity", "probabilities": "proportional"}


def d3(folder: Path, ctx: RunContext, **changes) -> D3:
    return D3.load(folder, build_config(D3Config, {"sft": SFT, **changes}, "d3"), ctx)


@pytest.fixture(scope="module")
def ctx(tmp_path_factory, tiny_llm_folder) -> RunContext:
    folder = tmp_path_factory.mktemp("d3")
    return RunContext(
        tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", BackboneSpec(name=str(tiny_llm_folder))
    )


@pytest.fixture(scope="module")
def saved(ctx, tmp_path_factory) -> Path:
    """Return the folder of a fitted BIGRec, with a fitted popularity beside it as a D3 ensemble keeps its partner."""
    split, folder = tiny_split(), tmp_path_factory.mktemp("bigrec")
    method = BigRec(build_config(TunedConfig, {"sft": SFT}, "bigrec"))
    method.fit(split.train, split.valid, ctx)
    method.save(folder)
    popularity = Popularity(Popularity.config_class())
    popularity.fit(split.train, split.valid, ctx)
    (folder / "partner").mkdir()
    popularity.save(folder / "partner")
    return folder


@pytest.fixture(scope="module")
def queries() -> Queries:
    return tiny_split().test.take(range(6)).queries()


def lists(rankings: Rankings) -> list[dict[int, float]]:
    bounds = zip(rankings.offsets[:-1], rankings.offsets[1:], strict=True)
    return [dict(zip(rankings.items[a:b].tolist(), rankings.scores[a:b].tolist(), strict=True)) for a, b in bounds]


def test_the_length_penalty_is_0_also_where_other_decoding_is_given() -> None:
    assert build_config(D3Config, {}, "x").decoding.length_penalty == 0.0
    assert build_config(D3Config, {"decoding": {"beams": 3}}, "x").decoding.length_penalty == 0.0
    assert build_config(D3Config, {"decoding": {"length_penalty": 0.5}}, "x").decoding.length_penalty == 0.5


def test_d3_is_bigrecs_model_with_another_length_penalty(ctx, saved, queries) -> None:
    every = {"beams": EVERY_TITLE}
    normalised = BigRec.load(saved, build_config(TunedConfig, {"sft": SFT, "decoding": every}, "x"), ctx)
    method = d3(saved, ctx, decoding=every)
    weights = (m._writer.writer.state_dict().values() for m in (normalised, method))
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)
    answers = method._writer.codec.answers
    length = np.array([len(tokens) for tokens in answers.tokens])[answers.of_item]
    found, other_lists = (lists(m.rank(queries, 10, ctx)) for m in (method, normalised))
    for sums, means in zip(found, other_lists, strict=True):
        assert len(sums) == N_ITEMS - 1
        for item, score in sums.items():
            assert length[item] > 1
            assert score / length[item] == pytest.approx(means[item], rel=1e-4)


def test_equal_fine_tuning_is_one_fit_whatever_the_decoding() -> None:
    bigrec = BigRec(build_config(TunedConfig, {"sft": SFT}, "x")).fit_identity()
    assert D3(build_config(D3Config, {"sft": SFT}, "x")).fit_identity() == bigrec
    grounded = build_config(TunedConfig, {"sft": SFT, "decoding": {"mode": "grounding", "beams": 3}}, "x")
    assert BigRec(grounded).fit_identity() == bigrec
    longer = build_config(D3Config, {"sft": {**SFT, "epochs": 2}}, "x")
    assert D3(longer).fit_identity() != bigrec


def test_a_partner_belongs_to_the_fit_and_alpha_does_not() -> None:
    def identity(**ensemble):
        return D3(build_config(D3Config, {"sft": SFT, "ensemble": ensemble}, "x")).fit_identity()

    plain = D3(build_config(D3Config, {"sft": SFT}, "x")).fit_identity()
    assert identity(method="popularity") != plain
    assert identity(method="popularity") == identity(method="popularity", alpha=0.3, temperature=2.0)
    assert identity(method="popularity") != identity(method="popularity", config={"count": "events"})


def test_alpha_1_is_d3_without_an_ensemble(ctx, saved, queries) -> None:
    pure = lists(d3(saved, ctx).rank(queries, 10, ctx))
    mixed = lists(d3(saved, ctx, ensemble={**POPULAR, "alpha": 1.0}).rank(queries, 10, ctx))
    for one, other in zip(pure, mixed, strict=True):
        assert list(one) == list(other)
        assert list(one.values()) == pytest.approx(list(other.values()), abs=1e-4)


def test_alpha_0_ranks_titles_by_the_partners_probability(ctx, saved, queries) -> None:
    """With a beam for every title the sum of log shares telescopes to the log of the title's mass."""
    method = d3(saved, ctx, ensemble={**POPULAR, "alpha": 0.0}, decoding={"beams": EVERY_TITLE})
    counts = method._partner.method.counts
    found = lists(method.rank(queries, 10, ctx))
    titles = tiny_catalog().title_group
    mass = np.bincount(titles, weights=counts) / counts.sum()
    titled = mass.sum() - mass[titles[23]]
    for scores in found:
        known = {item: score for item, score in scores.items() if counts[titles == titles[item]].sum() > 0}
        assert len(known) > 40
        for item, score in known.items():
            assert score == pytest.approx(np.log(mass[titles[item]] / titled), abs=1e-4)
        assert min(known.values()) > max(score for item, score in scores.items() if item not in known)
    assert 23 not in found[0]
    # Two items of one title: the title has the mass of both.
    together = (counts[5] + counts[17]) / counts.sum()
    assert found[0][5] == found[0][17] == pytest.approx(np.log(together / titled), abs=1e-4)


def test_a_mixed_score_is_the_weighted_sum_of_both(ctx, saved, queries) -> None:
    every = {"decoding": {"beams": EVERY_TITLE}}
    language, partner, mixed = (
        lists(d3(saved, ctx, ensemble={**POPULAR, "alpha": alpha}, **every).rank(queries, 10, ctx))
        for alpha in (1.0, 0.0, 0.25)
    )
    for row in range(len(queries)):
        assert len(mixed[row]) == N_ITEMS - 1
        for item, score in mixed[row].items():
            assert score == pytest.approx(0.25 * language[row][item] + 0.75 * partner[row][item], abs=1e-3)


class Oracle(Method):
    """Knows the planted next item. Records which examples it was asked about."""

    asked: list[int]

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.asked = []

    def fit(self, train: Examples, valid: Examples, ctx: RunContext) -> None:
        """Learn nothing."""

    def rank(self, queries: Queries, k: int, ctx: RunContext) -> Rankings:
        self.asked += queries.example_id.tolist()

        def score(batch: Queries) -> np.ndarray:
            scores = np.zeros((len(batch), N_ITEMS))
            scores[np.arange(len(batch)), [planted_next(int(batch.history(row)[-1])) for row in range(len(batch))]] = 40
            return scores

        return rank_by_scores(queries, k, len(ctx.catalog), score, ctx.mask_history)

    def save(self, folder: Path) -> None:
        """Write nothing."""

    @classmethod
    def load(cls, folder: Path, config: MethodConfig, ctx: RunContext) -> Oracle:
        return cls(config)


def with_oracle(saved: Path, ctx: RunContext, **ensemble) -> tuple[D3, Oracle]:
    method = d3(saved, ctx, ensemble={"method": "popularity", **ensemble})
    oracle = Oracle(MethodConfig())
    method._partner = Partner(oracle, method._partner.settings)
    return method, oracle


def test_alpha_is_chosen_on_validation_rows_alone(ctx, saved, queries, tmp_path) -> None:
    ctx = replace(ctx, work_dir=tmp_path)
    method, oracle = with_oracle(saved, ctx, valid_rows=12, alpha_grid=[1.0, 0.5])
    rankings = method.rank(queries, 10, ctx)
    valid = set(tiny_split().valid.example_id.tolist())
    assert len(oracle.asked) == 12 + len(queries)
    assert set(oracle.asked[:12]) <= valid
    assert oracle.asked[12:] == queries.example_id.tolist()

    facts = method.summary()["ensemble"]
    assert facts["alpha"] == 0.5
    assert facts["alpha_valid_rows"] == 12
    assert method.summary()["decoding"]["search"] == "beam"
    curve = {point["alpha"]: point["NDCG@10"] for point in facts["alpha_curve"]}
    assert curve[0.5] > curve[1.0] + 0.3
    fixed, _ = with_oracle(saved, ctx, alpha=0.5)
    assert lists(fixed.rank(queries, 10, ctx)) == lists(rankings)


def test_what_determines_the_partner_stands_in_the_configuration(tmp_path: Path) -> None:
    def completed(**ensemble) -> dict:
        return build_config(D3Config, {"ensemble": ensemble}, "test").ensemble.config

    assert completed(**POPULAR) == Popularity.config_class().model_dump(mode="json")
    file = tmp_path / "vectors.safetensors"
    partner = {"method": "alpharec", "config": {"embedding": "file", "vectors": str(file)}}
    contents = []
    for _ in range(2):
        write_item_vectors(file, tiny_catalog().ids, torch.randn(N_ITEMS, 4))
        contents.append(completed(**partner)["source_hash"])
    assert contents[0] != contents[1]
    with pytest.raises(ConfigError, match=r"'popularity': 1 problem\.\n  - cuont: unknown key"):
        completed(method="popularity", config={"cuont": 1})


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"alpha_grid": [0.5, 2.0]}, {"alpha_grid": [-0.1]}])
def test_alpha_is_a_share(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        build_config(D3Config, {"ensemble": {**POPULAR, **wrong}}, "test")


def test_of_equally_good_alphas_the_largest_is_taken(ctx, saved, queries, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("baselines.llm.d3.mean_ndcg", lambda rankings, target: 0.5)
    method, _ = with_oracle(saved, ctx, valid_rows=4, alpha_grid=[0.25, 0.75])
    method.rank(queries, 10, replace(ctx, work_dir=tmp_path))
    assert method.summary()["ensemble"]["alpha"] == 0.75


def test_a_resumed_run_asks_the_partner_and_the_model_nothing_again(ctx, saved, queries, tmp_path, monkeypatch) -> None:
    ctx = replace(ctx, work_dir=tmp_path)
    settings = {"valid_rows": 4, "alpha_grid": [1.0, 0.5]}
    method, _ = with_oracle(saved, ctx, **settings)
    expected = lists(method.rank(queries, 10, ctx))
    monkeypatch.setattr("recbench.llm.decode.beam_search", None)
    again, oracle = with_oracle(saved, ctx, **settings)
    assert lists(again.rank(queries, 10, ctx)) == expected
    assert oracle.asked == []


def test_an_interrupted_fit_does_not_fit_the_partner_again(ctx, tmp_path, monkeypatch) -> None:
    split, ctx = tiny_split(), replace(ctx, work_dir=tmp_path / "work")

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    config = build_config(D3Config, {"sft": SFT, "ensemble": POPULAR}, "x")
    with monkeypatch.context() as patch:
        patch.setattr("baselines.llm.tuned.fine_tune", die)
        with pytest.raises(KeyboardInterrupt):
            D3(config).fit(split.train, split.valid, ctx)
    monkeypatch.setattr(Popularity, "fit", die)
    resumed = D3(config)
    resumed.fit(split.train, split.valid, ctx)
    assert resumed._partner.method.counts.sum() == len(split.train)
    folder = tmp_path / "model"
    folder.mkdir()
    resumed.save(folder)
    loaded = D3.load(folder, config, ctx)
    assert np.array_equal(loaded._partner.method.counts, resumed._partner.method.counts)


def test_the_partner_sees_no_language_model_and_masks_nothing(ctx, saved, queries, tmp_path) -> None:
    ctx = replace(ctx, work_dir=tmp_path, mask_history=True)
    method, oracle = with_oracle(saved, ctx, alpha=0.5)
    seen = []
    rank = oracle.rank

    def watched(asked: Queries, k: int, own: RunContext) -> Rankings:
        seen.append((own.backbone, own.mask_history))
        return rank(asked, k, own)

    oracle.rank = watched
    rankings = method.rank(queries, 10, ctx)
    assert seen == [(None, False)]
    for row, scores in enumerate(lists(rankings)):
        assert not set(scores) & set(queries.history(row).tolist())
        assert len(scores) >= 10


def test_wrong_ensembles_are_refused() -> None:
    with pytest.raises(ConfigError, match="builds on a language model"):
        D3(build_config(D3Config, {"ensemble": {"method": "bigrec"}}, "x"))
    with pytest.raises(ConfigError, match="Did you mean 'popularity'"):
        D3(build_config(D3Config, {"ensemble": {"method": "popularty"}}, "x"))
    with pytest.raises(ConfigError, match=r"ensemble needs decoding\.mode=constrained"):
        build_config(D3Config, {"ensemble": POPULAR, "decoding": {"mode": "grounding"}}, "x")


def test_the_partners_packages_are_needed_too() -> None:
    method = D3(build_config(D3Config, {"ensemble": {"method": "sasrec"}, "decoding": {"beams": 7}}, "x"))
    assert {"transformers", "recbole"} <= set(method.capabilities.packages)
    assert method.capabilities.extra == "recbole"
    assert method.capabilities.max_places == 7
    assert D3(build_config(D3Config, {}, "x")).capabilities.extra is None
    assert BigRec(build_config(TunedConfig, {"decoding": {"mode": "grounding"}}, "x")).capabilities.max_places is None


def test_probabilities_by_hand() -> None:
    scores = np.array([[0.0, np.log(3.0), -np.inf], [-np.inf, -np.inf, -np.inf]])
    third = 1 / 3
    np.testing.assert_allclose(item_probabilities(scores, "softmax", 1.0), [[0.25, 0.75, 0], [third] * 3])
    np.testing.assert_allclose(
        item_probabilities(scores[:1], "softmax", 0.5), [[0.1, 0.9, 0]], err_msg="a low temperature sharpens"
    )
    counts = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(item_probabilities(counts, "proportional", 1.0), [[0.25, 0.75, 0], [third] * 3])
    np.testing.assert_allclose(item_probabilities(np.array([[1e4, 0.0]]), "softmax", 1.0), [[1.0, 0.0]])
    with pytest.raises(ConfigError, match="below 0"):
        item_probabilities(np.array([[-1.0, 2.0]]), "proportional", 1.0)


def test_an_answer_has_the_mass_of_all_its_items_and_untitled_items_have_none() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(answer_masses(probabilities, np.array([1, -1, 0, 1]), 3), [[0.3, 0.5, 0.0]])


def test_settings_state_what_alpha_is_chosen_on() -> None:
    settings = EnsembleSettings(method="popularity")
    assert settings.valid_rows == 200
    assert settings.alpha_grid[0] == 0.0
    assert settings.alpha_grid[-1] == 1.0
