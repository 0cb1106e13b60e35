"""Samples side by side give what copies of the prompt give; a frozen head row by row gives what all logits give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

from recbench.llm import frozen_head
from recbench.llm.frozen_head import frozen_head_logprobs
from recbench.llm.samples import sample_logprobs
from recbench.llm.writer import TitleWriter, token_logprobs

SIZES = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
MODELS = {
    "qwen2": (Qwen2Config(**SIZES), "sdpa"),
    "qwen2, eager": (Qwen2Config(**SIZES), "eager"),
    "llama": (LlamaConfig(**SIZES), "sdpa"),
    "mistral with windows": (MistralConfig(**SIZES, sliding_window=4), "sdpa"),
    "gemma 2 with windows and caps": (Gemma2Config(**SIZES, head_dim=4, sliding_window=4), "eager"),
}
GROUPS, SAMPLES, PENDING, TOKENS = 2, 3, 2, 4


@pytest.fixture(scope="module", params=MODELS)
def writer(request) -> Iterator[TitleWriter]:
    config, attention = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        lm = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for parameter in lm.parameters():
            parameter.data.normal_(0, 0.3)
    return TitleWriter(lm).eval()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frozen", [True, False])
def test_samples_side_by_side_equal_copies_of_the_prompt(writer: TitleWriter, frozen: bool) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [0, 0, 11, 12, 13, 14]])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    answers = torch.arange(20, 20 + GROUPS * SAMPLES * TOKENS).view(GROUPS, SAMPLES, TOKENS)
    real = torch.ones_like(answers)
    real[0, 1, 2:] = real[1, 2, 3:] = 0
    writer.requires_grad_(not frozen)
    results = []
    for way in ("side by side", "copies"):
        writer.zero_grad(set_to_none=True)
        pending = draw(GROUPS, SAMPLES, PENDING, 16).requires_grad_()
        prefix = writer.read(ids, mask)
        if way == "copies":
            copies = replace(prefix.repeat(SAMPLES), pending=pending.flatten(0, 1))
            logprobs = writer.answer_logprobs(copies, answers.flatten(0, 1), real.flatten(0, 1))
            logprobs = logprobs.unflatten(0, (GROUPS, SAMPLES))
        else:
            columns = prefix.cache.get_seq_length()
            logprobs = sample_logprobs(writer, prefix, pending, answers, real)
            assert prefix.cache.get_seq_length() == columns, "the prefix stays as it is"
        (logprobs * draw(GROUPS, SAMPLES, TOKENS)).sum().backward()
        gradients = {name: p.grad for name, p in writer.named_parameters() if p.grad is not None}
        results.append((logprobs.detach(), {"pending": pending.grad, **gradients}))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert (ours[real == 0] == 0).all()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert our_gradients.keys() == their_gradients.keys()
    assert (len(our_gradients) == 1) == frozen
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
    writer.requires_grad_(True)


@pytest.mark.parametrize("cells", [1, 60 * 4, 10**9])
def test_a_frozen_head_row_by_row_equals_all_logits_at_once(writer: TitleWriter, cells: int, monkeypatch) -> None:
    monkeypatch.setitem(frozen_head._CELLS, "cpu", cells)
    writer.requires_grad_(False)
    ids = torch.arange(10).view(2, 5)
    hidden, other = (draw(2, 5, 16).requires_grad_() for _ in range(2))
    ours = frozen_head_logprobs(writer, hidden, ids)
    theirs = token_logprobs(writer.logits(other), ids)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for logprobs in (ours, theirs):
        (logprobs * draw(2, 5)).sum().backward()
    torch.testing.assert_close(hidden.grad, other.grad, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(frozen_head_logprobs(writer, hidden, ids), ours)
    writer.requires_grad_(True)
