"""Base and CoT: what is asked, what is kept of the reasoning, and where the list comes from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from baselines.llm import reasoning
from baselines.llm.reasoning import (
    ANSWER_OPENING,
    answer_prompts,
    reasoning_facts,
    reasoning_prompts,
    reasoning_records,
)
from recbench.contracts.errors import ConfigError
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.contracts.rankings import Rankings
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.generate import BUDGET, END, Generated
from recbench.llm.prompt import INSTRUCTION_HEADER, RESPONSE_HEADER
from recbench.methods.load import build_method
from recbench.testing.method_checks import assert_method
from recbench.testing.tiny import tiny_catalog, tiny_split
from recbench.testing.tiny_llm import make_tiny_llm

FAST = {"reasoning": {"max_new_tokens": 6}, "decoding": {"beams": 4}}


def context(folder: Path, llm: Path) -> RunContext:
    return RunContext(tiny_catalog(), 3, "cpu", folder, folder, backbone=BackboneSpec(name=str(llm), requested="x"))


def fitted(name: str, ctx: RunContext, values: dict):
    split = tiny_split()
    method = build_method(name, values)
    method.fit(split.train, split.valid, ctx)
    return method


@pytest.fixture(scope="module")
def codec(tiny_llm_folder) -> TitleCodec:
    return TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())


@pytest.fixture
def chat_codec(tmp_path: Path) -> TitleCodec:
    folder = make_tiny_llm(tmp_path / "chat", tiny_catalog().titles, chat="instruct")
    return TitleCodec(AutoTokenizer.from_pretrained(folder), tiny_catalog(), template="chat")


def written(codec: TitleCodec, *rows: tuple[str, str]) -> Generated:
    """Texts with why they ended; tokens of the header and of the end stand in ``tokens`` only."""
    ids = [codec.tokenizer(text)["input_ids"] for text, _ in rows]
    return Generated([[*row, codec.eos] for row in ids], ids, [text for text, _ in rows], [end for _, end in rows])


def test_base_contract() -> None:
    assert_method("base", {"decoding": {"beams": 10}})


def test_cot_contract() -> None:
    assert_method("cot", {"reasoning": {"max_new_tokens": 3}, "decoding": {"beams": 10}})


def test_base_trains_nothing_and_asks_as_bigrec_does(tiny_llm_folder, tmp_path: Path) -> None:
    ctx = context(tmp_path, tiny_llm_folder)
    method = fitted("base", ctx, {"decoding": {"beams": 4}})
    queries = tiny_split().test.take(range(4)).queries()
    lists = method.rank(queries, 4, ctx)
    codec = TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())
    expected = rank_titles(method._writer, codec, queries, DecodingConfig(beams=4), tmp_path / "again", ctx)
    assert np.array_equal(lists.items, expected.items)
    assert method.summary()["prompt_version"] == "1"
    assert method.summary()["truncated_prompts"] == 0
    folder = tmp_path / "model"
    folder.mkdir()
    method.save(folder)
    assert not list(folder.rglob("*.safetensors"))
    assert method.fit_identity() is None


def test_the_reasoning_prompt_shows_the_history_and_asks_to_reason(codec, chat_codec) -> None:
    queries = tiny_split().test.take([5]).queries()
    titles = [tiny_catalog().titles[item] for item in queries.history(0) if tiny_catalog().titles[item]]
    listed = ", ".join(f'"{title}"' for title in titles)
    plain = codec.tokenizer.decode(reasoning_prompts(codec, queries).ids[0])
    assert plain.endswith(f"before: {listed}\n\n### Reasoning: \n")
    chat = chat_codec.tokenizer.decode(reasoning_prompts(chat_codec, queries).ids[0])
    assert chat.endswith(f"before: {listed}<|im_end|>\n<|im_start|>assistant\n")
    for text in (plain, chat):
        assert "step by step" in text
        assert f'"{RESPONSE_HEADER}"' in text


def test_the_answer_comes_after_the_reasoning_as_it_was_written_and_the_header(codec) -> None:
    texts = ['Likes "Silent Garden" and trains.', "", "Ends with a break.\n"]
    generated = written(codec, *((text, BUDGET) for text in texts))
    prompts = [[7, 8], [9], [5]]
    second = answer_prompts(codec, prompts, generated.ids)
    assert second[0][:2] == [7, 8]
    assert second[0][2 : 2 + len(generated.ids[0])] == generated.ids[0]
    shown = [codec.tokenizer.decode(ids[len(prompt) :]) for prompt, ids in zip(prompts, second, strict=True)]
    assert shown == [text.rstrip() + ANSWER_OPENING for text in texts]


def test_cot_ranks_by_the_answer_after_its_own_reasoning(tiny_llm_folder, tmp_path: Path, monkeypatch) -> None:
    ctx = context(tmp_path, tiny_llm_folder)
    method = fitted("cot", ctx, FAST)
    queries = tiny_split().test.take(range(3)).queries()
    codec = TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())
    title = tiny_catalog().titles[44]
    generated = written(
        codec, (f'Surely "{title}"', RESPONSE_HEADER), ("", END), ("Something else", INSTRUCTION_HEADER)
    )
    calls = []

    def scripted(writer, codec, prompts, keys, settings, stop, folder, ctx):
        calls.append(SimpleNamespace(prompts=prompts, keys=keys, stop=stop, settings=settings))
        return generated

    monkeypatch.setattr(reasoning, "generate_all", scripted)
    lists = method.rank(queries, 4, ctx)
    assert calls[0].prompts == reasoning_prompts(codec, queries).ids
    assert calls[0].settings.max_new_tokens == 6
    assert RESPONSE_HEADER in calls[0].stop
    prompts = answer_prompts(codec, calls[0].prompts, generated.ids)
    expected: Rankings = rank_titles(
        method._writer, codec, queries, DecodingConfig(beams=4), tmp_path / "again", ctx, prompts=prompts
    )
    assert np.array_equal(lists.items, expected.items)
    assert np.array_equal(lists.scores, expected.scores)
    assert lists.generations is not None
    assert [record["finish"] for record in lists.generations] == ["header", "end", "echo"]
    # The quoted title is reasoning: what is listed was scored after the header.
    assert lists.generations[0]["reasoning"] == f'Surely "{title}"'
    assert lists.generations[0]["titles"] == expected.generations[0]["titles"]
    facts = method.summary()
    lengths = [len(tokens) for tokens in generated.tokens]
    assert facts["mean_reasoning_tokens"] == pytest.approx(np.mean(lengths))
    assert facts["empty_rate"] == facts["header_rate"] == facts["echo_rate"] == pytest.approx(1 / 3)
    assert facts["truncation_rate"] == 0.0
    assert facts["prompt_version"] == "reasoning-1"


def test_an_instruct_model_reasons_and_answers_in_one_turn_of_a_chat(tmp_path: Path) -> None:
    ctx = context(tmp_path, make_tiny_llm(tmp_path / "llm", tiny_catalog().titles, kind="gemma", chat="instruct"))
    method = fitted("cot", ctx, FAST)
    lists = method.rank(tiny_split().test.take([0, 1]).queries(), 4, ctx)
    assert {key: method.summary()[key] for key in ("template", "prompt_version", "reasoning_rows")} == {
        "template": "chat",
        "prompt_version": "reasoning-chat-1",
        "reasoning_rows": 2,
    }
    assert lists.generations is not None
    assert all(len(record["titles"]) == 4 for record in lists.generations)


def test_a_repeated_prompt_and_a_spent_budget_are_counted(codec) -> None:
    rows = (
        ("Fine.", RESPONSE_HEADER),
        ("Then:\n", INSTRUCTION_HEADER),
        ('The user has chosen the following films before: "A"', BUDGET),
        (" \n", END),
    )
    records = reasoning_records(codec, written(codec, *rows))
    assert [record["finish"] for record in records] == ["header", "echo", "budget", "end"]
    assert [record["echo"] for record in records] == [False, True, True, False]
    assert [record["reasoning"] for record in records] == [text.strip() for text, _ in rows]
    facts = reasoning_facts(records)
    assert (facts["echo_rate"], facts["truncation_rate"], facts["empty_rate"]) == (0.5, 0.25, 0.25)
    assert reasoning_facts([]) == {"reasoning_rows": 0}


def test_grounding_after_the_reasoning(tiny_llm_folder, tmp_path: Path) -> None:
    ctx = context(tmp_path, tiny_llm_folder)
    values = {"reasoning": {"max_new_tokens": 3}, "decoding": {"mode": "grounding", "grounding": {"max_new_tokens": 5}}}
    method = fitted("cot", ctx, values)
    assert method.capabilities.max_places is None
    lists = method.rank(tiny_split().test.take([0, 1]).queries(), 20, ctx)
    assert lists.generations is not None
    assert {"reasoning", "titles"} <= set(lists.generations[0])


def test_a_chat_is_refused_where_the_model_has_no_template(tiny_llm_folder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        fitted("base", context(tmp_path, tiny_llm_folder), {"template": "chat"})
