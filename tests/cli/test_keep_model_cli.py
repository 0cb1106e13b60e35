"""`recbench run --keep-model`: one fit, several runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_plugins import PluginFolder
from helpers_run_commands import Here, manifest_of, only_folder, run_process

from recbench.contracts.errors import ArtifactError
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset

#: A method whose ranking reads a setting (``order``) that its fit does not. Every fit leaves a line in a file.
SHARING = '''
import json
import os
import signal

import numpy as np

from recbench.contracts.errors import ConfigError
from recbench.contracts.method import Capabilities, Method, MethodConfig
from recbench.contracts.seeding import numpy_rng
from recbench.methods.dense import rank_by_scores


class SharingConfig(MethodConfig):
    scale: float = 1.0
    order: int = 1
    share: bool = True


class Sharing(Method):
    """Random scores, ranked up or down."""

    config_class = SharingConfig

    def fit_identity(self):
        return {"fit": "sharing", "scale": self.config.scale} if self.config.share else None

    def fit(self, train, valid, ctx):
        with open(os.environ["FITS"], "a") as stream:
            stream.write("fit\\n")
        with ctx.stage("steps"):
            ctx.log({"step": 1, "loss": 0.5})
        self.scores = self.config.scale * numpy_rng(ctx.seed, "scores").random(60)

    def rank(self, queries, k, ctx):
        if os.environ.get("STOP_AT") == "rank":
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.config.order:
            raise ConfigError("order is 0, which is neither up nor down.", "Give 1 or -1.")
        return rank_by_scores(queries, k, 60, lambda batch: np.tile(self.config.order * self.scores, (len(batch), 1)))

    def save(self, folder):
        (folder / "scores.json").write_text(json.dumps(self.scores.tolist()))

    @classmethod
    def load(cls, folder, config, ctx):
        method = cls(config)
        method.scores = np.array(json.loads((folder / "scores.json").read_text()))
        return method
'''


@pytest.fixture
def runs_dir(tmp_path: Path, plugins: PluginFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for runs; the method ``sharing`` and the tiny data set are there."""
    save_dataset(tiny_dataset())
    plugins.add(
        "sharing-method", {"sharing": "sharing:Sharing", "sharing-too": "sharing:Sharing"}, {"sharing.py": SHARING}
    )
    monkeypatch.setenv("FITS", str(tmp_path / "fits.txt"))
    return tmp_path / "runs"


@pytest.fixture
def run(here: Here, runs_dir: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs ``sharing`` and returns the document it printed."""

    def run_it(*arguments: str, method: str = "sharing") -> dict[str, Any]:
        done = here("run", "--method", method, "--dataset", "tiny", "--runs-dir", runs_dir, "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return run_it


def n_fits(runs_dir: Path) -> int:
    return len((runs_dir.parent / "fits.txt").read_text().splitlines())


def rankings_hash(document: dict[str, Any]) -> str:
    return str(manifest_of(Path(document["path"]))["files"]["rankings.parquet"])


def test_runs_that_differ_in_ranking_share_one_fit(run: Callable[..., dict[str, Any]], runs_dir: Path) -> None:
    first = run("--keep-model")
    other = run("--set", "order=-1")
    third = run(method="sharing-too")
    assert n_fits(runs_dir) == 1
    assert first["fit_id"] == other["fit_id"] == third["fit_id"]
    assert len({first["run_id"], other["run_id"], third["run_id"]}) == 3
    assert first["fit_reused_from"] is None
    assert other["fit_reused_from"] == third["fit_reused_from"] == first["run_id"]
    for stage in ("fit", "steps"):
        assert other["timings_s"][stage] == first["timings_s"][stage], "the cost of a shared fit is told in full"
    assert other["timings_s"]["rank"] != first["timings_s"]["rank"]
    logs = [(Path(document["path"]) / "train.jsonl").read_text() for document in (first, other)]
    assert logs[0] == logs[1] == '{"step": 1, "loss": 0.5}\n'
    fresh = run("--set", "order=-1", "--again")
    assert n_fits(runs_dir) == 2, "--again fits afresh"
    assert fresh["fit_reused_from"] is None
    assert rankings_hash(fresh) == rankings_hash(other) != rankings_hash(first), "loaded with its own configuration"


@pytest.mark.parametrize(
    "change",
    [["--set", "scale=2"], ["--seed", "7"], ["--limit-train", "30"], ["--set", "protocol.split=leave-one-out"]],
)
def test_other_fits_are_not_shared(run: Callable[..., dict[str, Any]], runs_dir: Path, change: list[str]) -> None:
    first = run("--keep-model")
    assert run(*change)["fit_id"] != first["fit_id"]
    assert n_fits(runs_dir) == 2


def test_what_only_concerns_test_rows_and_lists_shares_a_fit(
    run: Callable[..., dict[str, Any]], runs_dir: Path
) -> None:
    first = run("--keep-model")
    n_valid = 50  # --limit-test limits the validation rows too; this keeps them all
    limited = run("--limit-test", str(n_valid))
    deeper = run("--set", "protocol.depth=20")
    assert limited["limited"]
    assert first["fit_id"] == limited["fit_id"] == deeper["fit_id"]
    assert n_fits(runs_dir) == 1


def test_no_reuse_and_nothing_to_share(
    run: Callable[..., dict[str, Any]], runs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("--keep-model")
    assert run("--no-reuse", "--set", "order=-1")["fit_reused_from"] is None
    assert n_fits(runs_dir) == 2
    alone = run("--keep-model", "--set", "share=false")
    assert alone["fit_id"] is None
    assert "has nothing to share" in caplog.text
    run("--keep-model", "--set", "share=false")
    assert "its model is gone" in caplog.text


def test_damaged_model_is_fitted_afresh_and_replaced(run: Callable[..., dict[str, Any]], runs_dir: Path) -> None:
    first = run("--keep-model")
    (runs_dir / ".models" / first["fit_id"] / "model" / "scores.json").write_text("[]")
    second = run("--keep-model", "--set", "order=-1")
    assert "scores.json has changed" in (Path(second["path"]) / "log.txt").read_text()
    assert (second["fit_reused_from"], n_fits(runs_dir)) == (None, 2)
    assert run(method="sharing-too")["fit_reused_from"] == second["run_id"]


def test_killed_after_a_model_was_loaded(run: Callable[..., dict[str, Any]], here: Here, runs_dir: Path) -> None:
    first = run("--keep-model")
    arguments = ["run", "--method", "sharing", "--dataset", "tiny", "--runs-dir", runs_dir, "--set", "order=-1"]
    assert run_process(*arguments, STOP_AT="rank").returncode == -signal.SIGKILL
    assert here("runs", "prune-models", "--all", "--runs-dir", runs_dir).returncode == 0
    second = run("--set", "order=-1")
    assert (second["fit_reused_from"], n_fits(runs_dir)) == (first["run_id"], 1)
    assert second["timings_s"]["fit"] == first["timings_s"]["fit"], "counted once over all attempts"


def test_a_run_that_fails_after_its_fit_leaves_it_to_a_corrected_one(
    run: Callable[..., dict[str, Any]], here: Here, runs_dir: Path
) -> None:
    arguments = ["run", "--method", "sharing", "--dataset", "tiny", "--runs-dir", runs_dir, "--set"]
    assert here(*arguments, "order=0").returncode == 2
    assert not (runs_dir / ".models").exists(), "it was not asked for"
    assert here(*arguments, "order=0", "--keep-model").returncode == 2
    assert n_fits(runs_dir) == 1, "the same run goes on after its fit"
    failed = only_folder(runs_dir, "sharing").name
    assert run()["fit_reused_from"] == run("--set", "order=-1")["fit_reused_from"] == failed
    assert n_fits(runs_dir) == 1


def test_a_run_that_is_killed_while_ranking_leaves_its_fit_to_others(
    run: Callable[..., dict[str, Any]], runs_dir: Path
) -> None:
    arguments = ["run", "--method", "sharing", "--dataset", "tiny", "--runs-dir", runs_dir, "--keep-model"]
    assert run_process(*arguments, STOP_AT="rank").returncode == -signal.SIGKILL
    killed = only_folder(runs_dir, "sharing").name
    assert (run("--set", "order=-1")["fit_reused_from"], n_fits(runs_dir)) == (killed, 1)


def test_lists_that_were_made_before_the_model_was_to_be_kept(
    run: Callable[..., dict[str, Any]], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ArtifactError("no room")

    with monkeypatch.context() as broken:
        broken.setattr("recbench.experiment.run.write_evaluation", fail)
        with pytest.raises(AssertionError, match="no room"):
            run()
    first = run("--keep-model")
    assert (run("--set", "order=-1")["fit_reused_from"], n_fits(runs_dir)) == (first["run_id"], 1)


def test_listed_and_pruned(run: Callable[..., dict[str, Any]], here: Here, runs_dir: Path) -> None:
    assert "No kept models" in here("runs", "models", "--runs-dir", runs_dir).stdout
    first = run("--keep-model")
    (row,) = json.loads(here("runs", "models", "--runs-dir", runs_dir, "--json").stdout)["models"]
    assert (row["fit_id"], row["fitted_by"], row["fit_s"]) == (
        first["fit_id"], first["run_id"], first["timings_s"]["fit"],
    )  # fmt: skip
    assert row["size_bytes"] > 500
    assert first["run_id"] in here("runs", "models", "--runs-dir", runs_dir).stdout
    assert len(json.loads(here("runs", "list", "--runs-dir", runs_dir, "--json").stdout)["runs"]) == 1
    wrong = here("runs", "prune-models", "nonsense", "--runs-dir", runs_dir)
    assert (wrong.returncode, "No kept model 'nonsense'" in wrong.stderr) == (2, True)
    assert here("runs", "prune-models", "--runs-dir", runs_dir).returncode == 2
    done = here("runs", "prune-models", first["fit_id"], "--runs-dir", runs_dir, "--json")
    assert json.loads(done.stdout)["removed"][0]["size_bytes"] == row["size_bytes"]
    assert not (runs_dir / ".models" / first["fit_id"]).exists()
