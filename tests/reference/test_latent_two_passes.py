"""One pass over the prompt against the published way: a full pass over the whole sequence per thought, and one more."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM

from latent.attention import LastHidden, LatentAttention
from latent.reasoner import LatentWriter
from recbench.testing.tiny import tiny_catalog
from recbench.testing.tiny_llm import make_tiny_llm

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
ANSWERS = [[20, 21], [22, 23, 24]]
PLACEHOLDER = 4


@dataclass(frozen=True)
class Variant:
    """What is tried."""

    n_thoughts: int = 1
    kind: str = "qwen2"
    reasoner: str = "latent_ratt"
    hidden: str = "after_norm"
    window: int | None = None


VARIANTS = [
    Variant(),
    Variant(n_thoughts=2),
    Variant(n_thoughts=3),
    Variant(kind="llama3"),
    Variant(kind="llama2", n_thoughts=2),
    Variant(reasoner="last_hidden"),
    Variant(reasoner="last_hidden", n_thoughts=3),
    Variant(hidden="before_norm", n_thoughts=2),
    Variant(hidden="before_norm", reasoner="last_hidden"),
    Variant(hidden="before_norm", kind="llama3"),
    Variant(window=2, n_thoughts=2),
    Variant(window=1),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    kinds = {variant.kind for variant in VARIANTS}
    made = {kind: make_tiny_llm(folder / kind, tiny_catalog().titles, seed=5, kind=kind) for kind in kinds}
    return {kind: AutoModelForCausalLM.from_pretrained(path) for kind, path in made.items()}


def writer_of(models, variant: Variant) -> LatentWriter:
    lm = models[variant.kind]
    attention: LastHidden | LatentAttention = LastHidden()
    if variant.reasoner == "latent_ratt":
        attention = LatentAttention(lm.config.hidden_size, init_std=0.3, window=variant.window)
        attention.reset(torch.Generator().manual_seed(1))
    return LatentWriter(lm, attention, variant.n_thoughts, variant.hidden)


def hidden_states(writer: LatentWriter, embeds: torch.Tensor) -> torch.Tensor:
    """Return the states of a full pass, before the norm by way of the last block's own output."""
    outputs: list = []
    handle = writer.lm.model.layers[-1].register_forward_hook(lambda *parts: outputs.append(parts[2]))
    after = writer.lm.get_decoder()(inputs_embeds=embeds).last_hidden_state
    handle.remove()
    before = outputs[0] if isinstance(outputs[0], torch.Tensor) else outputs[0][0]
    return after if writer.hidden == "after_norm" else before


def full_pass_logprobs(writer: LatentWriter, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Run the whole sequence with placeholders, replace them by thoughts one after the other, run it again."""
    ids = torch.tensor([prompt + [PLACEHOLDER] * writer.n_thoughts + answer])
    embeds = writer.embed(ids)
    for n in range(writer.n_thoughts):
        slot = len(prompt) + n
        hidden = hidden_states(writer, embeds)[:, :slot]
        if isinstance(writer.attention, LastHidden):
            thought = hidden[:, -1]
        else:
            seen = hidden[:, -(writer.attention.window or slot) :]
            thought = writer.attention(seen, torch.ones(seen.shape[:2], dtype=torch.int64))
        embeds = torch.cat([embeds[:, :slot], thought[:, None], embeds[:, slot + 1 :]], dim=1)
    logits = writer.lm(inputs_embeds=embeds).logits[0, len(prompt) + writer.n_thoughts - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loss_and_gradients_are_equal(models, variant: Variant) -> None:
    writer = writer_of(models, variant)
    prompt_ids = torch.tensor([PROMPTS[0], [0, 0, 0, *PROMPTS[1]]])
    prompt_mask = torch.tensor([[1] * 6, [0, 0, 0, 1, 1, 1]])
    answer_ids = torch.tensor([[*ANSWERS[0], 0], ANSWERS[1]])
    answer_mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    writer.zero_grad()
    ours = writer.answer_logprobs(writer.read(prompt_ids, prompt_mask), answer_ids, answer_mask)
    ours.sum().backward()
    our_gradients = {name: p.grad.clone() for name, p in writer.named_parameters()}

    writer.zero_grad()
    theirs = [full_pass_logprobs(writer, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    sum(t.sum() for t in theirs).backward()

    for row, expected in enumerate(theirs):
        torch.testing.assert_close(ours[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)
    for name, parameter in writer.named_parameters():
        difference = (our_gradients[name] - parameter.grad).norm()
        assert difference <= 1e-4 * parameter.grad.norm() + 1e-6, (name, difference)
    if isinstance(writer.attention, LatentAttention):
        assert our_gradients["attention.value.weight"].norm() > 0


def test_every_variant_writes_with_other_probabilities(models) -> None:
    prompt, mask = torch.tensor(PROMPTS[:1]), torch.ones((1, 6), dtype=torch.int64)
    answer = torch.tensor(ANSWERS[:1])
    found = []
    for variant in VARIANTS:
        if variant.kind == "qwen2":
            writer = writer_of(models, variant).eval()
            with torch.no_grad():
                logprobs = writer.answer_logprobs(writer.read(prompt, mask), answer, torch.ones_like(answer))
            found.append(tuple(round(value, 4) for value in logprobs[0].tolist()))
    assert len(set(found)) == len(found)


def test_one_earlier_position_more_or_less_is_the_window_s_edge(models) -> None:
    writer = writer_of(models, Variant(window=2))
    hidden = torch.randn((1, 5, 32), generator=torch.Generator().manual_seed(2))
    mask = torch.ones((1, 5), dtype=torch.int64)
    thought = writer.attention(hidden, mask)
    for column, seen in ((2, False), (3, True), (4, True)):
        changed = hidden.clone()
        changed[:, column] += 1
        assert torch.equal(writer.attention(changed, mask), thought) != seen
