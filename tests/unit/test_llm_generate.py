"""Free generation against a slow loop, and what ends, draws and survives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from latent.attention import LatentAttention
from latent.reasoner import LatentWriter
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import numpy_rng
from recbench.llm.codec import TitleCodec
from recbench.llm.generate import BUDGET, DONE, END, GenerationSettings, generate_all, generate_text, write_after
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split

BUDGET_TOKENS = 10


@pytest.fixture(scope="module")
def setting(tiny_llm_folder):
    lm = AutoModelForCausalLM.from_pretrained(tiny_llm_folder).eval()
    # Sharper than random weights and not tied, so that the likeliest token is not always the last one again.
    generator = torch.Generator().manual_seed(1)
    lm.lm_head.weight = torch.nn.Parameter(torch.randn(lm.lm_head.weight.shape, generator=generator) * 0.6)
    codec = TitleCodec(AutoTokenizer.from_pretrained(tiny_llm_folder), tiny_catalog())
    prompts = codec.prompts(tiny_split().test.take([0, 9, 20, 40]).queries())
    prompts = [prompts[0], prompts[1][-30:], prompts[2][-7:], prompts[3]]
    return TitleWriter(lm), codec, prompts


def write(setting, rows=slice(None), stop=(), seed=0, keys=None, end_ids=None, **settings):
    writer, codec, prompts = setting
    ids, mask = codec.pad_prompts(prompts[rows])
    settings = GenerationSettings(**{"max_new_tokens": BUDGET_TOKENS, **settings})
    return generate_text(writer, codec.tokenizer, ids, mask, settings, stop, seed, keys, end_ids)


@torch.no_grad()
def next_logprobs(lm, tokens: list[int]) -> torch.Tensor:
    return lm(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)


def slow_greedy(lm, prompt: list[int], n_tokens: int) -> list[int]:
    tokens: list[int] = []
    for _ in range(n_tokens):
        tokens.append(int(next_logprobs(lm, [*prompt, *tokens]).argmax()))
    return tokens


def test_greedy_is_the_likeliest_token_each_time_whatever_the_batch(setting) -> None:
    writer, codec, prompts = setting
    together = write(setting)
    for row, prompt in enumerate(prompts):
        expected = slow_greedy(writer.lm, prompt, BUDGET_TOKENS)
        assert together.tokens[row] == together.ids[row] == expected
        assert write(setting, slice(row, row + 1)).tokens[0] == expected
        assert together.texts[row] == codec.tokenizer.decode(expected)
    assert len({tuple(tokens) for tokens in together.tokens}) > 1
    assert together.finish == [BUDGET] * 4
    assert together.truncated.all()
    assert together.n_tokens.tolist() == [BUDGET_TOKENS] * 4


def test_an_end_token_ends_its_row_alone(setting) -> None:
    _, _, prompts = setting
    whole = write(setting)
    end = whole.tokens[1][4]
    cut = write(setting, end_ids=[end])
    for row in range(len(prompts)):
        if end in whole.tokens[row]:
            place = whole.tokens[row].index(end)
            assert cut.tokens[row] == whole.tokens[row][: place + 1]
            assert cut.ids[row] == whole.tokens[row][:place]
            assert cut.finish[row] == END
        else:
            assert cut.tokens[row] == whole.tokens[row]
            assert cut.finish[row] == BUDGET
    assert cut.n_tokens[1] <= 5


@pytest.mark.parametrize("row", range(4))
def test_a_stop_string_is_cut_off_and_counted(setting, row: int) -> None:
    _, codec, _ = setting
    whole = write(setting)
    # A stop that ends in the middle of a later token, and begins in the middle of an earlier one where they are long.
    text = whole.texts[row]
    stop = text[len(text) // 3 : 2 * len(text) // 3]
    cut = write(setting, stop=[stop, "never written"])
    place = text.find(stop)
    assert cut.finish[row] == stop
    assert text[:place].startswith(cut.texts[row])
    assert cut.texts[row] == codec.tokenizer.decode(cut.ids[row])
    assert whole.tokens[row][: len(cut.tokens[row])] == cut.tokens[row]
    assert stop in codec.tokenizer.decode(cut.tokens[row])
    assert stop not in codec.tokenizer.decode(cut.tokens[row][:-1])
    next_text = codec.tokenizer.decode(whole.tokens[row][: len(cut.ids[row]) + 1])
    assert len(next_text) > place
    assert not cut.truncated[row]


def test_a_stop_string_of_the_prompt_does_not_stop(setting) -> None:
    assert write(setting, stop=["### Response:"]).finish == [BUDGET] * 4


def test_beams_are_those_of_plain_generate(setting) -> None:
    writer, codec, prompts = setting
    ids, mask = codec.pad_prompts(prompts)
    config = GenerationConfig(
        max_new_tokens=BUDGET_TOKENS, num_beams=3, eos_token_id=codec.eos, pad_token_id=codec.eos, do_sample=False
    )
    plain = writer.lm.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
    assert write(setting, beams=3).tokens == plain.tolist()
    assert write(setting, beams=3).tokens != write(setting).tokens


def test_settings_that_come_with_the_model_are_not_used(setting, monkeypatch) -> None:
    writer, *_ = setting
    expected = write(setting).tokens
    own = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0, no_repeat_ngram_size=1)
    monkeypatch.setattr(writer.lm, "generation_config", own)
    assert write(setting).tokens == expected
    assert writer.lm.generation_config is own


def test_a_sampled_row_is_its_own_uniform_numbers_in_the_cumulative_distribution(setting) -> None:
    writer, _, prompts = setting
    keys = [("example", 100 + row) for row in range(4)]
    sampled = write(setting, temperature=0.7, seed=5, keys=keys)
    for row, prompt in enumerate(prompts):
        uniform = numpy_rng(5, "sample", *keys[row]).random(BUDGET_TOKENS)
        tokens: list[int] = []
        for point in uniform:
            mass = (next_logprobs(writer.lm, [*prompt, *tokens]) / 0.7).softmax(-1).double().cumsum(-1)
            tokens.append(int((mass <= point * mass[-1]).sum()))
        assert sampled.tokens[row] == tokens
        alone = write(setting, slice(row, row + 1), temperature=0.7, seed=5, keys=keys[row : row + 1])
        assert alone.tokens[0] == tokens
    assert write(setting, temperature=0.7, seed=6, keys=keys).tokens != sampled.tokens


def test_samples_follow_the_distribution(setting) -> None:
    writer, codec, prompts = setting
    ids, mask = codec.pad_prompts([prompts[2]] * 2000)
    drawn = generate_text(writer, codec.tokenizer, ids, mask, GenerationSettings(max_new_tokens=1, temperature=1.0))
    probability = next_logprobs(writer.lm, prompts[2]).exp().numpy()
    counts = np.bincount([tokens[0] for tokens in drawn.tokens], minlength=len(probability))
    likely = probability > 0.01
    spread = np.sqrt(2000 * probability * (1 - probability))
    assert likely.sum() >= 5
    assert np.all(np.abs(counts - 2000 * probability)[likely] < 4.5 * spread[likely])


def test_top_k_and_top_p_leave_the_likeliest_tokens(setting) -> None:
    writer, _, prompts = setting
    greedy = write(setting).tokens
    assert write(setting, temperature=3.0, top_k=1).tokens == greedy
    assert write(setting, temperature=3.0, top_p=1e-6).tokens == greedy
    best = next_logprobs(writer.lm, prompts[0]).topk(3).indices.tolist()
    drawn = {
        write(setting, slice(0, 1), temperature=5.0, top_k=3, seed=n, max_new_tokens=1).tokens[0][0] for n in range(40)
    }
    assert drawn == set(best)


def test_beams_and_sampling_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        GenerationSettings(beams=2, temperature=1.0)


@torch.no_grad()
def test_latent_thoughts_come_before_the_text(setting) -> None:
    plain, codec, prompts = setting
    attention = LatentAttention(plain.lm.config.hidden_size, init_std=0.5)
    writer = LatentWriter(plain.lm, attention, n_thoughts=2).eval()
    ids, mask = codec.pad_prompts(prompts)
    written = generate_text(writer, codec.tokenizer, ids, mask, GenerationSettings(max_new_tokens=4))
    for row, prompt in enumerate(prompts):
        tokens: list[int] = []
        for _ in range(4):
            prefix = writer.read(torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.int64))
            answer = torch.tensor([[*tokens, 0]])
            hidden = writer.answer_hidden(prefix, answer, torch.ones_like(answer))
            tokens.append(int(writer.logits(hidden)[0, -1].argmax()))
        assert written.tokens[row] == tokens


def test_text_that_is_complete_ends_a_row_and_leaves_the_prefix_alone(setting) -> None:
    writer, codec, prompts = setting
    ids, mask = codec.pad_prompts(prompts)
    prefix = writer.read(ids, mask)
    columns = prefix.cache.get_seq_length()
    settings = GenerationSettings(max_new_tokens=BUDGET_TOKENS)
    whole = write_after(writer, codec.tokenizer, prefix, settings)
    enough = math.ceil(len(whole.texts[0]) / 2)
    half = write_after(writer, codec.tokenizer, prefix, settings, done=lambda text: len(text) >= enough)
    assert prefix.cache.get_seq_length() == columns
    assert half.finish[0] == DONE
    assert half.tokens[0] == half.ids[0]
    assert len(half.texts[0]) >= enough > len(codec.tokenizer.decode(half.tokens[0][:-1]))
    twice = write_after(writer, codec.tokenizer, prefix.repeat(2), settings)
    assert twice.tokens == [tokens for tokens in whole.tokens for _ in range(2)]


def test_all_rows_come_in_order_and_finished_shards_are_not_written_again(setting, tmp_path: Path, monkeypatch) -> None:
    writer, codec, prompts = setting
    ctx = RunContext(tiny_catalog(), 4, "cpu", tmp_path, tmp_path)
    prompts = [prompts[n % 4][n % 3 :] for n in range(11)]
    keys = [("example", n) for n in range(11)]
    settings = GenerationSettings(max_new_tokens=5, temperature=1.0, batch_size=2)
    stop = ["e"]
    every = generate_all(writer, codec, prompts, keys, settings, stop, tmp_path / "texts", ctx)
    for row in (0, 3, 10):
        ids, mask = codec.pad_prompts([prompts[row]])
        alone = generate_text(writer, codec.tokenizer, ids, mask, settings, stop, 4, [keys[row]], codec.end_ids)
        assert (alone.tokens[0], alone.ids[0], alone.finish[0]) == (
            every.tokens[row],
            every.ids[row],
            every.finish[row],
        )
    shards = sorted((tmp_path / "texts").glob("*.npz"))
    assert len(shards) == 2
    shards[0].unlink()
    calls = []
    read = writer.read
    monkeypatch.setattr(writer, "read", lambda *arguments: calls.append(1) or read(*arguments))
    again = generate_all(writer, codec, prompts, keys, settings, stop, tmp_path / "texts", ctx)
    assert again == every
    assert 0 < len(calls) <= 4
    assert generate_all(writer, codec, [], [], settings, stop, tmp_path / "texts", ctx).tokens == []
