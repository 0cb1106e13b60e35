"""One pass over the prompt against the published way: a full pass over the whole sequence per thought, and one more."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from latent.attention import LatentAttention
from latent.reasoner import LatentWriter

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
ANSWERS = [[20, 21], [22, 23, 24]]
PLACEHOLDER = 4


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    from recbench.testing.tiny import tiny_catalog
    from recbench.testing.tiny_llm import make_tiny_llm

    folder = make_tiny_llm(tmp_path_factory.mktemp("llm"), tiny_catalog().titles, seed=5)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    attention = LatentAttention(lm.config.hidden_size, init_std=0.3)
    attention.reset(torch.Generator().manual_seed(1))
    return LatentWriter(lm, attention)


def full_pass_logprobs(writer: LatentWriter, prompt: list[int], answer: list[int], n_thoughts: int) -> torch.Tensor:
    """Run the whole sequence with placeholders, replace them by thoughts one after the other, run it again."""
    ids = torch.tensor([prompt + [PLACEHOLDER] * n_thoughts + answer])
    embeds = writer.embed(ids)
    for n in range(n_thoughts):
        slot = len(prompt) + n
        hidden = writer.lm.get_decoder()(inputs_embeds=embeds).last_hidden_state[:, :slot]
        thought = writer.attention(hidden, torch.ones(hidden.shape[:2]))
        embeds = torch.cat([embeds[:, :slot], thought[:, None], embeds[:, slot + 1 :]], dim=1)
    logits = writer.lm(inputs_embeds=embeds).logits[0, len(prompt) + n_thoughts - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


@pytest.mark.parametrize("n_thoughts", [1, 2, 3])
def test_loss_and_gradients_are_equal(writer: LatentWriter, n_thoughts: int) -> None:
    writer = LatentWriter(writer.lm, writer.attention, n_thoughts)
    prompt_ids = torch.tensor([PROMPTS[0], [0, 0, 0, *PROMPTS[1]]])
    prompt_mask = torch.tensor([[1] * 6, [0, 0, 0, 1, 1, 1]])
    answer_ids = torch.tensor([[*ANSWERS[0], 0], ANSWERS[1]])
    answer_mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    writer.zero_grad()
    ours = writer.answer_logprobs(writer.read(prompt_ids, prompt_mask), answer_ids, answer_mask)
    ours.sum().backward()
    our_gradients = {name: p.grad.clone() for name, p in writer.named_parameters()}

    writer.zero_grad()
    theirs = [full_pass_logprobs(writer, p, a, n_thoughts) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    sum(t.sum() for t in theirs).backward()

    for row, expected in enumerate(theirs):
        torch.testing.assert_close(ours[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)
    for name, parameter in writer.named_parameters():
        difference = (our_gradients[name] - parameter.grad).norm()
        assert difference <= 1e-4 * parameter.grad.norm() + 1e-6, (name, difference)
    assert our_gradients["attention.value.weight"].norm() > 0
