"""Exact search against brute force: every title of a catalogue scored by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from recbench.llm.beam import BeamResult, DeviceTrie, TrieGuide, beam_search
from recbench.llm.exact import BoundedTrie, ExactResult, ExactSettings, exact_search, longest_and_shortest
from recbench.llm.trie import build_trie
from recbench.llm.writer import TitleWriter

VOCABULARY = 8
END = 0
PENALTIES = [0.0, 1.0, 0.6, 1.7, -0.8]
PROMPTS = [[5, 6, 7, 5, 3], [1, 2], [4]]


def make_writer(sharpness: float) -> TitleWriter:
    """A random model; the sharper, the nearer its probabilities to 0 and 1."""
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=END,
        bos_token_id=None, eos_token_id=END,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(11)
        lm = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        lm.get_input_embeddings().weight *= sharpness
    return TitleWriter(lm)


WRITERS = {sharpness: make_writer(sharpness) for sharpness in (3.0, 30.0, 90.0)}

# Paths of tokens 1 to 3 only: many titles share beginnings, and many are the beginning of another one. The end token
# makes them prefix-free, as in a catalogue.
title = st.lists(st.integers(1, 3), min_size=0, max_size=7).map(lambda path: (*path, END))
catalogues = st.sets(title, min_size=1, max_size=25).map(sorted)


def left_pad(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


@torch.no_grad()
def brute_force(writer: TitleWriter, prompt: list[int], titles: list[tuple[int, ...]], penalty: float) -> torch.Tensor:
    """Score every title by teacher forcing."""
    lengths = torch.tensor([len(tokens) for tokens in titles])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.zeros_like(mask)
    ids[mask.bool()] = torch.tensor([token for tokens in titles for token in tokens])
    prefix = writer.read(*left_pad([prompt])).repeat(len(titles))
    return writer.answer_logprobs(prefix, ids, mask).double().sum(dim=1) / lengths.double() ** penalty


def search(writer, prompts, titles, k: int, penalty: float, **options) -> ExactResult:
    trie = BoundedTrie.of(DeviceTrie.of(build_trie(titles), torch.device("cpu")), penalty)
    step = options.pop("tokens_per_step", 4)
    budget = options.pop("budget", ExactSettings(first_tokens=step, tokens_per_step=2 * step))
    return exact_search(writer, writer.read(*left_pad(prompts)), trie, k, budget, **options)


def assert_is_top(result: ExactResult, row: int, expected: torch.Tensor, k: int) -> None:
    """The listed titles are the best ones, up to the rounding of titles that are nearly equal."""
    k = min(k, len(expected))
    listed = result.sequence[row][result.sequence[row] >= 0]
    assert len(listed) >= k
    assert len(set(listed.tolist())) == len(listed)
    torch.testing.assert_close(result.score[row, : len(listed)], expected[listed], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(result.score[row, :k], expected.sort(descending=True).values[:k], atol=1e-4, rtol=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    titles=catalogues,
    k=st.integers(1, 12),
    penalty=st.sampled_from(PENALTIES),
    sharpness=st.sampled_from(sorted(WRITERS)),
    tokens_per_step=st.integers(1, 9),
)
def test_equals_brute_force(titles, k, penalty, sharpness, tokens_per_step) -> None:
    writer = WRITERS[sharpness]
    result = search(writer, PROMPTS, titles, k, penalty, tokens_per_step=tokens_per_step)
    assert result.proven.all()
    for row, prompt in enumerate(PROMPTS):
        assert_is_top(result, row, brute_force(writer, prompt, titles, penalty), k)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(titles=catalogues, k=st.integers(1, 5), penalty=st.sampled_from(PENALTIES), max_expansions=st.integers(1, 12))
def test_a_budget_is_kept_and_proofs_are_never_wrong(titles, k, penalty, max_expansions) -> None:
    writer = WRITERS[30.0]
    result = search(
        writer, PROMPTS, titles, k, penalty, budget=ExactSettings(max_expansions=max_expansions, tokens_per_step=3)
    )
    assert (result.expansions <= max_expansions).all()
    for row, prompt in enumerate(PROMPTS):
        expected = brute_force(writer, prompt, titles, penalty)
        if result.proven[row]:
            assert_is_top(result, row, expected, k)
        listed = result.sequence[row][result.sequence[row] >= 0]
        missing = torch.tensor([number for number in range(len(titles)) if number not in listed.tolist()])
        floor = result.score[row, k - 1] if len(listed) >= k else torch.tensor(-torch.inf)
        if len(missing):
            # What is missing is below the K-th listed title or below the bound that the search ended with.
            assert expected[missing].max() <= torch.maximum(result.bound[row], floor) + 1e-4


def test_a_budget_that_is_too_small_is_said() -> None:
    titles = [(1, 1, 1, END), (1, 2, 2, END), (2, 1, 3, END), (3, 3, 3, END)]
    small = search(WRITERS[3.0], PROMPTS, titles, 2, 1.0, budget=ExactSettings(max_expansions=3, tokens_per_step=2))
    assert not small.proven.any()
    assert torch.isfinite(small.bound).all()
    enough = search(WRITERS[3.0], PROMPTS, titles, 2, 1.0)
    assert enough.proven.all()
    assert torch.isneginf(enough.bound).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    titles=catalogues,
    k=st.integers(1, 5),
    penalty=st.sampled_from(PENALTIES),
    max_expansions=st.integers(1, 8),
    exclude=st.booleans(),
)
def test_lists_with_a_beam_searchs_titles_are_no_worse_than_either(titles, k, penalty, max_expansions, exclude) -> None:
    writer = WRITERS[30.0]
    excluded = torch.tensor([[0], [-1], [0]]) if exclude else None
    budget = ExactSettings(max_expansions=max_expansions, tokens_per_step=3)
    alone = search(writer, PROMPTS, titles, k, penalty, budget=budget, excluded=excluded)
    rows = (~alone.proven).nonzero().squeeze(1)
    assume(len(rows))
    trie = DeviceTrie.of(build_trie(titles), torch.device("cpu"))
    beams = beam_search(writer, writer.read(*left_pad(PROMPTS)).take(rows), trie, k + 1, penalty)
    both = alone.improved_by(beams, rows, k, excluded)
    for row, prompt in enumerate(PROMPTS):
        listed = both.sequence[row][both.sequence[row] >= 0].tolist()
        assert len(set(listed)) == len(listed)
        assert excluded is None or not set(excluded[row].tolist()) & set(listed)
        assert (both.score[row, : len(listed)].diff() <= 0).all()
        assert (both.score[row, :k] >= alone.score[row, :k]).all()
        expected = brute_force(writer, prompt, titles, penalty)
        torch.testing.assert_close(both.score[row, : len(listed)], expected[listed], atol=1e-4, rtol=1e-5)
        if row in rows:
            found = beams.sequence[rows.tolist().index(row)]
            allowed = [n for n in found.tolist() if n >= 0 and (excluded is None or n not in excluded[row])]
            best = expected[allowed].sort(descending=True).values[:k]
            assert (both.score[row, : len(best)] >= best - 1e-4).all()
        if excluded is not None:
            expected[excluded[row][excluded[row] >= 0]] = -torch.inf
        if both.proven[row]:
            k_best = expected[expected > -torch.inf].sort(descending=True).values[:k]
            torch.testing.assert_close(both.score[row, : len(k_best)], k_best, atol=1e-4, rtol=1e-5)
            assert torch.isneginf(both.bound[row])


def test_a_list_above_everything_left_is_proven() -> None:
    """The search stopped with a bound that the titles of the beam search beat."""
    nothing = torch.full((1, 2), -1)
    stopped = ExactResult(
        sequence=nothing, score=torch.full((1, 2), -torch.inf, dtype=torch.float64), proven=torch.tensor([False]),
        bound=torch.tensor([-0.5], dtype=torch.float64), expansions=torch.tensor([3]), steps=3,
    )  # fmt: skip
    for second, proven in ((-0.4, True), (-0.5, False), (-0.6, False)):
        beams = BeamResult(torch.tensor([[7, 4, 5]]), torch.tensor([[-0.3, second, -0.9]]), steps=2)
        both = stopped.improved_by(beams, torch.tensor([0]), 2)
        assert both.sequence.tolist() == [[7, 4]]
        assert both.proven.tolist() == [proven]
        assert both.steps == 5


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_batch_mates_change_nothing(penalty: float) -> None:
    writer = WRITERS[30.0]
    generator = torch.Generator().manual_seed(5)
    titles = sorted({(*torch.randint(1, 6, (6,), generator=generator).tolist(), END) for _ in range(150)})
    budget = ExactSettings(max_expansions=60, tokens_per_step=7)
    together = search(writer, PROMPTS, titles, 5, penalty, budget=budget)
    for row, prompt in enumerate(PROMPTS):
        alone = search(writer, [prompt], titles, 5, penalty, budget=budget)
        assert alone.sequence[0].tolist() == together.sequence[row].tolist()
        assert (alone.proven[0], alone.expansions[0]) == (together.proven[row], together.expansions[row])
        torch.testing.assert_close(alone.score[0], together.score[row], atol=1e-5, rtol=1e-4)


def test_finds_what_a_beam_misses() -> None:
    writer = WRITERS[90.0]
    generator = torch.Generator().manual_seed(2)
    titles = sorted({(*torch.randint(1, 8, (8,), generator=generator).tolist(), END) for _ in range(300)})
    trie = DeviceTrie.of(build_trie(titles), torch.device("cpu"))
    beam = beam_search(writer, writer.read(*left_pad(PROMPTS)), trie, 3, 1.0)
    exact = search(writer, PROMPTS, titles, 3, 1.0)
    assert exact.proven.all()
    assert (exact.score[:, :3] >= beam.score.double() - 1e-4).all()
    assert (exact.score[:, 2] > beam.score[:, 2].double() + 1e-2).any()


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_titles_that_tie_with_the_last_one_are_kept(penalty: float) -> None:
    """A model without weights gives every token the same probability, so titles of one length tie exactly."""
    writer = make_writer(0.0)
    titles = [(1, END), (1, 2, END), (1, 3, END), (2, 1, END), (2, 2, 2, END), (3, 1, 1, END)]
    result = search(writer, PROMPTS[:1], titles, 2, penalty)
    assert result.proven.all()
    if penalty == 0.0:
        assert result.sequence[0].tolist() == [0, 1, 2, 3]
        assert (result.score[0, 1:] == result.score[0, 1]).all()
    else:
        assert result.sequence[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_excluded_titles_are_never_listed_and_the_next_ones_are() -> None:
    writer = WRITERS[30.0]
    titles = [(a, b, c, END) for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2)]
    free = search(writer, PROMPTS, titles, 6, 1.0)
    excluded = torch.stack([free.sequence[row, [0, 2]] for row in range(3)])
    excluded[1, 1] = -1
    result = search(writer, PROMPTS, titles, 4, 1.0, excluded=excluded)
    assert result.sequence[0].tolist() == free.sequence[0, [1, 3, 4, 5]].tolist()
    assert result.sequence[1].tolist() == free.sequence[1, [1, 2, 3, 4]].tolist()
    assert result.sequence[2].tolist() == free.sequence[2, [1, 3, 4, 5]].tolist()


def test_a_guide_is_mixed_into_every_step() -> None:
    writer = WRITERS[30.0]
    titles = [(a, b, END) for a in (1, 2, 3, 4) for b in (1, 2, 3)]
    flat = build_trie(titles)
    share = torch.rand((3, len(flat)), generator=torch.Generator().manual_seed(1)).log()
    guide = TrieGuide(share, alpha=0.3)
    result = search(writer, PROMPTS, titles, 4, 1.0, guide=guide)
    parent = {int(child): node for node in range(len(flat)) for child in range(*flat.first_child[node : node + 2])}
    for row, prompt in enumerate(PROMPTS):
        expected = 0.3 * brute_force(writer, prompt, titles, 1.0)
        for number, tokens in enumerate(titles):
            node = int((flat.leaf == number).nonzero()[0][0])
            while node:
                expected[number] += 0.7 * share[row, node] / len(tokens)
                node = parent[node]
        assert_is_top(result, row, expected, 4)


@given(catalogues)
def test_lengths_below_every_node(titles) -> None:
    trie = build_trie(titles)
    longest, shortest = longest_and_shortest(trie.first_child, trie.leaf)

    def lengths(node: int, depth: int) -> list[int]:
        if trie.leaf[node] >= 0:
            return [depth]
        first, last = trie.first_child[node : node + 2]
        return [length for child in range(first, last) for length in lengths(child, depth + 1)]

    def check(node: int, depth: int) -> None:
        below = lengths(node, depth)
        assert (longest[node], shortest[node]) == (max(below), min(below))
        for child in range(*trie.first_child[node : node + 2]):
            check(child, depth + 1)

    check(0, 0)


def test_stretches_grow_with_what_was_followed() -> None:
    # One title of 20 tokens alone behind its second token, another that ends soon.
    titles = [(1, 1, *[2] * 17, END), (1, 2, END), (3, END)]
    trie = DeviceTrie.of(build_trie(titles), torch.device("cpu"))
    bounded = BoundedTrie.of(trie, 1.0)
    node, lengths = 0, []
    for token in titles[0]:
        children = range(int(trie.first_child[node]), int(trie.first_child[node + 1]))
        node = next(child for child in children if trie.token[child] == token)
        lengths.append(int(bounded.stretch[node]))
    # The first token has two continuations. Behind the branch stretches double, up to 8, and stop before the end token.
    assert lengths == [1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 1]
