"""Latency: what is made of the times of batches, what reports show, and what the clock asks of a method."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_latency import make_record, store_record
from helpers_runs import make_run
from hypothesis import given
from hypothesis import strategies as st

from recbench.artifacts.latency import LatencyRecord, read_latencies
from recbench.contracts.errors import ArtifactError, DataError
from recbench.contracts.latency import LatencyRow
from recbench.experiment.entries import group_by_identity, label_entries
from recbench.experiment.latency import figures_of, latency_of_group, setting_of, timing
from recbench.experiment.latency_measure import sample_queries, written_tokens
from recbench.experiment.machine import CpuUse, MemoryPeak, clock_s, torch_threads
from recbench.report.figures import draw
from recbench.report.sections.latency import latency_section, pareto_front
from recbench.testing.tiny import tiny_split


def test_timing_by_hand() -> None:
    # Two repeats over batches of 4, 4 and 2 rows: 1.0 s and 2.0 s for 10 rows.
    found = timing(np.array([[0.5, 0.3, 0.2], [1.0, 0.6, 0.4]]), [4, 4, 2])
    assert found.repeats_ms == (100.0, 200.0)
    assert found.request_ms == 150.0
    assert found.batch_p50_ms == 450.0  # of 200 300 400 500 600 1000
    assert found.batch_p95_ms == pytest.approx(900.0)
    assert found.spread == pytest.approx(100 / 150)


def test_figures_leave_out_choices_on_validation_rows() -> None:
    stages = [[{"choose-alpha": 0.1, "decode": 0.2}, {"choose-alpha": 0.3, "decode": 0.25, "generate": 0.15}]]
    figures = figures_of(make_record(call_s=[[0.4, 0.8]], stages_s=stages))
    assert figures.call.request_ms == pytest.approx(1e3 * (0.3 + 0.5) / 8)
    assert figures.compute is not None
    assert figures.compute.request_ms == pytest.approx(1e3 * (0.2 + 0.4) / 8)
    assert figures.headline is figures.compute
    assert figures.cpu_ms == pytest.approx(1e3 * 0.6 / 8)


@pytest.mark.parametrize("stages", [[[{}, {}]], [[{"decode": 0.1}, {}]], [[{"choose-alpha": 0.1}] * 2]])
def test_without_stages_the_whole_call_counts(stages: Any) -> None:
    figures = figures_of(make_record(stages_s=stages))
    assert figures.compute is None
    assert figures.headline is figures.call


def test_record_round_trip_and_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path, "made-up")
    record = store_record(run)
    (file,) = (run.paths.folder.parent / ".latency").glob("*.json")
    assert LatencyRecord.read(file) == record
    store_record(run, call_s=((0.1, 0.2),))
    assert [one.times[0].call_s for one in read_latencies(run.paths.folder)] == [(0.1, 0.2)], "the same setting"
    store_record(run, threads=2)
    assert len(read_latencies(run.paths.folder)) == 2
    file.write_text(file.read_text()[:200])
    assert [one.threads for one in read_latencies(run.paths.folder)] == [2]
    assert "A latency measurement is left out" in caplog.text
    file.write_text('{"schema_version": 99}')
    with pytest.raises(ArtifactError, match="schema_version 99"):
        LatencyRecord.read(file)
    with pytest.raises(ValueError, match="passes over 2 batches"):
        make_record(call_s=[[0.1, 0.2, 0.3]])


def test_repetitions_of_a_run_share_its_measurements(tmp_path: Path) -> None:
    run = make_run(tmp_path, "made-up")
    store_record(run)
    assert len(read_latencies(run.paths.folder.with_name(f"{run.run_id}-2"))) == 1
    assert read_latencies(run.paths.folder.with_name("0000")) == []


def test_rows_of_a_group(tmp_path: Path) -> None:
    """Seeds are averaged within a setting; what was not measured has a row too."""
    fast = [make_run(tmp_path, "fast", seed=seed) for seed in (1, 2)]
    plain = make_run(tmp_path, "plain", timings_s={})
    stages = [[{"decode": 0.1}, {"decode": 0.3}]]
    store_record(fast[0], call_s=[[0.2, 0.4]], stages_s=stages, steps=8.0, dtype="float32", warnings=("noisy",))
    store_record(fast[1], call_s=[[0.6, 0.8]], stages_s=stages, steps=10.0, peak_memory_bytes={"host": 3000})
    store_record(fast[1], threads=4)
    rows = latency_of_group(label_entries(group_by_identity([*fast, plain])))
    by = {(row.label, row.setting.threads if row.setting else None): row for row in rows}
    assert set(by) == {("fast", 1), ("fast", 4), ("plain", None)}
    both = by["fast", 1]
    assert both.n_measured == 2
    assert both.figures is not None
    assert both.figures.call.request_ms == pytest.approx(1e3 * (0.6 + 1.4) / 2 / 8)
    assert both.figures.compute is not None
    assert both.figures.compute.request_ms == pytest.approx(50.0)
    assert (both.steps, both.dtype, both.peak_memory_bytes, both.warnings) == (
        9.0, "float32", {"host": 3000}, ("noisy",),
    )  # fmt: skip
    assert both.fit_s == pytest.approx(12.5 + 1.5)
    summaries = [run.summary() for run in fast]
    assert both.metrics["NDCG@10"] == pytest.approx(np.mean([one["metrics"]["NDCG@10"] for one in summaries]))
    assert both.rank_ms == pytest.approx(1e3 * 0.75 / summaries[0]["n_test"])
    assert by["plain", None].fit_s is None
    assert by["plain", None].rank_ms is None
    assert by["plain", None].figures is None


def test_training_time_is_without_the_pretraining_of_a_preset(tmp_path: Path) -> None:
    run = make_run(tmp_path, "llm", timings_s={"fit": 30.0, "pretrain": 20.0, "rank": 1.0})
    (row,) = latency_of_group(label_entries(group_by_identity([run])))
    assert row.fit_s == 10.0


def test_the_sample_is_the_same_for_everyone() -> None:
    queries = tiny_split().test.queries()
    sample = sample_queries(queries, 5)
    assert len(sample) == 5
    assert set(sample.example_id) <= set(queries.example_id)
    np.testing.assert_array_equal(sample.example_id, sample_queries(queries, 5).example_id)
    np.testing.assert_array_equal(sample.example_id, sample_queries(queries, 7).example_id[:5])
    assert sorted(sample_queries(queries, 10**6).example_id) == sorted(queries.example_id)
    for row, example in enumerate(sample.example_id):
        (place,) = np.flatnonzero(queries.example_id == example)
        np.testing.assert_array_equal(sample.history(row), queries.history(int(place)))
    with pytest.raises(DataError, match="no test row"):
        sample_queries(queries.take([]), 5)


def test_what_a_summary_tells_of_tokens() -> None:
    assert written_tokens({}) == {}
    assert written_tokens({"decoding": {"mean_steps": 9.5}, "mean_reasoning_tokens": 30}) == {
        "steps": 9.5, "reasoning_tokens": 30.0,
    }  # fmt: skip
    assert written_tokens({"decoding": "beam"}) == {}


def test_memory_and_processor_counters() -> None:
    peak = MemoryPeak("cpu")
    assert peak.since == "process"
    gc.collect()
    peak.reset()
    before = peak.bytes()["host"]
    # More than what other tests may have left to be freed in between.
    ballast = np.ones(400_000_000, dtype=np.uint8)
    after = peak.bytes()["host"]
    assert after - before > 200_000_000 if peak.since == "ranking" else after >= before
    del ballast
    earlier = CpuUse.now()
    assert earlier.others_since(earlier) is None
    start = clock_s("cpu")
    while CpuUse.now().capacity == earlier.capacity:
        pass
    share = CpuUse.now().others_since(earlier)
    assert share is not None
    assert 0 <= share <= 1
    assert clock_s("cpu") > start
    assert torch_threads() >= 1


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(POINTS)
def test_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    def dominated(a: tuple[int, int]) -> bool:
        return any(b[0] <= a[0] and b[1] >= a[1] and b != a for b in points)

    front = pareto_front([cost for cost, _ in points], [value for _, value in points])
    assert sorted(front) == [place for place, point in enumerate(points) if not dominated(point)]
    assert [points[place][0] for place in front] == sorted(points[place][0] for place in front)


def test_front_by_hand() -> None:
    # Dear and good, cheap and bad, dear and bad (dominated), a twin of the first.
    assert pareto_front([10, 1, 10, 10], [0.9, 0.1, 0.5, 0.9]) == [1, 0, 3]
    with pytest.raises(ValueError, match="zip"):
        pareto_front([1], [])


def row(label: str, value: float, ms: float | None, fit_s: float | None = 60.0, **fields: Any) -> LatencyRow:
    record = make_record(call_s=[[ms / 250, ms / 250]]) if ms is not None else None
    return LatencyRow(
        label=label,
        run_ids=(f"{label}-run",),
        metrics={"NDCG@10": value},
        fit_s=fit_s,
        rank_ms=1.0,
        **({"setting": setting_of(record), "figures": figures_of(record), "n_measured": 1} if record else {}),
        **fields,
    )


def test_section_shows_costs_and_fronts() -> None:
    rows = [
        row("good", 0.3, 50.0, 600.0),
        row("middle", 0.2, 80.0, 60.0, warnings=("Too loud.",)),
        row("cheap", 0.1, 0.001, 0.001),
        row("unmeasured", 0.05, None, None),
    ]
    section = latency_section(rows)
    assert section is not None
    (table,) = section.tables
    assert table.headline
    cells = {line.values["label"]: line.values for line in table.rows}
    assert list(cells) == ["good", "middle", "cheap", "unmeasured"]
    assert cells["good"]["request_ms"] == pytest.approx(100.0 / 2)
    assert [cells[label]["front"] for label in cells] == [
        "answering, training",
        "training",
        "answering, training",
        None,
    ]
    assert cells["unmeasured"].get("request_ms") is None
    assert "middle: Too loud." in table.notes
    assert "Not measured: unmeasured." in table.notes
    assert section.warnings == ("The times of middle are doubtful; the notes say why.",)
    assert [figure.slug for figure in section.figures] == ["answering-quality", "training-quality"]
    keys = [column.key for column in table.columns]
    assert all(set(line.values) <= set(keys) for line in table.rows)
    for figure in section.figures:
        drawn = draw(figure.draw)
        assert drawn.png.startswith(b"\x89PNG")
        assert all(label in drawn.svg for label in ("good", "cheap", "Pareto front"))
    assert "10 ms or less at the left end" in draw(section.figures[1].draw).svg


def test_times_that_mean_nothing_are_equal() -> None:
    """Training in microseconds is no reason to prefer a worse method."""
    section = latency_section([row("popularity", 0.2, None, 3e-4), row("random", 0.1, None, 2e-5)])
    assert section is not None
    assert [line.values["front"] for line in section.tables[0].rows] == ["training", None]


def test_settings_have_tables_of_their_own() -> None:
    other = row("good", 0.3, 70.0)
    assert other.setting is not None
    rows = [row("good", 0.3, 50.0), row("bad", 0.1, 10.0), replace(other, setting=replace(other.setting, threads=8))]
    section = latency_section(rows)
    assert section is not None
    assert [table.slug for table in section.tables] == ["latency", "latency-2"]
    assert [len(table.rows) for table in section.tables] == [2, 1]
    assert "8 threads" in section.tables[1].title


def test_section_without_latency_or_anything() -> None:
    section = latency_section([row("a", 0.3, None), row("b", 0.1, None, 1.0)])
    assert section is not None
    assert section.tables[0].slug == "cost"
    assert "recbench latency RUN" in section.paragraphs[0]
    assert [figure.slug for figure in section.figures] == ["training-quality"]
    assert latency_section([row("a", 0.3, None, None)]) is None
    assert latency_section([]) is None


def test_levels_of_loggers_come_back(caplog: pytest.LogCaptureFixture) -> None:
    from recbench.experiment.latency_measure import _quiet_stages

    logger = logging.getLogger("recbench")
    before = logger.level
    with _quiet_stages():
        logger.info("Stage decode begins.")
    assert logger.level == before
    assert "Stage" not in caplog.text
