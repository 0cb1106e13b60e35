"""The documented way from a RecBole model to a table that recbench imports, run as it stands in docs/exchange.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbench.artifacts.asked import Asked
from recbench.artifacts.list_tables import read_list_table
from recbench.contracts.rankings import rankings_from_scores
from recbench.evaluation.evaluate import evaluate
from recbench.testing.tiny import tiny_dataset, tiny_split

DOCS = Path(__file__).resolve().parents[2] / "docs" / "exchange.md"

#: In a process of its own, like everything of RecBole. Rows go in with recbench's numbers as RecBole's tokens.
SCRIPT = """
import os
import sys
from pathlib import Path

import torch

from baselines.recbole.config import GRU4RecConfig
from baselines.recbole.isolate import build_dataset, build_model, prepare_process
from baselines.recbole.job import ModelSpec
from recbench.testing.tiny import tiny_dataset, tiny_split

folder = Path(sys.argv.pop(1))
os.chdir(folder)
prepare_process("cpu")
dataset, split = tiny_dataset(), tiny_split()


def lines(part):
    ids, users = dataset.catalog.ids, dataset.users
    return [
        f"{users[part.user[row]]}\\t{' '.join(ids[item] for item in part.history(row))}\\t{ids[part.target[row]]}"
        for row in range(len(part))
    ]


spec = ModelSpec(model="GRU4Rec", loss="ce", settings=GRU4RecConfig().settings(), model_args={}, max_history=10)
config, data = build_dataset(folder, spec, {name: lines(getattr(split, name)) for name in ("train", "valid", "test")})
model = build_model(config, data, spec)
from recbole.data.dataloader import FullSortEvalDataLoader

test_data = FullSortEvalDataLoader(config, data.build()[2], None, shuffle=False)
code = (folder / "docs.py").read_text()
exec(code)
table = list_table(model, test_data, folder / "metrics.parquet", k=7)
table.to_parquet(folder / "lists.parquet")

# RecBole's own words on the first rows, by another way: one prediction per row.
batch = test_data.dataset.inter_feat
best = model.eval().full_sort_predict(batch)[:, 1:].argmax(dim=1) + 1
names = data.id2token("item_id", best.detach().numpy())
users = data.id2token("user_id", batch["user_id"].numpy())
targets = data.id2token("item_id", batch["item_id"].numpy())
(folder / "best.txt").write_text("".join(f"{u} {t} {b}\\n" for u, t, b in zip(users, targets, names)))
"""


def test_documented_table_of_recbole(tmp_path: Path) -> None:
    pytest.importorskip("recbole", reason="needs RecBole")
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "docs.py").write_text(code)
    dataset, split = tiny_dataset(), tiny_split()
    flat = rankings_from_scores(split.test.example_id, np.tile(np.arange(60.0), (len(split.test), 1)), 3)
    evaluate(flat, split.test, dataset.catalog, dataset.users).to_parquet(tmp_path / "metrics.parquet")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    read = read_list_table(tmp_path / "lists.parquet", Asked(split.test.example_id, dataset.catalog))
    assert set(read.lengths) == {7}
    expected = {tuple(line.split()[:2]): line.split()[2] for line in (tmp_path / "best.txt").read_text().splitlines()}
    for row in range(len(split.test)):
        key = (dataset.users[split.test.user[row]], dataset.catalog.ids[split.test.target[row]])
        assert dataset.catalog.ids[read.items[read.offsets[row]]] == expected[key]
