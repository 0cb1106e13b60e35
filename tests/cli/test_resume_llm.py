"""LatentR3 killed in fine-tuning, in reinforcement learning and in decoding ends with the lists of a quiet run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pandas as pd
import pytest
from helpers_plugins import PluginFolder
from helpers_run_commands import manifest_of, only_folder, run_process

from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_catalog, tiny_dataset
from recbench.testing.tiny_llm import make_tiny_llm

# The method itself, with a witness at the places where it logs a step and where it has decoded a batch.
MORTAL = '''
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

from latent.method import LatentR3

STAGE, _, COUNT = os.environ.get("DIE_IN", "nowhere:0").partition(":")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Witness:
    """Counts decoded queries."""

    done = 0

    @contextmanager
    def bar(self, label, total, done=0):
        yield self

    def advance(self, steps=1):
        self.done += steps
        if STAGE == "decode" and self.done >= int(COUNT):
            die()

    def note(self, text):
        pass


class Mortal(LatentR3):
    """LatentR3 in a dangerous place."""

    def fit(self, train, valid, ctx):
        def log(record):
            ctx.log(record)
            if record.get("stage") == STAGE and record.get("step") == int(COUNT):
                die()

        super().fit(train, valid, replace(ctx, log=log))

    def rank(self, queries, k, ctx):
        return super().rank(queries, k, replace(ctx, progress=Witness()))
'''

SETTINGS = [
    "sft.epochs=2", "sft.batch_size=8", "sft.micro_batch_size=4", "sft.checkpoint_steps=3", "sft.log_steps=1",
    "sft.max_rows=48", "sft.eval_rows=8",
    "rl.batch_size=4", "rl.max_rows=24", "rl.samples=4", "rl.checkpoint_steps=2", "rl.log_steps=1",
    "decoding.batch_size=1", "decoding.beams=4",
]  # fmt: skip
DEATHS = ["sft:5", "rl:3", "decode:20"]


@pytest.mark.slow
def test_kills_in_every_stage_change_nothing(plugins: PluginFolder, tmp_path: Path) -> None:
    save_dataset(tiny_dataset())
    plugins.add("mortal-method", {"mortal": "mortal:Mortal"}, {"mortal.py": MORTAL})
    backbone = make_tiny_llm(tmp_path / "backbone", tiny_catalog().titles)
    command = ["run", "--method", "mortal", "--dataset", "tiny", "--backbone", str(backbone), "--device", "cpu"]
    command += ["--json", *(word for setting in SETTINGS for word in ("--set", setting))]
    for death in DEATHS:
        killed = run_process(*command, "--runs-dir", tmp_path / "disturbed", DIE_IN=death)
        assert killed.returncode == -signal.SIGKILL, (death, killed.stderr)
    resumed = run_process(*command, "--runs-dir", tmp_path / "disturbed")
    assert resumed.returncode == 0, resumed.stderr
    quiet = run_process(*command, "--runs-dir", tmp_path / "quiet")
    assert quiet.returncode == 0, quiet.stderr
    ours, theirs = (only_folder(tmp_path / name, "mortal") for name in ("disturbed", "quiet"))
    assert manifest_of(ours)["attempts"] == 4
    pd.testing.assert_frame_equal(
        pd.read_parquet(ours / "rankings.parquet"), pd.read_parquet(theirs / "rankings.parquet")
    )
    assert (ours / "generations.jsonl").read_text() == (theirs / "generations.jsonl").read_text()
    steps = [json.loads(line) for line in (ours / "train.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if record["stage"] == "sft" and "loss" in record].count(1) == 1, (
        "a killed stage goes on from its last checkpoint and not from its start"
    )
