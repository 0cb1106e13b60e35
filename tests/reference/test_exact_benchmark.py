"""What the benchmark of the exact search says a proof needs is what the search itself needs."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.speed.bench_exact import PENALTIES, least_expansions, nodes_of_sequences
from recbench.llm.beam import DeviceTrie
from recbench.llm.codec import TitleCodec
from recbench.llm.exact import BoundedTrie, ExactSettings, exact_search
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split
from recbench.testing.tiny_llm import make_tiny_llm

TITLES = 3


def test_a_proof_needs_what_is_counted(tmp_path) -> None:
    folder = make_tiny_llm(tmp_path, tiny_catalog().titles)
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        lm.get_input_embeddings().weight *= 12
    writer, codec = TitleWriter(lm), TitleCodec(AutoTokenizer.from_pretrained(folder), tiny_catalog())
    trie = DeviceTrie.of(codec.answers.trie, torch.device("cpu"))
    paths = nodes_of_sequences(trie)
    assert [tuple(trie.token[path].tolist()) for path in paths] == [tuple(answer) for answer in codec.answers.tokens]

    prompts = codec.prompts(tiny_split().test.take(range(5)).queries())
    needed = least_expansions(writer, codec, trie, prompts, TITLES)
    one_by_one = ExactSettings(first_tokens=1, tokens_per_step=1)
    n_inner = int((trie.leaf < 0).sum())
    for flavour, penalty in PENALTIES.items():
        prefix = writer.read(*codec.pad_prompts(prompts))
        found = exact_search(writer, prefix, BoundedTrie.of(trie, penalty), TITLES, one_by_one)
        assert found.proven.all()
        for least, looked_at in zip(needed[flavour], found.expansions.tolist(), strict=True):
            # Best first, only tokens of a stretch are looked at in vain, and never more than were needed before them.
            assert 1 <= least <= looked_at <= min(2 * least, n_inner)
    assert sum(needed["bigrec"]) > sum(needed["d3"]), "normalised sums say less about what can still come"
