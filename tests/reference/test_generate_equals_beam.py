"""Our search gives the lists that Hugging Face's own generation gives under a dictionary of prefixes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.speed.bench_decode import (
    PENALTIES,
    Recorder,
    Workload,
    allowed_next,
    decode_ours,
    generate_with_prefixes,
    replay_without_trie,
    same_lists,
)
from recbench.llm import beam
from recbench.llm.beam import BeamResult, DeviceTrie
from recbench.llm.codec import TitleCodec
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split
from recbench.testing.tiny_llm import make_tiny_llm


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Workload:
    folder = make_tiny_llm(tmp_path_factory.mktemp("llm"), tiny_catalog().titles)
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        lm.get_input_embeddings().weight *= 12
    codec = TitleCodec(AutoTokenizer.from_pretrained(folder), tiny_catalog())
    prompts = codec.prompts(tiny_split().test.take(range(6)).queries())
    batches = [codec.pad_prompts(prompts[:4]), codec.pad_prompts(prompts[4:])]
    return Workload(TitleWriter(lm), codec, batches, "random")


@pytest.mark.parametrize("penalty", PENALTIES.values())
@torch.inference_mode()
def test_same_lists(work: Workload, penalty: float) -> None:
    ours = decode_ours(work, DeviceTrie.of(work.codec.answers.trie, torch.device("cpu")), penalty)
    theirs = generate_with_prefixes(work, allowed_next(work.codec.answers.tokens), penalty)
    assert same_lists(ours, theirs, 1e-4)


@torch.inference_mode()
def test_the_replay_makes_the_same_model_calls(work: Workload, monkeypatch) -> None:
    recorder, again = Recorder(), Recorder()
    monkeypatch.setattr(beam, "AnswerTree", recorder.tree)
    decode_ours(work, DeviceTrie.of(work.codec.answers.trie, torch.device("cpu")), 1.0)
    monkeypatch.setattr("benchmarks.speed.bench_decode.AnswerTree", again.tree)
    replay_without_trie(work, recorder)

    def plain(calls: list) -> list:
        return [
            [(name, [a.tolist() if isinstance(a, torch.Tensor) else a for a in args]) for name, args in c]
            for c in calls
        ]

    assert plain(again.calls) == plain(recorder.calls)
    assert [calls[0][0] for calls in recorder.calls] == ["start"] * 2
    assert sum(map(len, recorder.calls)) > 2


def test_lists_differ_unless_titles_and_scores_agree() -> None:
    ours = [BeamResult(torch.tensor([[4, 7, 9]]), torch.tensor([[-1.0, -2.0, -2.00001]]), 3)]
    assert same_lists(ours, [[(4, -1.0), (9, -2.0), (7, -2.00001)]], 1e-3)
    assert not same_lists(ours, [[(7, -1.0), (4, -2.0), (9, -2.00001)]], 1e-3)
    assert not same_lists(ours, [[(4, -1.0), (7, -2.0), (9, -2.01)]], 1e-3)
