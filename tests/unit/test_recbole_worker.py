"""RecBole in its worker process: it learns, goes on after any death, says what went wrong, leaves nothing behind."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from recbench.contracts.errors import RecbenchError, TrainingError, UsageError
from recbench.contracts.method import Method, RunContext
from recbench.contracts.rankings import Rankings
from recbench.methods.load import build_method
from recbench.testing.method_checks import assert_method
from recbench.testing.tiny import UNSEEN_ITEMS, tiny_catalog, tiny_split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed"),
]

FAST = {"learning_rate": 0.01, "epochs": 8}
SMALL = {**FAST, "hidden_size": 16, "inner_size": 16, "n_layers": 1}


def context(folder: Path, log: Any = lambda record: None) -> RunContext:
    folder.mkdir(parents=True, exist_ok=True)
    return RunContext(tiny_catalog(), seed=3, device="cpu", work_dir=folder, cache_dir=folder, log=log)


def fit(method: Method, ctx: RunContext) -> None:
    split = tiny_split()
    method.fit(split.train, split.valid, ctx)


def rank(method: Method, ctx: RunContext, k: int = 10) -> Rankings:
    return method.rank(tiny_split().test.queries(), k, ctx)


def hit_rate(lists: Rankings) -> float:
    targets = tiny_split().test.target
    return float(np.mean([t in lists.items[lists.offsets[i] :][:10] for i, t in enumerate(targets)]))


def workers() -> list[psutil.Process]:
    """Return the workers of methods that are still in use."""
    gc.collect()
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "baselines.recbole.worker" in " ".join(child.cmdline())]


def test_sasrec_keeps_the_contract() -> None:
    assert_method("sasrec", FAST)
    assert workers() == []


@pytest.mark.parametrize("name", ["BERT4Rec", "NARM", "LightSANs"])
def test_other_models_learn_and_put_unknown_items_last(name: str, tmp_path: Path) -> None:
    method, ctx = build_method(f"recbole:{name}", {"learning_rate": 0.01, "epochs": 30}), context(tmp_path)
    fit(method, ctx)
    lists = rank(method, ctx, k=len(ctx.catalog))
    assert ctx.timings_s["score"] > 0, "the worker's own time, without the exchange with it"
    lists.check(tiny_split().test.example_id, len(ctx.catalog))
    # 58 items lie on the planted cycle: chance is 0.17.
    assert hit_rate(lists) > 0.7
    assert method.summary()["epochs"] <= 30
    assert method.summary()["items_without_row"] == len(UNSEEN_ITEMS)
    assert np.all(lists.lengths == len(ctx.catalog))
    scores, items = (column.reshape(len(lists), -1) for column in (lists.scores, lists.items))
    assert np.array_equal(np.sort(items[:, -2:]), np.tile(sorted(UNSEEN_ITEMS), (len(lists), 1)))
    assert np.all(scores[:, -1] == scores[:, -2])
    assert np.all(scores[:, -2] < scores[:, -3])


def test_a_killed_fit_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    # Enough epochs of some milliseconds each that both blows fall in the middle.
    long = {**SMALL, "epochs": 150, "patience": 150}
    undisturbed = build_method("sasrec", long)
    fit(undisturbed, context(tmp_path / "one"))
    expected = rank(undisturbed, context(tmp_path / "one"))

    def kill_worker(record: Mapping[str, Any]) -> None:
        if record["epoch"] == 2:
            workers()[-1].send_signal(signal.SIGKILL)

    def interrupt(record: Mapping[str, Any]) -> None:
        first_epochs.append(record["epoch"])
        raise KeyboardInterrupt

    first_epochs: list[int] = []
    with pytest.raises(RecbenchError, match="was killed by SIGKILL") as caught:
        fit(build_method("sasrec", long), context(tmp_path / "two", kill_worker))
    assert "memory" in str(caught.value)
    with pytest.raises(KeyboardInterrupt):
        fit(build_method("sasrec", long), context(tmp_path / "two", interrupt))
    resumed, seen = build_method("sasrec", long), []
    fit(resumed, context(tmp_path / "two", lambda record: seen.append(record["epoch"])))
    # Each attempt goes on after the last checkpoint and none begins anew.
    assert 2 < first_epochs[0] < seen[0]
    assert seen == list(range(seen[0], 151))
    found = rank(resumed, context(tmp_path / "two"))
    assert np.array_equal(found.items, expected.items)
    assert np.array_equal(found.scores, expected.scores)


def test_a_loss_that_is_not_finite_ends_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss of epoch \d is nan\.\n.*lower learning_rate"):
        fit(build_method("sasrec", {**SMALL, "learning_rate": 1e30}), context(tmp_path))
    assert workers() == []


def test_lists_need_a_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="before it was fitted"):
        rank(build_method("sasrec"), context(tmp_path))


def test_the_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_recbole_worker import SMALL, build_method, context, fit
ctx = context(Path({str(tmp_path)!r}), lambda record: print(record["epoch"], flush=True))
fit(build_method("sasrec", {{**SMALL, "epochs": 100000, "patience": 100000}}), ctx)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "1"
    (worker,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


EQUALITIES = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.chdir({folder!r})
from pathlib import Path
import numpy as np
import torch
from baselines.recbole import isolate
from baselines.recbole.job import ModelSpec
from baselines.recbole.vocabulary import Vocabulary
isolate.prepare_process("cpu")
spec = ModelSpec(model="SASRec", loss="bce", settings=dict(n_layers=3), model_args=dict(), max_history=6)
vocabulary = Vocabulary(np.array([5, 3, 9, 1], np.int32), np.array([2, 0], np.int32))
config, dataset = isolate.build_dataset(Path("."), spec, dict(known=vocabulary.rows(6)))
dataset.build()
known = Vocabulary.of(dataset)
assert known.items.tolist() == [5, 3, 9, 1] and known.users.tolist() == [2, 0], known
torch.manual_seed(0)
model = isolate.build_model(config, dataset, spec)
assert not torch.is_anomaly_enabled()
from recbole.model.sequential_recommender import SASRec
length = torch.randint(1, 7, (200,))
history = torch.randint(1, 5, (200, 6)) * (torch.arange(6) < length[:, None])
model.eval()
difference = (model.forward(history, length) - SASRec.forward(model, history, length)).abs().max().item()
assert difference < 1e-5, difference
layer = model.trm_encoder.layer[0].feed_forward
x = torch.randn(50, 64)
assert torch.allclose(layer.intermediate_act_fn(x), layer.gelu(x), atol=1e-6)
from baselines.recbole.accelerate import UniformDropout
dropout = UniformDropout(0.3)
ones = torch.ones(200_000)
dropped = dropout(ones)
assert set(dropped.unique().tolist()) == {{0.0, float(torch.tensor(1 / 0.7))}}
assert abs((dropped == 0).float().mean().item() - 0.3) < 0.006
assert torch.equal(dropout.eval()(ones), ones)
assert sum(type(module) is torch.nn.Dropout for module in model.modules()) == 0

from recbench.contracts.errors import ConfigError
def refusal(**changes):
    defaults = dict(model="NARM", loss="ce", settings=dict(), model_args=dict(), max_history=6)
    spec = ModelSpec(**(defaults | changes))
    config, dataset = isolate.build_dataset(Path("."), spec, dict(known=vocabulary.rows(6)))
    dataset.build()
    try:
        isolate.build_model(config, dataset, spec)
    except ConfigError as error:
        return str(error)
    return "none"
assert refusal() == "none"
assert "does not read 'hiden_size'. Did you mean 'hidden_size'?" in refusal(model_args=dict(hiden_size=2))
assert "binary cross-entropy cannot replace" in refusal(model="BERT4Rec", loss="bce")
assert "cannot be built with loss 'ce'" in refusal(model="FPMC")
assert "cannot be built" in refusal(model="GCSAN", settings=dict(n_heads=3))
print("as promised")
"""


def test_models_are_equal_when_made_faster_and_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EQUALITIES.format(folder=str(tmp_path))], capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("as promised"), done.stderr[-2000:]
