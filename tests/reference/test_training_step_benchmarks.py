"""The benchmarks of training steps, on few and short rows: both ways give the same, and ours needs less memory."""

from __future__ import annotations

import pytest

from benchmarks.speed import bench_rl, bench_sft


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
