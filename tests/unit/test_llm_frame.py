"""What stands around a prompt: BOS, chat template, end token."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import build_examples
from recbench.llm.codec import TitleCodec, end_ids_of
from recbench.llm.frame import make_frame
from recbench.llm.tokens import encode_plain
from recbench.testing.tiny import tiny_catalog
from recbench.testing.tiny_llm import KINDS, make_tiny_llm

BOS = {"qwen2": [], "llama2": ["<s>"], "llama3": ["<|begin_of_text|>"], "gemma": ["<bos>"]}
OPENING = {
    "qwen2": "<|im_start|>user\n",
    "llama2": "<s> [INST] ",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
    "gemma": "<bos><start_of_turn>user\n",
}
CLOSING = {
    "qwen2": "<|im_end|>\n<|im_start|>assistant\n",
    "llama2": " [/INST]",
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
}
QUERIES = build_examples(range(2), [0, 0], [0, 1], [list(range(10)), [8, 9]], [1, 1]).queries()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind: str, chat: str):
        if (kind, chat) not in made:
            path = tmp_path_factory.mktemp("llm")
            made[kind, chat] = make_tiny_llm(path, tiny_catalog().titles, kind=kind, chat=chat)
        return made[kind, chat]

    return folder


def open_codec(folder, **settings) -> TitleCodec:
    ends = end_ids_of(AutoModelForCausalLM.from_pretrained(folder))
    return TitleCodec(AutoTokenizer.from_pretrained(folder), tiny_catalog(), model_ends=ends, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_prompt_begins_as_the_tokenizer_begins_any_text(folders, kind: str) -> None:
    codec = open_codec(folders(kind, "none"))
    prompt = codec.prompts(QUERIES)[0]
    text = "A task is described below, together with an input."
    natural = codec.tokenizer(text)["input_ids"]
    assert prompt[: len(natural)] == natural
    special = [token for token in prompt if token in codec.tokenizer.all_special_ids]
    assert codec.tokenizer.convert_ids_to_tokens(special) == BOS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_prompt_is_one_turn_of_the_user_and_the_opening_of_the_answer(folders, kind: str) -> None:
    codec = open_codec(folders(kind, "instruct"))
    prompt = codec.prompts(QUERIES)[1]
    text = codec.tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
    titles = tiny_catalog().titles
    assert text.startswith(f"{OPENING[kind]}Here is a list of films")
    assert text.endswith(f'before: "{titles[8]}", "{titles[9]}"{CLOSING[kind]}')
    content = text[len(OPENING[kind]) : -len(CLOSING[kind])]
    rendered = codec.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    special = set(codec.tokenizer.all_special_ids) | set(codec.tokenizer.added_tokens_decoder)
    assert [t for t in prompt if t in special] == [t for t in rendered if t in special]
    assert prompt[: len(codec.frame.head)] == rendered[: len(codec.frame.head)]


@pytest.mark.parametrize("kind", ["qwen2", "llama3", "gemma"])
def test_a_base_model_with_a_chat_template_gets_the_plain_prompt(folders, kind: str) -> None:
    base = folders(kind, "base")
    assert open_codec(base).frame == open_codec(base, template="alpaca").frame
    assert open_codec(base, template="chat").frame.template == "chat"


def test_gemma_tells_that_it_is_an_instruct_model_by_its_generation_settings_alone(folders) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders("gemma", "instruct"))
    turn_end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert make_frame(tokenizer, "auto").template == "alpaca"
    assert make_frame(tokenizer, "auto", [tokenizer.eos_token_id, turn_end]).template == "chat"


def test_free_text_ends_with_the_turn_or_with_the_text(folders) -> None:
    codec = open_codec(folders("gemma", "instruct"))
    assert codec.tokenizer.convert_ids_to_tokens(list(codec.end_ids)) == ["<end_of_turn>", "<eos>"]


def test_a_chat_needs_a_template_that_shows_messages(folders) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders("qwen2", "none"))
    with pytest.raises(ConfigError, match="no chat template"):
        make_frame(tokenizer, "chat")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    assert make_frame(tokenizer, "alpaca").template == "alpaca"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | length }}{% endfor %}"
    with pytest.raises(DataError, match="does not show a message"):
        make_frame(tokenizer, "chat")
    tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(DataError, match="no such role"):
        make_frame(tokenizer, "chat")


def test_a_template_that_tells_the_date_tells_the_same_one_every_day(folders) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders("qwen2", "instruct"))
    plain = tokenizer.chat_template
    tokenizer.chat_template = "26 Jul 2024, 2024-07-26\n" + plain
    expected = make_frame(tokenizer, "chat")
    tokenizer.chat_template = (
        """{% if not date is defined %}{% set date = strftime_now( '%d %b %Y' ) %}{% endif %}
{{- date }}, {{ strftime_now("%Y-%m-%d") }}\n"""
        + plain
    )
    assert make_frame(tokenizer, "chat") == expected
    tokenizer.chat_template = "{% set day = '%d' %}{{ strftime_now(day) }}" + plain
    with pytest.raises(DataError, match="today's date"):
        make_frame(tokenizer, "chat")


def test_a_template_without_bos_gets_the_one_that_the_tokenizer_adds(folders) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders("gemma", "instruct"))
    with_bos = make_frame(tokenizer, "chat").head
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    assert make_frame(tokenizer, "chat").head == with_bos


@pytest.mark.parametrize("chat", ["none", "instruct"])
@pytest.mark.parametrize("kind", KINDS)
def test_long_prompts_keep_head_and_tail_and_the_latest_titles(folders, kind: str, chat: str) -> None:
    folder = folders(kind, chat)
    long, two = open_codec(folder).prompts(QUERIES)
    cut = open_codec(folder, max_prompt_tokens=len(two)).encode(QUERIES)
    assert cut.ids == [two, two]
    assert cut.truncated.tolist() == [True, False]
    assert len(open_codec(folder, max_prompt_tokens=len(long) - 1).prompts(QUERIES)[0]) < len(long)


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_in_a_title_of_the_history_are_text(folders, kind: str) -> None:
    folder = folders(kind, "instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    title = " ".join(tokenizer.convert_ids_to_tokens(tokenizer.all_special_ids)) + " <|im_start|> <end_of_turn>"
    ends = end_ids_of(AutoModelForCausalLM.from_pretrained(folder))
    plain, named = (
        TitleCodec(tokenizer, ItemCatalog(("a", "b"), (text, "B"), "films"), model_ends=ends).prompts(
            build_examples([0], [0], [0], [[0]], [1]).queries()
        )[0]
        for text in ("A", title)
    )
    special = set(tokenizer.added_tokens_decoder)
    assert [t for t in named if t in special] == [t for t in plain if t in special]
    assert title in tokenizer.decode(named, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_in_the_middle_of_a_text_get_no_blank_of_their_own(folders, kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders(kind, "none"))
    (ids,) = encode_plain(tokenizer, ["Golden Letter"])
    (before,) = encode_plain(tokenizer, ["x"])
    assert tokenizer.decode([*before, *ids], clean_up_tokenization_spaces=False) == "xGolden Letter"
    assert encode_plain(tokenizer, []) == []
