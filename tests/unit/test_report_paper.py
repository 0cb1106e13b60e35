"""The paper's values: equal to the facts they were made from, and shown beside exactly what they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_runs import make_run

from recbench.artifacts.store import RunStore
from recbench.contracts.dataset import Dataset
from recbench.contracts.protocol import Protocol
from recbench.experiment.report import collect
from recbench.report.document import Section
from recbench.report.paper.values import PaperRow, load_paper
from recbench.testing.tiny import tiny_dataset

METRICS = {"HR@5": "H@5", "HR@10": "H@10", "NDCG@5": "N@5", "NDCG@10": "N@10"}
DATASETS = {"toys": "Toys", "cds": "CDs", "games": "Games", "instruments": "Instruments", "steam": "Steam"}
BEAM: dict[str, Any] = {"mode": "constrained", "search": "beam", "beams": 10, "length_penalty": 1.0}


def renamed(name: str) -> Dataset:
    tiny = tiny_dataset()
    return Dataset(name, tiny.users, tiny.catalog, tiny.interactions, source="planted")


def paper_of(runs_dir: Path) -> list[Section]:
    return [s for group in collect(RunStore(runs_dir)).groups for s in group.sections if s.slug == "paper"]


def test_values_equal_the_facts(shared: Path) -> None:
    facts = yaml.safe_load((shared / "facts" / "paper_tables.yaml").read_text())["tables"]
    for row in load_paper().rows:
        printed = facts[f"table{row.table}"]["data"][DATASETS[row.dataset]][row.label]
        assert row.values == {ours: printed[theirs] for ours, theirs in METRICS.items()}, row
    for table in (1, 5):
        for dataset, methods in facts[f"table{table}"]["data"].items():
            ours = {row.label for row in load_paper().rows if row.table == table and DATASETS[row.dataset] == dataset}
            assert ours == set(methods)


def test_doubtful_values_are_flagged(shared: Path) -> None:
    facts = yaml.safe_load((shared / "facts" / "paper_tables.yaml").read_text())["tables"]
    flagged = {(row.table, row.dataset, row.label): row.flag for row in load_paper().rows if row.flag}
    for cell, flag in facts["table1"]["cell_flags"].items():
        dataset, label, *_ = cell.split(".")
        if label != "*":
            assert flagged[1, dataset.lower(), label] == flag
    assert flagged[12, "cds", "mask token"] == "columns_swapped"
    paper = load_paper()
    assert {row.flag for row in paper.rows if row.flag} == set(paper.flags)
    assert {1, 6, 12, 13} <= set(paper.notes)
    for row in paper.rows:
        looks_swapped = row.values["NDCG@10"] > row.values["HR@10"] or row.values["NDCG@5"] > row.values["HR@5"]
        assert looks_swapped == (row.flag in ("swapped_suspected", "columns_swapped")), row


def line(settings: dict[str, Any], differs: dict[str, Any] | None = None) -> PaperRow:
    return PaperRow(1, "cds", "x", "x", settings, {}, differs=differs or {})


def test_settings_decide_and_keys_that_do_not_exist_are_no_obstacle() -> None:
    config = {"loss": "bce", "decoding": {"search": "beam"}, "lora": None}
    assert line({"loss": "bce", "decoding.search": "beam", "lora": None}).fits(config)
    assert line({"new": 1, "rl.enabled": True, "decoding.other": 1}).fits(config)
    assert not line({"loss": "ce"}).fits(config)
    assert not line({"decoding.search": "exact"}).fits(config)
    assert not line({"lora": None}).fits({"lora": {"rank": 8}})


def test_what_a_row_is_about_must_be_there_and_wins() -> None:
    assert line({"loss": "bce"}, {"loss": "ce"}).fits({"loss": "ce"})
    assert not line({}, {"loss": "ce"}).fits({})


@pytest.mark.parametrize(
    ("method", "config", "table", "label"),
    [
        ("sasrec", {"loss": "bce"}, 1, "SASRec"),
        ("bigrec", {"decoding": BEAM}, 1, "BIGRec"),
        ("bigrec", {"decoding": {**BEAM, "mode": "grounding"}}, 4, "BIGRec (grounding)"),
        ("latentr3", {"thoughts": 1, "decoding": BEAM}, 1, "BIGRec+LatentR3"),
        ("latentr3", {"thoughts": 1, "decoding": {**BEAM, "length_penalty": 0.0}}, 1, "D3+LatentR3"),
        ("latentr3", {"thoughts": 1, "rl": {"enabled": False}, "decoding": BEAM}, 2, "w/o RL"),
        ("latentr3", {"thoughts": 1, "rl": {"advantage": "group"}, "decoding": BEAM}, 2, "w/o Batch Advantage"),
        ("latentr3", {"thoughts": 0, "decoding": BEAM}, 2, "w/o Reasoning"),
        ("latentr3", {"reasoner": "last_hidden", "thoughts": 1, "decoding": BEAM}, 2, "w/o LatentRATT"),
        ("latentr3", {"thoughts": 1, "thought_at_inference": "masked", "decoding": BEAM}, 12, "mask token"),
    ],
)
def test_variants_find_their_line(method: str, config: dict[str, Any], table: int, label: str) -> None:
    found: list[PaperRow] = [
        row
        for row in load_paper().rows
        if (row.dataset, row.method) == ("cds", method) and not row.backbone and row.fits(config)
    ]
    assert (found[0].table, found[0].label) == (table, label)


def test_the_defaults_of_the_methods_find_the_headline_table() -> None:
    from recbench.methods.load import build_method

    expected = {"bigrec": "BIGRec", "d3": "D3", "latentr3": "BIGRec+LatentR3", "sasrec": "SASRec", "base": "Base"}
    for method, label in expected.items():
        config = build_method(method).config.model_dump(mode="json")
        rows = [row for row in load_paper().rows if (row.dataset, row.method, row.backbone) == ("toys", method, None)]
        assert next(row.label for row in rows if row.fits(config)) == label


def test_shown_beside_ours_with_a_warning(tmp_path: Path) -> None:
    make_run(tmp_path, "sasrec", dataset=renamed("cds"), config={"loss": "bce"})
    make_run(tmp_path, "sasrec", dataset=renamed("cds"), config={"loss": "ce"}, quality=0.1)
    make_run(tmp_path, "popularity", dataset=renamed("cds"), quality=0.2)
    (section,) = paper_of(tmp_path)
    (row,) = section.tables[0].rows
    assert row.values["label"] == "sasrec (loss=bce)"
    assert row.values["paper/NDCG@10"] == 0.0691
    assert "title" in section.paragraphs[0]
    assert "language model" in section.warnings[0]
    (group,) = collect(RunStore(tmp_path)).groups
    board = group.sections[0].tables[0]
    shown = {row.values["label"]: row.values["paper"] for row in board.rows}
    assert shown == {"sasrec (loss=bce)": 0.0691, "sasrec (loss=ce)": None, "popularity": None}
    assert "paper" in {column.key for column in board.columns}


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("cds-strict", Protocol()),
        ("cds_2018_latentr3", Protocol()),
        ("cds", Protocol(limit_test=20)),
        ("cds", Protocol(mask_history=True)),
        ("cds", Protocol(split="leave-one-out")),
    ],
)
def test_never_beside_other_data_protocols_or_try_outs(tmp_path: Path, name: str, protocol: Protocol) -> None:
    make_run(tmp_path, "sasrec", dataset=renamed(name), config={"loss": "bce"}, protocol=protocol)
    assert paper_of(tmp_path) == []
    (group,) = collect(RunStore(tmp_path)).groups
    assert "paper" not in {column.key for column in group.sections[0].tables[0].columns}
