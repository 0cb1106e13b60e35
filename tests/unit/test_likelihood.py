"""The likelihood of the true titles: its numbers, where they are kept, and what they are used for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_runs import make_run
from transformers import AutoTokenizer

from recbench.artifacts.store import RunStore
from recbench.artifacts.tables import read_likelihood, write_likelihood
from recbench.contracts.errors import ArtifactError, UsageError
from recbench.contracts.examples import Examples
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.data.split import make_split
from recbench.experiment.compare import compare
from recbench.experiment.evaluate import write_evaluation
from recbench.experiment.pairs import CompareOptions
from recbench.experiment.report import collect
from recbench.llm.codec import TitleCodec
from recbench.methods.load import build_method
from recbench.stats.equivalence import parse_margin
from recbench.testing.tiny import tiny_catalog, tiny_dataset, tiny_split

SFT = {"epochs": 1, "batch_size": 8, "micro_batch_size": 8, "max_rows": 16, "eval_rows": 8, "learning_rate": 1e-3}


def fitted(name: str, values: dict, folder: Path, llm: Path):
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder, folder, backbone=BackboneSpec(name=str(llm), requested="x"))
    split = tiny_split()
    method = build_method(name, values)
    method.fit(split.train, split.valid, ctx)
    return method, ctx


def titled(examples: Examples) -> np.ndarray:
    return np.array([bool(tiny_catalog().titles[item].strip()) for item in examples.target])


@torch.no_grad()
def test_it_is_the_log_probability_of_the_title_after_the_prompt(tiny_llm_folder, tmp_path: Path) -> None:
    method, ctx = fitted("base", {"decoding": {"beams": 4, "batch_size": 3}}, tmp_path, tiny_llm_folder)
    examples = tiny_split().test.take(range(7))
    found = method.likelihood(examples, ctx)
    found.check(7)
    codec = TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())
    lm = method._writer.lm
    for row, prompt in enumerate(codec.prompts(examples.queries())):
        answer = list(codec.answers.tokens[codec.answers.of_item[examples.target[row]]])
        logits = lm(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum()
        assert found.logprob[row] == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
        assert found.tokens[row] == len(answer)
    assert ctx.timings_s["likelihood"] > 0


def test_a_target_without_title_has_none(tiny_llm_folder, tmp_path: Path) -> None:
    method, ctx = fitted("base", {"decoding": {"beams": 4}}, tmp_path, tiny_llm_folder)
    titles = tiny_catalog().titles
    untitled = next(item for item, title in enumerate(titles) if not title.strip())
    examples = tiny_split().test.take(range(4))
    examples = replace(examples, target=np.where(np.arange(4) == 2, untitled, examples.target))
    found = method.likelihood(examples, ctx)
    found.check(4)
    assert np.isnan(found.logprob).tolist() == (~titled(examples)).tolist()
    assert np.isnan(found.logprob[2])
    assert found.tokens[2] == 0


def test_bigrec_and_d3_have_one_likelihood_and_a_thought_changes_it(tiny_llm_folder, tmp_path: Path) -> None:
    examples = tiny_split().test.take(range(5))
    found = {}
    for name, values in {
        "bigrec": {},
        "d3": {},
        "latentr3": {"rl": {"enabled": False}},
        "masked": {"rl": {"enabled": False}, "thought_at_inference": "masked"},
    }.items():
        method_name = "latentr3" if name == "masked" else name
        values = {"sft": SFT, "decoding": {"beams": 4}, **values}
        method, ctx = fitted(method_name, values, tmp_path / name, tiny_llm_folder)
        found[name] = method.likelihood(examples, ctx).logprob
    assert np.array_equal(found["bigrec"], found["d3"])
    for one, other in (("bigrec", "latentr3"), ("latentr3", "masked")):
        assert not np.allclose(found[one], found[other], atol=1e-4)


def test_methods_without_probabilities_of_titles_have_none(tiny_llm_folder, tmp_path: Path) -> None:
    method, ctx = fitted("popularity", {}, tmp_path, tiny_llm_folder)
    assert method.likelihood(tiny_split().test, ctx) is None


@pytest.mark.parametrize(
    ("logprob", "tokens", "message"),
    [
        ([-1.0], [1], r"shapes \(1,\)"),
        ([-1.0, np.nan], [1, 2], "number 1 is nan with 2 tokens"),
        ([-1.0, -2.0], [1, 0], r"number 1 is -2\.0 with 0 tokens"),
        ([-np.inf, -1.0], [1, 1], "number 0 is -inf"),
        ([-1.0, 0.5], [1, 1], r"number 1 is 0\.5"),
    ],
)
def test_what_cannot_be_a_likelihood_is_refused(logprob: list[float], tokens: list[int], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Likelihood(np.array(logprob), np.array(tokens)).check(2)


def test_the_file_survives_and_belongs_to_its_examples(tmp_path: Path) -> None:
    path, ids = tmp_path / "likelihood.parquet", np.array([4, 9])
    write_likelihood(path, Likelihood(np.array([-1.5, np.nan]), np.array([3, 0])), ids)
    found = read_likelihood(path, ids)
    np.testing.assert_array_equal(found.logprob, [-1.5, np.nan])
    assert found.tokens.tolist() == [3, 0]
    with pytest.raises(ArtifactError, match="examples of this split"):
        read_likelihood(path, ids[::-1])
    path.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_likelihood(path, ids)


@pytest.fixture
def two_runs(tmp_path: Path):
    """Two runs whose likelihoods differ by half a nat for every title; one target in ten has no title."""
    dataset = tiny_dataset()
    runs = {}
    for name, gain in (("better", 0.5), ("worse", 0.0)):
        run = make_run(tmp_path / "runs", name, quality=0.5, seed=1)
        split = make_split(dataset, run.manifest.protocol)
        n = len(split.test)
        gaps = np.arange(n) % 10 == 3
        logprob = np.where(gaps, np.nan, gain - 5.0 - np.arange(n) % 4)
        likelihood = Likelihood(logprob, np.where(gaps, 0, 4))
        write_likelihood(run.paths.likelihood, likelihood, split.test.example_id)
        write_evaluation(run.paths, run.rankings(dataset.catalog), dataset, split, run.manifest.protocol, {})
        runs[name] = run.update_hashes([run.paths.likelihood, run.paths.metrics, run.paths.summary])
    return RunStore(tmp_path / "runs"), runs, gaps


def test_differences_are_tested_over_titled_targets(two_runs) -> None:
    store, runs, gaps = two_runs
    comparison = compare(store, ["better", "worse"], metric="ll", truth="title")
    assert comparison.metric == "LL"
    pair = comparison.pairs[0]
    assert (pair.a, pair.difference) == ("better", pytest.approx(0.5))
    summary = runs["worse"].summary()["likelihood"]
    expected = (-5.0 - np.arange(len(gaps)) % 4)[~gaps]
    assert summary["titles"] == int((~gaps).sum())
    assert summary["LL"] == pytest.approx(expected.mean())
    assert summary["tokens"] == 4.0
    assert summary["perplexity"] == pytest.approx(np.exp(-expected.mean() / 4))


def test_it_is_no_metric_of_the_exact_item_nor_of_runs_without_it(two_runs, tmp_path: Path) -> None:
    store, _, _ = two_runs
    with pytest.raises(UsageError, match="Unknown metric 'LL'"):
        compare(store, ["better", "worse"], metric="LL")
    make_run(tmp_path / "runs", "plain")
    with pytest.raises(UsageError, match="has no LL: it kept no probabilities of titles"):
        compare(RunStore(tmp_path / "runs"), ["better", "plain"], metric="LL", truth="title")


def test_equivalence_is_not_tested_without_bounds(two_runs) -> None:
    store, _, _ = two_runs
    with pytest.raises(UsageError, match="has no such bounds"):
        compare(
            store, ["better", "worse"], metric="LL", truth="title", options=CompareOptions(margin=parse_margin("1%"))
        )


def test_the_report_shows_it_for_the_entries_that_have_it(two_runs, tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "plain")
    document = collect(RunStore(tmp_path / "runs"))
    (section,) = (one for one in document.groups[0].sections if one.slug == "likelihood")
    entries, pairs = section.tables
    assert [row.values["label"] for row in entries.rows] == ["better", "worse"]
    assert [row.values["difference"] for row in pairs.rows] == [pytest.approx(-0.5)]
    n_items = len(tiny_catalog().titles)
    assert f"worth {-np.log(n_items):.2f}" in section.paragraphs[0]
    (leaderboard,) = (one for one in document.groups[0].sections if one.slug == "leaderboard")
    assert len(leaderboard.tables[0].rows) == 3
    assert not any("LL" in column.key for column in leaderboard.tables[0].columns)


def test_a_report_without_it_has_no_such_section(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "plain")
    document = collect(RunStore(tmp_path / "runs"))
    assert all(section.slug != "likelihood" for section in document.groups[0].sections)
