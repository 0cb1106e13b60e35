"""Prompts and answers as tokens."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from recbench.contracts.dataset import ItemCatalog, title_key
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import build_examples
from recbench.llm.codec import TitleCodec
from recbench.testing.tiny import tiny_catalog


@pytest.fixture(scope="module")
def codec(tiny_llm_folder):
    return TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())


def test_answers_decode_to_quoted_titles_and_cover_every_titled_item(codec) -> None:
    catalog, answers = tiny_catalog(), codec.answers
    for number, title in enumerate(catalog.titles):
        answer = answers.of_item[number]
        if not title:
            assert answer == -1
            continue
        *written, end = answers.tokens[answer]
        assert end == codec.eos
        assert codec.tokenizer.decode(written) == f'"{title_key(title)}"\n'
        assert number in answers.items[answers.item_offsets[answer] : answers.item_offsets[answer + 1]]


def test_items_that_share_a_title_share_an_answer(codec) -> None:
    answers = codec.answers
    shared = answers.of_item[5]
    assert answers.of_item[17] == shared
    assert answers.items[answers.item_offsets[shared] : answers.item_offsets[shared + 1]].tolist() == [5, 17]


def test_prompt_holds_titles_oldest_first_and_leaves_out_untitled_items(codec) -> None:
    catalog = tiny_catalog()
    queries = build_examples([0], [0], [0], [[3, 23, 8]], [1]).queries()
    text = codec.tokenizer.decode(codec.prompts(queries)[0])
    assert f'"{catalog.titles[3]}", "{catalog.titles[8]}"\n' in text
    assert text.endswith("### Response: \n")
    assert "films" in text


def test_long_prompts_lose_their_oldest_titles_and_nothing_else(tiny_llm_folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm_folder)
    whole = TitleCodec(tokenizer, tiny_catalog())
    queries = build_examples(range(2), [0, 0], [0, 1], [list(range(10)), [7, 8, 9]], [1, 1]).queries()
    long, three = whole.prompts(queries)
    short = TitleCodec(tokenizer, tiny_catalog(), max_prompt_tokens=len(three)).encode(queries)
    assert short.ids == [three, three]
    assert short.truncated.tolist() == [True, False]
    assert not whole.encode(queries).truncated.any()
    assert TitleCodec(tokenizer, tiny_catalog(), max_prompt_tokens=len(long) - 1).prompts(queries)[1] == three


def test_one_title_that_does_not_fit_loses_its_last_tokens(tiny_llm_folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm_folder)
    queries = build_examples([0], [0], [0], [[3, 31]], [1]).queries()
    (one,) = TitleCodec(tokenizer, tiny_catalog()).prompts(queries.take([0]))
    (bare,) = TitleCodec(tokenizer, ItemCatalog(tuple("ab"), ("", "x"), "films")).prompts(
        build_examples([0], [0], [0], [[0]], [1]).queries()
    )
    limit = len(bare) + 9
    assert limit < len(one)
    cut = TitleCodec(tokenizer, tiny_catalog(), max_prompt_tokens=limit).encode(queries)
    text = tokenizer.decode(cut.ids[0])
    assert len(cut.ids[0]) == limit
    assert cut.truncated.tolist() == [True]
    assert 'before: "The Very Long' in text
    assert text.endswith('"\n\n### Response: \n')
    assert text.startswith(tokenizer.decode(bare)[:200])


def test_a_limit_below_the_prompt_without_titles_is_refused(tiny_llm_folder) -> None:
    codec = TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog(), max_prompt_tokens=20)
    with pytest.raises(ConfigError, match="max_prompt_tokens is 20, but the prompt has"):
        codec.prompts(build_examples([0], [0], [0], [[3]], [1]).queries())


def test_padding_sides(codec) -> None:
    ids, mask = codec.pad_prompts([[7, 8, 9], [5]])
    assert ids.tolist() == [[7, 8, 9], [codec.eos, codec.eos, 5]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert codec.pad_answers([[7], [5, 6]]).tolist() == [[7, -100], [5, 6]]


def test_catalogue_without_titles_is_refused(tiny_llm_folder) -> None:
    with pytest.raises(DataError, match="No item"):
        TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), ItemCatalog(("a", "b"), ("", " ")))
