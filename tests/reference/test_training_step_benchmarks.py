"""The benchmarks of training, on few and short rows: both ways give the same, and ours needs less memory."""

from __future__ import annotations

import pytest

from benchmarks.speed import bench_rl, bench_sft, large
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


@pytest.mark.parametrize(("module", "sizes"), [(bench_sft, {"ROWS": 4}), (bench_rl, {"GROUPS": 2, "SAMPLES": 3})])
def test_steps_equal_the_published_way(monkeypatch, module, sizes: dict[str, int]) -> None:
    for name, value in {"PROMPT": 90, "ANSWER": 5, **sizes}.items():
        monkeypatch.setattr(module, name, value)
    row = module.run(repeats=1)
    for facts in (row, row["nothing_shared"]):
        assert facts["equal"]
        assert 0 < facts["max_relative_difference"] <= 1e-4
        assert 0 < facts["peak_memory_mb"]["ours"] < facts["peak_memory_mb"]["baseline"]
        assert facts["ours_s"] > 0 < facts["baseline_s"]
    assert row["sizes"]["prompt_tokens"] == 90


def test_flops_counted_by_hand() -> None:
    # One block of 10 weights, width 3, vocabulary 7; a prompt of 2 tokens, an answer of 1, so 4 with the thought.
    flops = large.Flops(body_weights=10, layers=1, width=3, vocabulary=7)
    assert flops.body(4) == 2 * 10 * 4 + 4 * 3 * (1 + 2 + 3 + 4)
    assert flops.head(1) == 2 * 3 * 7
    assert flops.sft(prompt=2, answer=1) == 3 * (80 + 120 + 42)
    # Two samples of thought and answer, which see the prompt: 3 and 4 tokens each.
    prompt, suffix = 2 * 10 * 2 + 4 * 3 * (1 + 2), 2 * 10 * 2 + 4 * 3 * (3 + 4) + 42
    assert flops.rl(prompt=2, answer=1, samples=2) == prompt + 2 * 2 * suffix


def test_the_large_benchmark_runs_through(monkeypatch) -> None:
    save_dataset(tiny_dataset())
    for module, sizes in ((bench_sft, {"ROWS": 2}), (bench_rl, {"GROUPS": 2, "SAMPLES": 2})):
        for name, value in {"PROMPT": 80, "ANSWER": 3, **sizes}.items():
            monkeypatch.setattr(module, name, value)
    document = large.run("nano", "cpu", "tiny", sft_rows=64, rl_rows=64, test_rows=3, repeats=1)
    assert all(step["equal"] for step in document["steps_against_published"].values())
    for stage in document["stages"].values():
        assert (stage["rows"], stage["steps"]) == (64, 2)
        assert stage["tokens_per_s"] > 0
        assert 0 < stage["model_flops_per_s"] < document["peak_matmul_flops_per_s"]
    assert document["decoding"]["rows"] == 3
