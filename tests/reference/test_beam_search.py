"""Constrained beam search against exhaustive scoring and against a slow search written beam by beam."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbench.llm.beam import DeviceTrie, beam_search
from recbench.llm.codec import TitleCodec
from recbench.llm.trie import build_trie
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split
from recbench.testing.tiny_llm import make_tiny_llm


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = make_tiny_llm(tmp_path_factory.mktemp("llm"), tiny_catalog().titles, seed=3)
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    # Sharper than random weights, so that beams differ in more than rounding.
    with torch.no_grad():
        lm.get_input_embeddings().weight *= 12
    codec = TitleCodec(AutoTokenizer.from_pretrained(folder), tiny_catalog())
    prompts = codec.prompts(tiny_split().test.take(range(5)).queries())
    return TitleWriter(lm), codec, prompts


def trie_of(codec) -> DeviceTrie:
    return DeviceTrie.of(build_trie(codec.answers.tokens), torch.device("cpu"))


@torch.no_grad()
def exact_scores(writer, codec, prompt) -> torch.Tensor:
    """Sum of log-probabilities of every answer, one plain forward pass each."""
    scores = []
    for answer in codec.answers.tokens:
        logits = writer.lm(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        scores.append(logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum())
    return torch.stack(scores)


@torch.no_grad()
def slow_beam_search(writer, codec, prompt, n_beams: int, penalty: float) -> list[tuple[float, int]]:
    """The same rules, one beam at a time with a dictionary of prefixes."""
    children: dict[tuple[int, ...], set[int]] = {}
    number = {answer: i for i, answer in enumerate(codec.answers.tokens)}
    for answer in codec.answers.tokens:
        for length in range(len(answer)):
            children.setdefault(answer[:length], set()).add(answer[length])
    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, int]] = []
    step = 0
    while running:
        step += 1
        candidates = []
        for score, path in running:
            logprobs = writer.lm(input_ids=torch.tensor([[*prompt, *path]])).logits[0, -1].log_softmax(-1)
            candidates += [(score + float(logprobs[token]), (*path, token)) for token in children[path]]
        candidates = sorted(candidates, reverse=True)[: 2 * n_beams]
        ended = [(s / step**penalty, number[p]) for s, p in candidates[:n_beams] if p in number]
        finished = sorted(finished + ended, reverse=True)[:n_beams]
        running = [c for c in candidates if c[1] not in number][:n_beams]
        if len(finished) == n_beams and running and running[0][0] / step**penalty <= finished[-1][0]:
            break
    return finished


@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.6])
def test_equals_a_slow_search(setting, penalty: float) -> None:
    writer, codec, prompts = setting
    result = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie_of(codec), 4, penalty)
    for row, prompt in enumerate(prompts):
        expected = slow_beam_search(writer, codec, prompt, 4, penalty)
        torch.testing.assert_close(result.score[row], torch.tensor([s for s, _ in expected]), atol=1e-4, rtol=1e-4)
        assert result.sequence[row].tolist() == [number for _, number in expected]


def test_with_beams_for_all_titles_it_is_exhaustive_scoring(setting) -> None:
    writer, codec, prompts = setting
    n_answers = len(codec.answers.tokens)
    result = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie_of(codec), n_answers, 0.0)
    for row, prompt in enumerate(prompts):
        expected = exact_scores(writer, codec, prompt)
        torch.testing.assert_close(result.score[row], expected.sort(descending=True).values, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(result.score[row], expected[result.sequence[row]], atol=2e-4, rtol=1e-4)
        assert sorted(result.sequence[row].tolist()) == list(range(n_answers))


def test_more_beams_than_titles_leaves_places_empty(setting) -> None:
    writer, codec, prompts = setting
    trie = DeviceTrie.of(build_trie(codec.answers.tokens[:3]), torch.device("cpu"))
    result = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie, 5, 1.0)
    assert sorted(result.sequence[0].tolist()) == [-1, -1, 0, 1, 2]
    assert torch.isinf(result.score[:, 3:]).all()


def test_batch_mates_and_padding_change_nothing(setting) -> None:
    writer, codec, prompts = setting
    trie = trie_of(codec)
    together = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie, 6, 1.0)
    for row, prompt in enumerate(prompts):
        alone = beam_search(writer, writer.read(*codec.pad_prompts([prompt])), trie, 6, 1.0)
        assert alone.sequence[0].tolist() == together.sequence[row].tolist()
        torch.testing.assert_close(alone.score[0], together.score[row], atol=1e-5, rtol=1e-4)
