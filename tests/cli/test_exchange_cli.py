"""`recbench runs export` and `import`: other engines agree with our metrics, and what comes back measures the same."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
import pytest
from helpers_run_commands import Here
from helpers_runs import make_run

from recbench.artifacts.store import RunStore, StoredRun
from recbench.cli.app import execute
from recbench.contracts.protocol import Protocol
from recbench.data.split import make_split
from recbench.data.store import save_dataset
from recbench.testing.tiny import UNSEEN_ITEMS, tiny_dataset

#: Our name -> ir_measures' and ranx's.
MEASURES = {"NDCG@10": ("nDCG@10", "ndcg@10"), "HR@5": ("Success@5", "hit_rate@5"), "MRR@10": ("RR@10", "mrr@10")}


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    """Return a run whose lists hold many ties and scores that single precision cannot tell apart."""
    from recbench.artifacts.tables import read_rankings, write_rankings
    from recbench.experiment.evaluate import write_evaluation

    dataset = tiny_dataset()
    save_dataset(dataset)
    made = make_run(tmp_path / "runs", "made-up", quality=0.4)
    split = make_split(dataset, Protocol())
    lists = read_rankings(made.paths.rankings, dataset.catalog)
    scores = np.round(lists.scores, 1) + 1e-12 * (lists.items % 2 == 0)
    order = np.lexsort((lists.items, -scores, np.repeat(np.arange(len(lists)), lists.lengths)))
    lists = replace(lists, items=lists.items[order], scores=scores[order])
    write_rankings(made.paths.rankings, lists, dataset.catalog)
    write_evaluation(made.paths, lists, dataset, split, Protocol(), {})
    return made.update_hashes(made.paths.results)


def export(run: StoredRun, here: Here, out: Path, *options: str) -> dict[str, Any]:
    runs_dir = run.paths.folder.parents[2]
    qrels = out.with_suffix(".qrels")
    done = here(
        "runs", "export", run.run_id, "--out", out, "--qrels", qrels, "--runs-dir", runs_dir, "--json", *options
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def import_back(run: StoredRun, here: Here, file: Path, *options: str) -> dict[str, Any]:
    runs_dir = run.paths.folder.parents[2]
    arguments = ["--method", "other", "--dataset", "tiny", "--runs-dir", runs_dir, "--json", *options]
    done = here("runs", "import", file, *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_kept_ties_are_told_and_come_back(run: StoredRun, here: Here, tmp_path: Path, caplog: Any) -> None:
    """As a TREC file, CSV and Parquet: the same metrics by both truths."""
    exported = export(run, here, tmp_path / "lists.run")
    assert exported["ties"] == "keep"
    assert exported["lists"] == run.summary()["n_test"]
    assert exported["tied_lists"] > 0
    assert exported["merged_lists"] > 0
    assert "--ties break" in caplog.text
    export(run, here, tmp_path / "lists.csv", "--format", "csv")
    pd.read_csv(tmp_path / "lists.csv").to_parquet(tmp_path / "lists.parquet")
    (tmp_path / "lists.csv.gz").write_bytes(gzip.compress((tmp_path / "lists.csv").read_bytes()))
    summary = run.summary()
    for name in ("lists.run", "lists.csv", "lists.csv.gz", "lists.parquet"):
        document = import_back(run, here, tmp_path / name)
        assert document["metrics"] == summary["metrics"], name
        stored = RunStore(run.paths.folder.parents[2]).get(document["run_id"])
        assert stored.summary()["metrics_title"] == summary["metrics_title"], name
        assert stored.verify() == []


@pytest.mark.parametrize("lead", [0.0, 1e-10])
def test_why_ties_are_broken(lead: float) -> None:
    """What docs/exchange.md says of other engines: a tie, or nearly one, is ordered by item id."""
    measure = ir_measures.parse_measure("nDCG@10")
    values = {}
    for target, other in ("ab", "ba"):
        lists = [ir_measures.ScoredDoc("1", target, 0.1 + lead), ir_measures.ScoredDoc("1", other, 0.1)]
        qrels = [ir_measures.Qrel("1", target, 1)]
        values[target] = ir_measures.calc_aggregate([measure], qrels, lists)[measure]
    assert values == {"a": pytest.approx(1 / np.log2(3)), "b": 1.0}


def test_ir_measures_agrees_on_broken_ties(run: StoredRun, here: Here, tmp_path: Path) -> None:
    out = tmp_path / "lists.run"
    export(run, here, out, "--ties", "break", "--tie-seed", "3")
    ours = import_back(run, here, out)["metrics"]
    found = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name, _ in MEASURES.values()],
        ir_measures.read_trec_qrels(str(out.with_suffix(".qrels"))),
        ir_measures.read_trec_run(str(out)),
    )
    theirs = {str(measure): value for measure, value in found.items()}
    for name, (other, _) in MEASURES.items():
        assert theirs[other] == pytest.approx(ours[name], abs=1e-9)


#: Without compiling: it takes a minute, and these lists are short.
RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
qrels, run = Qrels.from_file(sys.argv[1], kind="trec"), Run.from_file(sys.argv[2], kind="trec")
values = evaluate(qrels, run, sys.argv[3:], make_comparable=True)
print(json.dumps({name: float(value) for name, value in values.items()}))
"""


def test_ranx_agrees_on_broken_ties(run: StoredRun, here: Here, tmp_path: Path) -> None:
    pytest.importorskip("ranx", reason="needs ranx, which brings numba and is no part of the dev extra")
    out = tmp_path / "lists.run"
    export(run, here, out, "--ties", "break")
    ours = import_back(run, here, out)["metrics"]
    command = [sys.executable, "-c", RANX, out.with_suffix(".qrels"), out, *(ranx for _, ranx in MEASURES.values())]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env=environment)
    theirs = json.loads(done.stdout.splitlines()[-1])
    for name, (_, other) in MEASURES.items():
        assert theirs[other] == pytest.approx(ours[name], abs=1e-9)


def title_rows(n_wrong: int = 0) -> list[dict[str, Any]]:
    """Return a result file of the tiny test part: every target at place 2, behind another or an unknown title."""
    dataset = tiny_dataset()
    test = make_split(dataset, Protocol()).test
    titles = dataset.catalog.titles
    rows = []
    for number, target in enumerate(test.target):
        first = "No such film" if number < n_wrong else titles[UNSEEN_ITEMS[0]]
        rows.append(
            {"input": "", "output": f'"{titles[target]}"\n', "predict": [f'"{first}"\n', f'"{titles[target]}"\n']}
        )
    return rows


def test_title_file_as_a_run(here: Here, tmp_path: Path) -> None:
    save_dataset(tiny_dataset())
    file = tmp_path / "result.json"
    file.write_text(json.dumps(title_rows()))
    arguments = ["--method", "published", "--dataset", "tiny", "--runs-dir", tmp_path / "runs"]
    document = json.loads(here("runs", "import", file, *arguments, "--json").stdout)
    assert document["format"] == "titles-json"
    stored = RunStore(tmp_path / "runs").get("published")
    titled = np.array(
        [bool(tiny_dataset().catalog.titles[t]) for t in make_split(tiny_dataset(), Protocol()).test.target]
    )
    summary = stored.summary()
    assert summary["metrics_title"]["HR@3"] == pytest.approx(titled.mean())
    assert summary["metrics"]["HR@1"] == 0
    # The published rule also counts an empty title as a hit where the target has none.
    assert document["facts"]["published_rule"]["NDCG@5"] == pytest.approx(1 / np.log2(3))
    assert len(stored.paths.generations.read_text().splitlines()) == summary["n_test"]
    assert stored.verify() == []
    shown = here("runs", "import", file, *arguments).stdout
    assert "As the published code counts, by title: HR@1 " in shown


def test_unknown_titles_are_counted_and_told(here: Here, tmp_path: Path) -> None:
    save_dataset(tiny_dataset())
    file = tmp_path / "result.json"
    file.write_text(json.dumps(title_rows(n_wrong=5)))
    arguments = ["--method", "published", "--dataset", "tiny", "--runs-dir", tmp_path / "runs", "--json"]
    document = json.loads(here("runs", "import", file, *arguments).stdout)
    assert document["facts"]["invalid_titles"] >= 5
    (note,) = [note for note in document["notes"] if "no title of the catalogue" in note]
    assert "move up" in note
    # The published rule gives an unknown title its place; here it leaves it.
    assert document["metrics"]["HR@1"] > 0
    assert document["facts"]["published_rule"]["HR@1"] == 0


@pytest.mark.parametrize(
    ("name", "content", "options", "code", "message"),
    [
        ("a.csv", None, [], 3, "does not exist"),
        ("a.csv", "example_id,rank,item\n", [], 3, "lacks the columns item_id"),
        ("a.csv", "example_id,rank,item_id\n0,1,i01\n", [], 3, "but a training row"),
        ("a.json", '[{"output": "x"', [], 3, "may have been cut off"),
        ("a.json", "[]", [], 3, "has 0 rows; the test part has"),
        ("a.txt", "", ["--format", "titles-json"], 3, "is not valid JSON"),
        ("a.csv", "", ["--format", "parquet"], 2, "does not look like parquet"),
        ("a.run", "", ["--format", "xml"], 2, "xml"),
    ],
)
def test_wrong_files_leave_nothing(
    here: Here, tmp_path: Path, name: str, content: str | None, options: list[str], code: int, message: str
) -> None:
    save_dataset(tiny_dataset())
    if content is not None:
        (tmp_path / name).write_text(content)
    arguments = ["--method", "wrong", "--dataset", "tiny", "--runs-dir", tmp_path / "runs", *options]
    done = here("runs", "import", tmp_path / name, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_published_cds_file_form(shared: Path, here: Here, tmp_path: Path) -> None:
    """On the published CDs test rows: perfect titles are perfect by title, and not by item."""
    source = shared / "data" / "cds_2018_latentr3" / "orig"
    assert execute(["datasets", "import", str(source), "--name", "cds-exchange", "--format", "d3-csv"]) == 0
    rows = pd.read_csv(source / "test.csv.gz")
    given = [{"output": f'"{title}"\n', "predict": [f'"{title}"\n', '"Hot Rocks"\n']} for title in rows["item_title"]]
    file = tmp_path / "result.json"
    file.write_text(json.dumps(given))
    arguments = ["--method", "perfect", "--dataset", "cds-exchange", "--runs-dir", tmp_path / "runs", "--json"]
    done = here("runs", "import", file, *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["facts"]["published_rule"]["HR@1"] == pytest.approx(1.0, abs=0.01)
    stored = RunStore(tmp_path / "runs").get("perfect")
    assert stored.summary()["metrics_title"]["HR@1"] == 1.0
    # 846 of 6,157 targets share their title, so the item is one of several tied ones.
    assert 0.86 < document["metrics"]["HR@1"] < 0.95
    file.write_text(json.dumps(given[1:] + given[:1]))
    done = here("runs", "import", file, *arguments)
    assert done.returncode == 3
    assert "row 1: the target is" in done.stderr
