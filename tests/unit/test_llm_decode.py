"""From queries to lists by exact search: full and true lists, masked histories, proofs on record, resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from baselines.llm.d3 import D3Decoding
from recbench.artifacts.tables import write_generations
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.examples import Queries, build_examples
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm import decode
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.exact import ExactSettings
from recbench.llm.facts import decoding_facts
from recbench.llm.lists import titles_of_history, titles_to_items
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import awkward_queries, tiny_catalog, tiny_split

EXACT = DecodingConfig(search="exact", beams=4, batch_size=3)


@pytest.fixture(scope="module")
def writer(tiny_llm_folder) -> TitleWriter:
    lm = AutoModelForCausalLM.from_pretrained(tiny_llm_folder).eval()
    with torch.no_grad():
        lm.get_input_embeddings().weight *= 12
    return TitleWriter(lm)


@pytest.fixture(scope="module")
def codec(tiny_llm_folder) -> TitleCodec:
    return TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())


@pytest.fixture(scope="module")
def queries() -> Queries:
    return awkward_queries(tiny_split()).queries()


def context(folder: Path, mask_history: bool = False) -> RunContext:
    return RunContext(tiny_catalog(), 0, "cpu", folder, folder, mask_history=mask_history)


@pytest.fixture(scope="module")
def true_scores(writer, codec, queries) -> np.ndarray:
    """Score of every item for every query, -inf for the one without a title; each title scored by itself."""
    answers = codec.answers
    labels = codec.pad_answers(answers.tokens)
    mask = (labels != -100).long()
    table = np.full((len(queries), len(codec.catalog)), -np.inf)
    for row, prompt in enumerate(codec.prompts(queries)):
        with torch.no_grad():
            prefix = writer.read(*codec.pad_prompts([prompt])).repeat(len(labels))
            sums = writer.answer_logprobs(prefix, labels.clamp(min=0), mask).double().sum(1) / mask.sum(1)
        titled = answers.of_item >= 0
        table[row, titled] = sums.numpy()[answers.of_item[titled]]
    return table


def expected_items(scores: np.ndarray, codec: TitleCodec, n_titles: int) -> set[int]:
    """Items of the best titles of one row, by plain sorting."""
    titles: list[int] = []
    for item in np.argsort(-scores, kind="stable"):
        answer = int(codec.answers.of_item[item])
        if np.isfinite(scores[item]) and answer not in titles:
            titles.append(answer)
    kept = titles[:n_titles]
    return {item for item in range(len(scores)) if np.isfinite(scores[item]) and codec.answers.of_item[item] in kept}


def listed(rankings: Rankings, row: int) -> list[int]:
    return rankings.items[rankings.offsets[row] : rankings.offsets[row + 1]].tolist()


def test_lists_are_the_true_best_and_their_proof_is_on_record(writer, codec, queries, true_scores, tmp_path) -> None:
    rankings = rank_titles(writer, codec, queries, EXACT, tmp_path / "decode", context(tmp_path))
    rankings.check(queries.example_id, len(codec.catalog))
    for row in range(len(queries)):
        assert set(listed(rankings, row)) == expected_items(true_scores[row], codec, 4)
        scores = rankings.scores[rankings.offsets[row] : rankings.offsets[row + 1]]
        np.testing.assert_allclose(scores, true_scores[row, listed(rankings, row)], atol=1e-4)
    assert rankings.generations is not None
    for record, example in zip(rankings.generations, queries.example_id, strict=True):
        assert record["example_id"] == example
        assert len(record["titles"]) == len(record["scores"]) == 4
        assert (record["proven"], record["bound"]) == (True, None)
        assert record["expansions"] >= 4
    write_generations(tmp_path / "generations.jsonl", rankings.generations)
    facts = decoding_facts(tmp_path / "decode")["decoding"]
    assert (facts["search"], facts["titles_wanted"], facts["short_lists"], facts["empty_lists"]) == ("exact", 4, 0, 0)
    assert (facts["proven_share"], facts["not_proven"]) == (1.0, 0)
    assert facts["mean_expansions"] == np.mean([record["expansions"] for record in rankings.generations])


@pytest.mark.parametrize("n_titles", [4, 45])
def test_masked_lists_are_the_true_best_of_what_is_left(
    writer, codec, queries, true_scores, tmp_path, n_titles: int
) -> None:
    config = EXACT.model_copy(update={"beams": n_titles})
    rankings = rank_titles(writer, codec, queries, config, tmp_path / "decode", context(tmp_path, mask_history=True))
    for row in range(len(queries)):
        left = true_scores[row].copy()
        left[queries.history(row)] = -np.inf
        assert set(listed(rankings, row)) == expected_items(left, codec, n_titles)


def test_a_title_is_masked_only_if_all_of_its_items_are_in_the_history(codec) -> None:
    histories = [[5, 3, 3], [5, 17, 23], [23]]
    queries = build_examples([0, 1, 2], [0, 1, 2], [0, 0, 0], histories, [0, 0, 0]).queries()
    of_item = codec.answers.of_item
    table = [sorted(row[row >= 0].tolist()) for row in titles_of_history(codec, queries)]
    assert table == [[of_item[3]], [of_item[5]], []]


@pytest.mark.parametrize("mask_history", [False, True])
def test_an_unproven_list_says_so_and_is_no_worse_than_beams(
    writer, codec, queries, tmp_path, mask_history: bool
) -> None:
    config = EXACT.model_copy(update={"exact": ExactSettings(max_expansions=5)})
    ctx = context(tmp_path, mask_history=mask_history)
    rankings = rank_titles(writer, codec, queries, config, tmp_path / "decode", ctx)
    beams = rank_titles(
        writer, codec, queries, config.model_copy(update={"search": "beam"}), tmp_path / "beam", ctx
    )  # fmt: skip
    for row in range(len(queries)):
        assert set(listed(beams, row)) <= set(listed(rankings, row)), "five tokens finish no title that is better"
    assert rankings.generations is not None
    for record in rankings.generations:
        assert not record["proven"]
        assert record["bound"] <= 0
        assert record["expansions"] <= 5
    facts = decoding_facts(tmp_path / "decode")["decoding"]
    assert (facts["proven_share"], facts["not_proven"]) == (0.0, len(queries))
    assert facts["empty_lists"] == 0
    assert facts["short_lists"] == decoding_facts(tmp_path / "beam")["decoding"]["short_lists"]


@pytest.mark.parametrize("search", ["beam", "exact"])
def test_finished_shards_are_not_decoded_again(writer, codec, queries, tmp_path, monkeypatch, search: str) -> None:
    config = EXACT.model_copy(update={"search": search})
    first = rank_titles(writer, codec, queries, config, tmp_path / "decode", context(tmp_path))
    facts = decoding_facts(tmp_path / "decode")

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decode, f"{search}_search", fail)
    second = rank_titles(writer, codec, queries, config, tmp_path / "decode", context(tmp_path))
    np.testing.assert_array_equal(second.items, first.items)
    np.testing.assert_array_equal(second.scores, first.scores)
    assert second.generations == first.generations
    assert decoding_facts(tmp_path / "decode") == facts
    with pytest.raises(AssertionError, match="decoded again"):
        rank_titles(writer, codec, queries, config, tmp_path / "decode", context(tmp_path, mask_history=True))


def test_a_list_goes_on_to_the_end_of_a_tie(codec) -> None:
    queries = build_examples([7], [0], [0], [[3]], [0]).queries()
    sequence, score = np.array([[2, 0, 1, 4]]), np.array([[-1.0, -2.0, -2.0, -3.0]])
    rankings = titles_to_items(sequence, score, codec, queries, 2, mask_history=False)
    assert codec.answers.of_item[listed(rankings, 0)].tolist() == [2, 0, 1]
    assert rankings.scores.tolist() == [-1.0, -2.0, -2.0]


def test_free_text_cannot_be_searched_exactly() -> None:
    with pytest.raises(ConfigError, match=r"search=exact looks for titles .* mode=grounding writes free text"):
        build_config(DecodingConfig, {"mode": "grounding", "search": "exact"}, "decoding")
    with pytest.raises(ConfigError, match="beam"):
        build_config(DecodingConfig, {"search": "best"}, "decoding")


@pytest.mark.parametrize("penalty", [11, -11, ".nan", float("inf")])
@pytest.mark.parametrize("config", [DecodingConfig, D3Decoding])
def test_a_length_penalty_that_no_score_can_bear_is_refused(config, penalty) -> None:
    with pytest.raises(ConfigError, match="length_penalty"):
        build_config(config, {"length_penalty": penalty}, "test")
