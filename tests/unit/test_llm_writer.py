"""Reading the prompt once gives what one plain forward pass over everything gives."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, MistralConfig, Qwen2Config

from recbench.llm import writer as writer_module
from recbench.llm.blocks import Blocks
from recbench.llm.layer_kinds import has_windows
from recbench.llm.writer import TitleWriter, beginning_first, cache_argument, run_body, shared_beginning

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
ANSWERS = [[20, 21], [22, 23, 24]]


@pytest.fixture(scope="module")
def lm(tiny_llm_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_llm_folder).eval()


def test_the_cache_goes_by_the_name_that_the_model_knows(lm) -> None:
    class Older(torch.nn.Module):
        def forward(self, inputs_embeds, past_key_values=None): ...

    class Newer(torch.nn.Module):
        def forward(self, inputs_embeds, cache=None): ...

    assert cache_argument(Older()) == "past_key_values"
    assert cache_argument(Newer()) == "cache"
    cache = DynamicCache()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        run_body(lm, lm.get_input_embeddings()(torch.tensor([[5, 6]])), torch.ones((1, 2), dtype=torch.int64), cache)
    assert cache.get_seq_length() == 2


def plain_logprobs(lm, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """One unpadded forward pass over prompt and answer."""
    logits = lm(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


def pad(rows: list[list[int]], left: bool, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows)) + extra
    ids, mask = torch.zeros((len(rows), width), dtype=torch.int64), torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        where = slice(width - len(row), None) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), 1
    return ids, mask


@pytest.mark.parametrize("extra", [0, 3])
def test_answer_logprobs_equal_a_plain_forward_whatever_the_padding(lm, extra: int) -> None:
    writer = TitleWriter(lm)
    answer_ids, answer_mask = pad(ANSWERS, left=False, extra=extra)
    ours = writer.answer_logprobs(writer.read(*pad(PROMPTS, left=True, extra=extra)), answer_ids, answer_mask)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = plain_logprobs(lm, prompt, answer)
        torch.testing.assert_close(ours[row, : len(answer)], expected, atol=1e-5, rtol=1e-4)
        assert (ours[row, len(answer) :] == 0).all()


def test_a_prefix_can_be_used_twice_and_repeated(lm) -> None:
    writer = TitleWriter(lm)
    prefix = writer.read(*pad(PROMPTS, left=True))
    answer_ids, answer_mask = pad(ANSWERS, left=False)
    first = writer.answer_logprobs(prefix, answer_ids, answer_mask)
    torch.testing.assert_close(writer.answer_logprobs(prefix, answer_ids, answer_mask), first)
    repeated = writer.answer_logprobs(
        prefix.repeat(3), answer_ids.repeat_interleave(3, 0), answer_mask.repeat_interleave(3, 0)
    )
    torch.testing.assert_close(repeated, first.repeat_interleave(3, 0), atol=1e-5, rtol=1e-4)


def test_gradients_equal_those_of_a_plain_forward(lm) -> None:
    writer = TitleWriter(lm)
    answer_ids, answer_mask = pad(ANSWERS, left=False)
    lm.zero_grad()
    writer.answer_logprobs(writer.read(*pad(PROMPTS, left=True)), answer_ids, answer_mask).sum().backward()
    ours = {name: p.grad.clone() for name, p in lm.named_parameters()}
    lm.zero_grad()
    sum(plain_logprobs(lm, p, a).sum() for p, a in zip(PROMPTS, ANSWERS, strict=True)).backward()
    for name, parameter in lm.named_parameters():
        assert (ours[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-7, name


@torch.no_grad()
def test_a_beginning_that_all_prompts_share_is_read_once(lm, monkeypatch) -> None:
    writer = TitleWriter(lm)
    instruction = list(range(30, 60))
    prompts = [instruction + prompt for prompt in PROMPTS]
    ids, mask = pad(prompts, left=True, extra=2)
    assert shared_beginning(ids, mask) == len(instruction)
    n_tokens = []
    fill = Blocks.fill
    monkeypatch.setattr(
        Blocks, "fill", lambda self, embeds, *rest: n_tokens.append(len(embeds)) or fill(self, embeds, *rest)
    )
    prefix = writer.read(ids, mask)
    # The last token of a prompt waits.
    assert n_tokens == [len(instruction) + sum(len(prompt) - 1 for prompt in PROMPTS)]
    answer_ids, answer_mask = pad(ANSWERS, left=False)
    ours = writer.answer_logprobs(prefix, answer_ids, answer_mask)
    for row, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
        torch.testing.assert_close(ours[row, : len(answer)], plain_logprobs(lm, prompt, answer), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shares", [False, True])
@torch.no_grad()
def test_rows_of_different_lengths_are_read_in_groups(lm, monkeypatch, shares: bool) -> None:
    monkeypatch.setitem(writer_module._CALL_COST, "cpu", 3)
    beginning = list(range(30, 60)) if shares else []
    prompts = [beginning + list(range(5, 5 + length)) for length in (3, 12, 4, 2)]
    for number, prompt in enumerate(prompts):
        prompt[len(beginning)] = 20 + number
    ids, mask = pad(prompts, left=True, extra=2)
    shapes = []
    body = writer_module.run_body
    monkeypatch.setattr(
        writer_module,
        "run_body",
        lambda lm, embeds, *rest: shapes.append(tuple(embeds.shape[:2])) or body(lm, embeds, *rest),
    )
    monkeypatch.setattr(Blocks, "of", lambda _: None)
    writer = TitleWriter(lm)
    prefix = writer.read(ids, mask)
    # The last token of a prompt waits.
    assert shapes == [(1, 30)] * shares + [(3, 3), (1, 11)]
    cache, hidden = writer.read_hidden(ids, mask)
    assert cache.get_seq_length() == hidden.shape[1] == ids.shape[1]
    monkeypatch.setitem(writer_module._CALL_COST, "cpu", 10**6)
    for kept, expected in zip(hidden[mask.bool()], writer.read_hidden(ids, mask)[1][mask.bool()], strict=True):
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)
    answers = [*ANSWERS, [25], [20, 21, 22, 23]]
    answer_ids, answer_mask = pad(answers, left=False)
    ours = writer.answer_logprobs(prefix, answer_ids, answer_mask)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        torch.testing.assert_close(ours[row, : len(answer)], plain_logprobs(lm, prompt, answer), atol=1e-5, rtol=1e-4)


def test_with_gradients_rows_are_read_together(lm, monkeypatch) -> None:
    monkeypatch.setitem(writer_module._CALL_COST, "cpu", 0)
    reads = []
    body = writer_module.run_body
    monkeypatch.setattr(writer_module, "run_body", lambda *rest: reads.append(rest) or body(*rest))
    TitleWriter(lm).read(*pad(PROMPTS, left=True))
    assert len(reads) == 1


@torch.no_grad()
def test_equal_prompts_still_wait_with_their_last_token(lm) -> None:
    writer = TitleWriter(lm)
    prompt = list(range(30, 60))
    ids, mask = pad([prompt, prompt], left=True)
    assert shared_beginning(ids, mask) == len(prompt) - 1
    answer_ids, answer_mask = pad([ANSWERS[0]] * 2, left=False)
    ours = writer.answer_logprobs(writer.read(ids, mask), answer_ids, answer_mask)
    for row in ours:
        torch.testing.assert_close(row, plain_logprobs(lm, prompt, ANSWERS[0]), atol=1e-5, rtol=1e-4)


def test_gradients_through_a_shared_beginning_equal_those_of_plain_forwards(lm) -> None:
    writer = TitleWriter(lm)
    prompts = [[*range(30, 60), *prompt] for prompt in PROMPTS]
    ids, mask = pad(prompts, left=True, extra=2)
    assert beginning_first(lm, ids, mask)[1].tolist() == [[1] * 30 + [0] * 2 + [1] * 6, [1] * 30 + [0] * 5 + [1] * 3]
    answer_ids, answer_mask = pad(ANSWERS, left=False)
    lm.zero_grad()
    writer.answer_logprobs(writer.read(ids, mask), answer_ids, answer_mask).sum().backward()
    ours = {name: p.grad.clone() for name, p in lm.named_parameters()}
    lm.zero_grad()
    sum(plain_logprobs(lm, p, a).sum() for p, a in zip(prompts, ANSWERS, strict=True)).backward()
    for name, parameter in lm.named_parameters():
        assert (ours[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-7, name


def test_nothing_is_shared_where_windows_or_dropout_are(lm) -> None:
    ids, mask = pad([[*range(30, 60), 5], [*range(30, 60), 6, 7]], left=True)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 20,
        "intermediate_size": 8,
    }
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    windowed = AutoModelForCausalLM.from_config(Qwen2Config(**sizes, **windows))
    mistral = MistralConfig(**sizes, num_key_value_heads=2, sliding_window=4)
    dropping = AutoModelForCausalLM.from_config(Qwen2Config(**sizes, attention_dropout=0.1))
    assert not has_windows(lm)
    assert has_windows(windowed)
    assert has_windows(AutoModelForCausalLM.from_config(mistral))
    for other in (windowed, dropping.train()):
        assert torch.equal(beginning_first(other, ids, mask)[1], mask)
    assert not torch.equal(beginning_first(dropping.eval(), ids, mask)[1], mask)


def test_shared_beginning_by_hand() -> None:
    ids, mask = pad([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3, 5, 6]], left=True)
    assert shared_beginning(ids, mask) == 2
    ids, mask = pad([[1, 2, 3], [1, 2]], left=True)
    assert shared_beginning(ids, mask) == 1
    assert shared_beginning(ids[:1], mask[:1]) == 0
