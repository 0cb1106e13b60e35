"""Grounding: from written texts to nearest titles, with fixed texts in place of a model's and a real embedder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Queries
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.contracts.rankings import Rankings
from recbench.data.store import save_dataset
from recbench.experiment.config import ExperimentConfig
from recbench.experiment.plan import RunPlan, make_plan
from recbench.llm.background import Background
from recbench.llm.codec import TitleCodec
from recbench.llm.embed import embed_texts
from recbench.llm.facts import decoding_facts
from recbench.llm.generate import Generated
from recbench.llm.grounding import GroundingSettings, ground_titles
from recbench.llm.nearest import distances, item_scores, reweighted, unit_range
from recbench.llm.title_space import DistinctTitles, open_title_space
from recbench.llm.writer import TitleWriter
from recbench.methods.load import build_method
from recbench.testing.tiny import N_ITEMS, tiny_catalog, tiny_dataset, tiny_split
from recbench.testing.tiny_llm import make_tiny_llm

TITLES = tiny_catalog().titles
UNTITLED = 23


class Setting:
    """A writer whose texts are given: ``texts`` maps example ids to what it writes; others get the first title."""

    def __init__(self, folder: Path, llm: Path) -> None:
        spec = BackboneSpec(name=str(llm), revision="r1")
        self.ctx = RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", spec)
        self.writer = TitleWriter(AutoModelForCausalLM.from_pretrained(llm)).eval()
        self.codec = TitleCodec(AutoTokenizer.from_pretrained(llm), tiny_catalog())
        split = tiny_split()
        self.queries = split.test.take(range(4)).queries()
        self.background = Background.of(split.train, split.valid, N_ITEMS)
        self.texts: dict[int, str] = {}
        self.written: list[int] = []

    def generate_all(self, writer, codec, prompts, keys, settings, stop, folder, ctx) -> Generated:
        examples = [key[1] for key in keys]
        self.written += examples
        texts = [self.texts.get(example, f'"{TITLES[0]}"') for example in examples]
        return Generated([[]] * len(texts), [[]] * len(texts), texts, ["end"] * len(texts))

    def ground(self, k: int = 10, queries: Queries | None = None, **settings) -> Rankings:
        mask = settings.pop("mask_history", False)
        background = settings.pop("background", self.background)
        prompts = settings.pop("prompts", None)
        ctx = replace(self.ctx, mask_history=mask)
        return ground_titles(
            self.writer, self.codec, self.queries if queries is None else queries, k, GroundingSettings(**settings), 4,
            ctx.work_dir / "decode", ctx, background, prompts,
        )  # fmt: skip

    def write(self, *texts: str) -> None:
        self.texts = dict(zip(self.queries.example_id.tolist(), texts, strict=False))

    @property
    def facts(self) -> dict:
        return decoding_facts(self.ctx.work_dir / "decode")["grounding"]


@pytest.fixture
def setting(tmp_path: Path, tiny_llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    made = Setting(tmp_path, tiny_llm_folder)
    monkeypatch.setattr("recbench.llm.grounding.generate_all", made.generate_all)
    return made


def row(rankings: Rankings, number: int) -> dict[int, float]:
    part = slice(rankings.offsets[number], rankings.offsets[number + 1])
    return dict(zip(rankings.items[part].tolist(), rankings.scores[part].tolist(), strict=True))


def test_reweighting_by_hand() -> None:
    distance = np.array([[2.0, 4.0, 6.0], [1.0, 1.0, 1.0]])
    # Scaled distances 0, 1/2, 1; scaled popularities 0, 1, 1/4: (1 + c) ** -2 is 1, 1/4, 16/25.
    found = reweighted(distance, np.array([10, 50, 20]), 2.0)
    np.testing.assert_allclose(found, [[0.0, 0.125, 0.64], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(reweighted(distance, np.array([7, 7, 7]), 5.0), unit_range(distance))
    np.testing.assert_allclose(reweighted(distance, np.array([10, 50, 20]), 0.0), unit_range(distance))


def test_distances_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    texts, titles = torch.randn(3, 5, generator=generator), torch.randn(4, 5, generator=generator)
    slow = np.sqrt(((texts.numpy().astype(float)[:, None] - titles.numpy().astype(float)[None]) ** 2).sum(-1))
    np.testing.assert_allclose(distances(texts, titles), slow, rtol=1e-12)
    assert (np.diag(distances(titles, titles)) == 0).all()


def test_items_get_their_titles_distance_and_what_must_not_be_listed_none() -> None:
    queries = tiny_split().test.take([0, 1]).queries()
    title_of_item = np.zeros(N_ITEMS, dtype=np.int64)
    title_of_item[[4, 7]] = 1, -1
    distance = np.array([[0.5, 2.0], [0.0, 0.0]])
    scores = item_scores(queries, distance, title_of_item, np.array([True, False]), mask_history=False)
    assert scores[0, [0, 4, 7]].tolist() == [-0.5, -2.0, -np.inf]
    assert np.isneginf(scores[1]).all()
    masked = item_scores(queries, distance, title_of_item, np.array([True, True]), mask_history=True)
    assert np.isneginf(masked[0, queries.history(0)]).all()
    assert np.isfinite(masked[0]).sum() == N_ITEMS - len({7, *queries.history(0).tolist()})


def test_distinct_titles_share_by_their_stripped_text_and_counts_add_up() -> None:
    titles = DistinctTitles.of(tiny_catalog())
    assert len(titles.texts) == N_ITEMS - 2
    assert titles.of_item[5] == titles.of_item[17]
    assert titles.of_item[UNTITLED] == -1
    counts = np.arange(N_ITEMS)
    totals = titles.totals(counts)
    assert totals[titles.of_item[5]] == 5 + 17
    assert totals.sum() == counts.sum() - UNTITLED


def test_a_title_written_exactly_comes_first_with_all_its_items(setting: Setting) -> None:
    setting.write(f'"{TITLES[8]}"', f'  "{TITLES[5]}" ', TITLES[31], '"Café "Zoë": été"')
    rankings = setting.ground()
    rankings.check(setting.queries.example_id, N_ITEMS)
    assert [rankings.items[start] for start in rankings.offsets[:-1]] == [8, 5, 31, 50]
    assert row(rankings, 0)[8] == 0.0
    shared = row(rankings, 1)
    assert shared[5] == shared[17] == 0.0
    assert setting.facts["texts_that_are_titles"] == 4
    assert setting.facts["empty_texts"] == 0


def test_any_other_text_goes_to_its_nearest_titles(setting: Setting) -> None:
    setting.write("Silent Garten", "Golden", "The Very Long", "x")
    rankings = setting.ground(k=N_ITEMS)
    titles = DistinctTitles.of(tiny_catalog())
    vectors = embed_texts(setting.writer.lm, setting.codec.tokenizer, [*titles.texts, "Silent Garten"], "last")
    slow = np.linalg.norm(vectors[:-1].double().numpy() - vectors[-1].double().numpy(), axis=1)
    found = row(rankings, 0)
    assert len(found) == N_ITEMS - 1
    for item, score in found.items():
        assert score == pytest.approx(-slow[titles.of_item[item]], rel=1e-4)
    record = rankings.generations[0]
    assert record["text"] == "Silent Garten"
    assert record["titles"] == [titles.texts[t] for t in np.argsort(slow, kind="stable")[:10]]


def test_an_empty_text_has_an_empty_list(setting: Setting) -> None:
    setting.write(f'"{TITLES[8]}"', ' "" ', "", f'"{TITLES[9]}"')
    rankings = setting.ground()
    assert (rankings.lengths > 0).tolist() == [True, False, False, True]
    assert setting.facts["empty_texts"] == 2
    assert rankings.generations[1]["titles"] == []


def test_lists_have_the_places_asked_for_and_end_with_the_tie(setting: Setting) -> None:
    setting.write(*[f'"{TITLES[5]}"'] * 4)
    assert (setting.ground(k=1).lengths == 2).all()
    assert (setting.ground(k=25).lengths >= 25).all()
    assert (setting.ground(k=N_ITEMS).lengths == N_ITEMS - 1).all()


def test_history_is_left_out_where_asked_for(setting: Setting) -> None:
    seen = int(setting.queries.history(0)[0])
    setting.write(f'"{TITLES[seen]}"')
    assert seen in row(setting.ground(), 0)
    masked = setting.ground(mask_history=True)
    for number in range(len(setting.queries)):
        assert not set(row(masked, number)) & set(setting.queries.history(number).tolist())


def test_the_base_embedder_is_the_untuned_model_and_its_titles_are_kept(setting: Setting, monkeypatch) -> None:
    setting.write("Silent Garten", "Golden", "x", "y")
    before = setting.ground()
    with torch.no_grad():
        for parameter in setting.writer.parameters():
            parameter.mul_(torch.linspace(0.5, 1.5, parameter.shape[-1]))
    after = setting.ground()
    assert np.array_equal(before.items, after.items)
    assert np.array_equal(before.scores, after.scores)
    tuned = setting.ground(embedder="tuned")
    assert not np.allclose(tuned.scores[:10], before.scores[:10])

    # Titles alone need no model once they are cached.
    setting.write(*(f'"{TITLES[item]}"' for item in (1, 2, 3, 4)))
    monkeypatch.setattr("recbench.llm.title_space.reopen_backbone", None)
    assert [row(setting.ground(), number)[number + 1] for number in range(4)] == [0.0] * 4
    assert len(list((setting.ctx.cache_dir / "embeddings").iterdir())) == 1


def test_the_cache_does_not_mix_base_models(setting: Setting) -> None:
    def names(fingerprint: str, revision: str) -> set[str]:
        ctx = replace(setting.ctx, backbone=BackboneSpec(name=setting.ctx.backbone.name, revision=revision))
        open_title_space("base", setting.writer, setting.codec.tokenizer, fingerprint, tiny_catalog(), ctx).distances(
            ["x"]
        )
        return {path.name for path in (ctx.cache_dir / "embeddings").iterdir()}

    assert len(names("a", "r1")) == 1
    assert len(names("a", "r1")) == 1
    assert len(names("b", "r1")) == 2
    assert len(names("b", "r2")) == 3


def test_gamma_is_chosen_on_validation_rows_alone(setting: Setting) -> None:
    """Texts name the least popular title; the targets are the most popular ones, so a strong gamma must win."""
    counts = np.zeros(N_ITEMS, dtype=np.int64)
    counts[[10, 11]] = 90, 100
    valid = tiny_split().valid.take(range(8))
    valid = replace(valid, target=np.full(8, 11, dtype=np.int32))
    background = Background("f", counts, valid)
    settings = {"gamma": "validation", "gammas": [50.0, 0.0], "valid_rows": 5, "background": background}
    rankings = setting.ground(**settings)
    assert len(setting.written) == 5 + 4
    assert set(setting.written[:5]) <= set(valid.example_id.tolist())
    assert setting.written[5:] == setting.queries.example_id.tolist()
    facts = setting.facts
    assert facts["gamma"] == 50.0
    assert facts["gamma_valid_rows"] == 5
    assert [point["gamma"] for point in facts["gamma_curve"]] == [0.0, 50.0]
    # The title written stays first (distance 0), then come the most popular.
    assert list(row(rankings, 0))[:2] == [0, 11]
    assert facts["gamma_curve"][1]["NDCG@10"] == pytest.approx(1 / np.log2(3))
    fixed = setting.ground(gamma=50.0, background=background)
    assert np.array_equal(fixed.items, rankings.items)
    assert setting.facts["gamma"] == 50.0
    assert "gamma_curve" not in setting.facts


def test_of_equally_good_gammas_the_smallest_is_taken(setting: Setting) -> None:
    counts = np.zeros(N_ITEMS, dtype=np.int64)
    setting.ground(
        gamma="validation", gammas=[7.0, 3.0, 5.0], background=replace(setting.background, popularity=counts)
    )
    assert setting.facts["gamma"] == 3.0


def test_gamma_needs_validation_rows_and_the_usual_prompts(setting: Setting) -> None:
    nothing = replace(setting.background, valid=setting.background.valid.take([]))
    with pytest.raises(DataError, match="no validation rows"):
        setting.ground(gamma="validation", background=nothing)
    with pytest.raises(ConfigError, match="prompts hold more than the history"):
        setting.ground(gamma="validation", prompts=[[1, 2]] * 4)


@pytest.mark.parametrize("name", ["base", "cot", "cot-rl", "bigrec", "d3", "latentr3"])
def test_an_unknown_embedder_is_refused_by_the_configuration(name: str) -> None:
    decoding = {"mode": "grounding", "grounding": {"embedder": "bse"}}
    message = (
        r"decoding\.grounding\.embedder: 'bse' is no sentence encoder.* Did you mean 'base'\?\nChoose 'base', 'tuned'"
    )
    with pytest.raises(ConfigError, match=message):
        build_method(name, {"decoding": decoding})


def plan_with(embedder: str | Path, llm: Path, **grounding: str) -> RunPlan:
    decoding = {"mode": "grounding", "grounding": {"embedder": str(embedder), **grounding}}
    return make_plan(
        ExperimentConfig(method="bigrec", dataset="tiny", backbone=str(llm), config={"decoding": decoding})
    )


def test_the_content_of_the_embedder_is_part_of_the_run(tmp_path: Path, tiny_llm_folder: Path) -> None:
    save_dataset(tiny_dataset())
    encoder = make_tiny_llm(tmp_path / "encoder", TITLES, seed=1)
    before = plan_with(encoder, tiny_llm_folder)
    assert plan_with(encoder, tiny_llm_folder).run_id == before.run_id
    assert make_plan(ExperimentConfig(**before.resolved)).run_id == before.run_id
    make_tiny_llm(encoder, TITLES, seed=2)
    after = plan_with(encoder, tiny_llm_folder)
    assert after.run_id != before.run_id, "the same path with another content is another run"
    assert after.fit_id == before.fit_id, "but its fine-tuning is the same"
    with pytest.raises(DataError, match=r"has the content .*, not .*\n.*leave out decoding\.grounding\.embedder_hash"):
        make_plan(ExperimentConfig(**before.resolved))
    for own in ("base", "tuned"):
        settings = plan_with(own, tiny_llm_folder).method.config.decoding.grounding
        assert settings.embedder_hash is None
        with pytest.raises(DataError, match="has the content None"):
            plan_with(own, tiny_llm_folder, embedder_hash="abc")


def test_an_embedder_that_changed_since_the_plan_is_refused(setting: Setting, tmp_path: Path) -> None:
    encoder = make_tiny_llm(tmp_path / "encoder", TITLES, seed=1)
    planned = GroundingSettings(embedder=str(encoder)).model_dump()
    setting.ground(**planned).check(setting.queries.example_id, N_ITEMS)
    settings = GroundingSettings(**planned)
    make_tiny_llm(encoder, TITLES, seed=2)
    with pytest.raises(DataError, match="has the content"):
        ground_titles(
            setting.writer, setting.codec, setting.queries, 10, settings, 4, tmp_path / "decode", setting.ctx,
            setting.background,
        )  # fmt: skip


def test_a_real_model_writes_and_is_resumed(tmp_path: Path, tiny_llm_folder: Path, monkeypatch) -> None:
    setting = Setting(tmp_path, tiny_llm_folder)
    settings = {"max_new_tokens": 6, "beams": 2}
    first = setting.ground(**settings)
    assert setting.facts["truncated_texts"] == sum(record["truncated"] for record in first.generations)
    backwards = setting.queries.take([3, 2, 1, 0])
    for number, other in enumerate((3, 2, 1, 0)):
        again = setting.ground(queries=backwards, **settings)
        assert again.generations[number]["text"] == first.generations[other]["text"]
    monkeypatch.setattr("recbench.llm.generate.generate_text", None)
    resumed = setting.ground(**settings)
    assert np.array_equal(resumed.items, first.items)
    assert np.array_equal(resumed.scores, first.scores)


def test_background_comes_back_from_disk(tmp_path: Path) -> None:
    split = tiny_split()
    made = Background.of(split.train, split.valid, N_ITEMS)
    assert made.popularity.sum() == len(split.train)
    made.save(tmp_path)
    loaded = Background.load(tmp_path)
    assert loaded.train_fingerprint == split.train.fingerprint
    assert np.array_equal(loaded.popularity, made.popularity)
    assert loaded.valid.fingerprint == split.valid.fingerprint
    sample = loaded.valid_sample(7, 3, "x")
    assert len(sample) == 7
    assert sample.fingerprint == made.valid_sample(7, 3, "x").fingerprint
    assert sample.fingerprint != made.valid_sample(7, 4, "x").fingerprint
    assert len(loaded.valid_sample(None, 3, "x")) == len(split.valid)
