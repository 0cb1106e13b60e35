"""Titles drawn under the trie: their frequencies against probabilities worked out title by title."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from recbench.llm.beam import DeviceTrie
from recbench.llm.sampling import sample_titles
from recbench.llm.trie import build_trie
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog
from recbench.testing.tiny_llm import make_tiny_llm

END = 0
TITLES = [(20, 21, 22, END), (20, 21, END), (20, 23, 24, 25, 26, END), (30, END), (31, 32, 33, END), (31, 32, 34, END)]
PROMPT = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = make_tiny_llm(tmp_path_factory.mktemp("llm"), tiny_catalog().titles, seed=3)
    return TitleWriter(AutoModelForCausalLM.from_pretrained(folder)).eval()


@pytest.fixture(scope="module")
def trie():
    return DeviceTrie.of(build_trie(TITLES), torch.device("cpu"))


@torch.no_grad()
def probabilities(writer: TitleWriter, row: int, temperature: float) -> np.ndarray:
    """Walk every title token by token: softmax over the tokens with which a title with the same beginning goes on."""
    prefix = writer.read(PROMPT[row : row + 1], MASK[row : row + 1])
    result = []
    for title in TITLES:
        share = 1.0
        for length in range(len(title)):
            ids = torch.tensor([[*title[:length], END]])
            logits = writer.logits(writer.answer_hidden(prefix, ids, torch.ones_like(ids)))[0, -1]
            follows = sorted({other[length] for other in TITLES if other[:length] == title[:length]})
            share *= float((logits[follows].double() / temperature).softmax(0)[follows.index(title[length])])
        result.append(share)
    return np.array(result)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_titles_come_as_often_as_they_are_likely(writer, trie, temperature: float) -> None:
    draws = 1500
    prefix = writer.read(PROMPT, MASK)
    uniform = torch.from_numpy(np.random.default_rng(0).random((2 * draws, trie.max_length)))
    drawn = sample_titles(writer, prefix.repeat(draws), trie, uniform, temperature).view(2, draws)
    for row in range(2):
        expected = probabilities(writer, row, temperature)
        assert expected.sum() == pytest.approx(1.0)
        found = np.bincount(drawn[row], minlength=len(TITLES)) / draws
        assert np.abs(found - expected).max() < 4 * 0.5 / np.sqrt(draws)


def test_without_a_temperature_the_likeliest_token_wins_each_time(writer, trie) -> None:
    uniform = torch.zeros(2, trie.max_length, dtype=torch.float64)
    drawn = sample_titles(writer, writer.read(PROMPT, MASK), trie, uniform, temperature=0)
    for row in range(2):
        # At a very low temperature all mass is on the greedy title.
        assert int(drawn[row]) == int(probabilities(writer, row, 1e-4).argmax())


def test_a_row_depends_on_its_own_numbers_alone(writer, trie) -> None:
    uniform = torch.from_numpy(np.random.default_rng(1).random((6, trie.max_length)))
    prefix = writer.read(PROMPT, MASK).repeat(3)
    together = sample_titles(writer, prefix, trie, uniform)
    for row in range(6):
        one = writer.read(PROMPT[row // 3 : row // 3 + 1], MASK[row // 3 : row // 3 + 1])
        assert sample_titles(writer, one, trie, uniform[row : row + 1]).tolist() == [int(together[row])]
    assert prefix.cache.get_seq_length() == PROMPT.shape[1] - 1
