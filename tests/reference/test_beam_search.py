"""Constrained beam search against exhaustive scoring and against a slow search written beam by beam."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbench.llm import beam
from recbench.llm.beam import BeamResult, DeviceTrie, TrieGuide, beam_search
from recbench.llm.codec import TitleCodec
from recbench.llm.tree import AnswerTree
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
    return DeviceTrie.of(codec.answers.trie, torch.device("cpu"))


@torch.no_grad()
def exact_scores(writer, codec, prompt) -> torch.Tensor:
    """Sum of log-probabilities of every answer, one plain forward pass each."""
    scores = []
    for answer in codec.answers.tokens:
        logits = writer.lm(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        scores.append(logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum())
    return torch.stack(scores)


@torch.no_grad()
def slow_beam_search(
    writer, codec, prompt, n_beams: int, penalty: float, share=None, alpha: float = 1.0
) -> list[tuple[float, int]]:
    """The same rules, one beam at a time with a dictionary of prefixes.

    ``share`` maps a prefix to the text-free log-share of its last token. Equal scores stay in the order in which they
    come up: better parents first, then smaller tokens.
    """
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
            for token in sorted(children[path]):
                gain = float(logprobs[token])
                if share is not None:
                    gain = alpha * gain + (1 - alpha) * share[(*path, token)]
                candidates.append((score + gain, (*path, token)))
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * n_beams]
        ended = [(s / step**penalty, number[p]) for s, p in candidates[:n_beams] if p in number]
        finished = sorted(finished + ended, key=lambda f: -f[0])[:n_beams]
        running = [c for c in candidates if c[1] not in number][:n_beams]
        if len(finished) == n_beams and running and running[0][0] / step**penalty <= finished[-1][0]:
            break
    return finished


def check_against_slow(writer, codec, prompts, result, *arguments, **options) -> None:
    for row, prompt in enumerate(prompts):
        expected = slow_beam_search(writer, codec, prompt, *arguments, **options)
        torch.testing.assert_close(result.score[row], torch.tensor([s for s, _ in expected]), atol=1e-4, rtol=1e-4)
        assert result.sequence[row].tolist() == [number for _, number in expected]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.6, 2.0, -0.5, -1])
def test_equals_a_slow_search(setting, penalty: float) -> None:
    writer, codec, prompts = setting
    result = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie_of(codec), 4, penalty)
    check_against_slow(writer, codec, prompts, result, 4, penalty)


@pytest.mark.parametrize("levels", [1, 3, 10_000])
def test_reading_ahead_changes_nothing_but_the_number_of_model_calls(setting, monkeypatch, levels: int) -> None:
    writer, codec, prompts = setting
    calls = []
    extend = AnswerTree.extend
    monkeypatch.setattr(AnswerTree, "extend", lambda *arguments: calls.append(arguments) or extend(*arguments))
    usual = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie_of(codec), 4, 1.0)
    usual_calls = len(calls)
    monkeypatch.setattr(beam, "_LEVELS", levels)
    calls.clear()
    other = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie_of(codec), 4, 1.0)
    assert other.sequence.tolist() == usual.sequence.tolist()
    torch.testing.assert_close(other.score, usual.score, atol=1e-5, rtol=1e-5)
    if levels == 1:
        assert len(calls) == other.steps - 1 > usual_calls


def test_where_all_ways_are_known_one_call_reads_them(setting, monkeypatch) -> None:
    writer, codec, prompts = setting
    calls = []
    extend = AnswerTree.extend
    monkeypatch.setattr(AnswerTree, "extend", lambda *arguments: calls.append(arguments) or extend(*arguments))
    monkeypatch.setattr(beam, "_LEVELS", 10**6)
    titles = len(codec.answers.tokens)
    # As many beams as titles: the tree is read with the prompt's last token.
    found = beam_search(writer, writer.read(*codec.pad_prompts(prompts)), trie_of(codec), titles, 0.0)
    assert not calls
    assert sorted(found.sequence[0].tolist()) == list(range(titles))


def random_share(trie: DeviceTrie, rows: int) -> torch.Tensor:
    """Return log-shares (rows, n_nodes) that add up to 1 among siblings."""
    weight = torch.rand(rows, len(trie.token), generator=torch.Generator().manual_seed(5)) + 0.01
    for first, end in zip(trie.first_child[:-1].tolist(), trie.first_child[1:].tolist(), strict=True):
        weight[:, first:end] /= weight[:, first:end].sum(dim=1, keepdim=True)
    return weight.log()


def by_path(trie: DeviceTrie, share: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Return the log-share of the last token of every path of a trie."""
    found: dict[tuple[int, ...], float] = {}

    def visit(node: int, path: tuple[int, ...]) -> None:
        for child in range(int(trie.first_child[node]), int(trie.first_child[node + 1])):
            found[(*path, int(trie.token[child]))] = float(share[child])
            visit(child, (*path, int(trie.token[child])))

    visit(0, ())
    return found


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_a_guide_is_mixed_into_every_step(setting, alpha: float) -> None:
    writer, codec, prompts = setting
    trie = trie_of(codec)
    share = random_share(trie, len(prompts))
    prefix = writer.read(*codec.pad_prompts(prompts))
    guided = beam_search(writer, prefix, trie, 4, 0.0, TrieGuide(share, alpha))
    for row, prompt in enumerate(prompts):
        one = BeamResult(guided.sequence[row : row + 1], guided.score[row : row + 1], guided.steps)
        check_against_slow(writer, codec, [prompt], one, 4, 0.0, share=by_path(trie, share[row]), alpha=alpha)
    plain = beam_search(writer, prefix, trie, 4, 0.0)
    assert (guided.sequence.tolist() == plain.sequence.tolist()) == (alpha == 1.0)


def test_equal_scores_are_ordered_alike_alone_and_in_company(setting) -> None:
    writer, codec, prompts = setting
    # Token embeddings of zero give every token the same probability, so titles of one length tie.
    flat = TitleWriter(copy.deepcopy(writer.lm))
    flat.lm.get_output_embeddings().weight.data.zero_()
    trie = trie_of(codec)
    together = beam_search(flat, flat.read(*codec.pad_prompts(prompts)), trie, 5, 0.0)
    assert len(set(together.score[0].tolist())) < 5
    expected = [number for _, number in slow_beam_search(flat, codec, prompts[0], 5, 0.0)]
    assert together.sequence.tolist() == [expected] * len(prompts)


@pytest.fixture(scope="module")
def exhaustive(setting) -> list[torch.Tensor]:
    writer, codec, prompts = setting
    return [exact_scores(writer, codec, prompt) for prompt in prompts[:3]]


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
def test_with_beams_for_all_titles_it_is_exhaustive_scoring(setting, exhaustive, penalty: float) -> None:
    writer, codec, prompts = setting
    lengths = torch.tensor([len(answer) for answer in codec.answers.tokens])
    result = beam_search(
        writer, writer.read(*codec.pad_prompts(prompts[:3])), trie_of(codec), len(codec.answers.tokens), penalty
    )
    for row, sums in enumerate(exhaustive):
        expected = sums / lengths**penalty
        torch.testing.assert_close(result.score[row], expected.sort(descending=True).values, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(result.score[row], expected[result.sequence[row]], atol=2e-4, rtol=1e-4)
        assert sorted(result.sequence[row].tolist()) == list(range(len(codec.answers.tokens)))


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
