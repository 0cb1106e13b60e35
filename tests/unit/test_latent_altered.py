"""Thoughts taken away when ranking: against Hugging Face's own attention mask, and what must not matter any more."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from latent.altered import AlteredWriter, ThoughtChoice
from latent.attention import LatentAttention
from latent.reasoner import LatentWriter
from recbench.llm.beam import DeviceTrie, beam_search
from recbench.llm.generate import GenerationSettings, write_after
from recbench.llm.trie import build_trie
from recbench.llm.writer import TitleWriter, positions

TOKEN = 7
PROMPT = torch.tensor([[5, 6, 7, 8, 9, 10], [0, 0, 0, 11, 12, 13]])
MASK = torch.tensor([[1] * 6, [0, 0, 0, 1, 1, 1]])
ANSWER = torch.tensor([[20, 21, 22], [22, 23, 24]])


@pytest.fixture(scope="module")
def lm(tiny_llm_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_llm_folder).eval()


def latent(lm, n_thoughts: int = 1, seed: int = 1) -> LatentWriter:
    attention = LatentAttention(lm.config.hidden_size, init_std=0.3)
    attention.reset(torch.Generator().manual_seed(seed))
    return LatentWriter(lm, attention, n_thoughts).eval()


def altered(lm, thought: ThoughtChoice, n_thoughts: int = 1, seed: int = 1) -> AlteredWriter:
    return AlteredWriter(latent(lm, n_thoughts, seed), thought, TOKEN).eval()


@torch.no_grad()
def logprobs(writer: TitleWriter) -> torch.Tensor:
    return writer.answer_logprobs(writer.read(PROMPT, MASK), ANSWER, torch.ones_like(ANSWER))


@torch.no_grad()
def full_pass(lm, thoughts: torch.Tensor, seen: int) -> torch.Tensor:
    """Log-probabilities from one pass over [prompt, thoughts, answer] with attention mask ``seen`` at the thoughts."""
    embed = lm.get_input_embeddings()
    embeds = torch.cat([embed(PROMPT), thoughts, embed(ANSWER[:, :-1])], dim=1)
    at_thoughts = torch.full(thoughts.shape[:2], seen)
    mask = torch.cat([MASK, at_thoughts, torch.ones_like(ANSWER[:, :-1])], dim=1)
    logits = lm(inputs_embeds=embeds, attention_mask=mask, position_ids=positions(mask)).logits
    return logits[:, -ANSWER.shape[1] :].log_softmax(-1).gather(-1, ANSWER.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def thoughts_of(writer: LatentWriter) -> torch.Tensor:
    """Return (B, N, H): the first N thoughts, each the last one of a shorter chain."""
    chains = [LatentWriter(writer.lm, writer.attention, n + 1).eval() for n in range(writer.n_thoughts)]
    return torch.cat([chain.read(PROMPT, MASK).pending for chain in chains], dim=1)


@pytest.mark.parametrize("n_thoughts", [1, 2])
def test_masked_is_attention_mask_zero_at_the_thoughts(lm, n_thoughts: int) -> None:
    thoughts = thoughts_of(latent(lm, n_thoughts))
    expected = full_pass(lm, thoughts, seen=0)
    torch.testing.assert_close(logprobs(altered(lm, "masked", n_thoughts)), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logprobs(latent(lm, n_thoughts)), expected, atol=1e-3)
    torch.testing.assert_close(logprobs(latent(lm, n_thoughts)), full_pass(lm, thoughts, seen=1), atol=1e-5, rtol=1e-4)


def test_only_the_first_token_knows_of_a_masked_thought(lm) -> None:
    one, other = (logprobs(altered(lm, "masked", seed=seed)) for seed in (1, 2))
    assert not torch.allclose(one[:, 0], other[:, 0], atol=1e-3)
    torch.testing.assert_close(one[:, 1:], other[:, 1:])


def test_absent_is_the_model_without_a_thought(lm) -> None:
    torch.testing.assert_close(logprobs(altered(lm, "absent")), logprobs(TitleWriter(lm).eval()))


@pytest.mark.parametrize("n_thoughts", [1, 2])
def test_zero_and_token_embedding_stand_in_every_thought_s_place(lm, n_thoughts: int) -> None:
    zeros = torch.zeros(2, n_thoughts, lm.config.hidden_size)
    expected = full_pass(lm, zeros, seen=1)
    torch.testing.assert_close(logprobs(altered(lm, "zero", n_thoughts)), expected, atol=1e-5, rtol=1e-4)
    token = lm.get_input_embeddings()(torch.tensor(TOKEN)).expand(2, n_thoughts, -1)
    expected = full_pass(lm, token, seen=1)
    torch.testing.assert_close(logprobs(altered(lm, "token_embedding", n_thoughts)), expected, atol=1e-5, rtol=1e-4)


def test_searching_and_free_writing_score_a_masked_thought_alike(lm, tiny_llm_folder) -> None:
    writer = altered(lm, "masked", n_thoughts=2)
    sequences = [(20, 21, 22), (20, 23, 24), (25, 26, 27)]
    with torch.no_grad():
        prefix = writer.read(PROMPT, MASK)
        beams = beam_search(writer, prefix, DeviceTrie.of(build_trie(sequences), prefix.mask.device), 3, 0.0)
        answers = torch.tensor(sequences).repeat(2, 1)
        scores = writer.answer_logprobs(prefix.repeat(3), answers, torch.ones_like(answers)).sum(-1).view(2, 3)
    torch.testing.assert_close(beams.score, scores.gather(1, beams.sequence), atol=1e-5, rtol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm_folder)
    written = write_after(writer, tokenizer, prefix, GenerationSettings(max_new_tokens=3))
    for row, tokens in enumerate(written.tokens):
        greedy: list[int] = []
        for _ in tokens:
            ids = torch.tensor([[*greedy, 0]])
            with torch.no_grad():
                one = AlteredWriter.read(writer, PROMPT[row : row + 1], MASK[row : row + 1])
                greedy.append(int(writer.logits(writer.answer_hidden(one, ids, torch.ones_like(ids)))[0, -1].argmax()))
        assert tokens == greedy
