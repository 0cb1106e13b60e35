"""`recbench run --tune`: settings are chosen on validation rows, every trial is kept, and a killed search goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers_plugins import PluginFolder
from helpers_run_commands import Done, Here, manifest_of, run_process

from recbench.contracts.examples import Examples
from recbench.contracts.gain import mean_ndcg
from recbench.contracts.rankings import rankings_from_scores
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset, tiny_split

#: Every list is the items in their order, beginning at ``offset``, so that each metric can be computed by hand. What
#: is fitted and which rows are ranked is noted in a file. The scale of the scores is no part of the fit.
ROTATE = '''
import json
import os
import signal

import numpy as np

from recbench.contracts.config import StrictModel
from recbench.contracts.errors import TrainingError
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import Method, MethodConfig
from recbench.methods.dense import rank_by_scores


class Inner(StrictModel):
    scale: float = 1.0


class RotateConfig(MethodConfig):
    offset: int = 0
    share: bool = True
    inner: Inner = Inner()


def note(*words):
    with open(os.environ["NOTES"], "a") as stream:
        stream.write(json.dumps(words) + "\\n")


class Rotate(Method):
    """Items in their order, beginning at an offset."""

    config_class = RotateConfig

    def fit_identity(self):
        return {"offset": self.config.offset} if self.config.share else None

    def fit(self, train, valid, ctx):
        if os.environ.get("STOP_AT") == str(self.config.offset):
            os.kill(os.getpid(), signal.SIGKILL)
        note("fit", self.config.offset)
        if self.config.offset < 0:
            raise TrainingError("the loss is not finite")
        if self.config.offset == 1000:
            raise ZeroDivisionError("a bug")

    def rank(self, queries, k, ctx):
        if os.environ.get("STOP_AT_SCALE") == str(self.config.inner.scale):
            os.kill(os.getpid(), signal.SIGKILL)
        note("rank", self.config.offset, queries.example_id.tolist())
        if self.config.inner.scale == 0:
            return rank_by_scores(queries, k, 60, lambda batch: np.full((len(batch), 60), np.nan))
        scores = -((np.arange(60) - self.config.offset) % 60) * self.config.inner.scale
        return rank_by_scores(queries, k, 60, lambda batch: np.tile(scores, (len(batch), 1)))

    def likelihood(self, examples, ctx):
        note("likelihood", self.config.offset, examples.example_id.tolist())
        if self.config.offset == 59:
            return None
        logprob = -0.1 * ((examples.target - self.config.offset) % 60)
        return Likelihood(logprob.astype(float), np.ones(len(examples), dtype=np.int64))

    def save(self, folder):
        (folder / "offset.json").write_text(json.dumps(self.config.offset))

    @classmethod
    def load(cls, folder, config, ctx):
        assert json.loads((folder / "offset.json").read_text()) == config.offset
        return cls(config)
'''


def value_of(offset: int, rows: Examples) -> float:
    """Return NDCG@10 of ``rotate``'s lists."""
    scores = np.tile(-((np.arange(60) - offset) % 60).astype(float), (len(rows), 1))
    return mean_ndcg(rankings_from_scores(rows.example_id, scores, 50), rows.target)


@pytest.fixture
def notes(tmp_path: Path, plugins: PluginFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[Any]]]:
    """Make ``rotate`` and the tiny data set known; return a function that returns the notes of one kind."""
    save_dataset(tiny_dataset())
    plugins.add("rotate-method", {"rotate": "rotate:Rotate"}, {"rotate.py": ROTATE})
    file = tmp_path / "notes.txt"
    monkeypatch.setenv("NOTES", str(file))

    def read(kind: str) -> list[list[Any]]:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [rest for word, *rest in lines if word == kind]

    return read


class Tune:
    """`recbench run --method rotate --tune` with the content of a file."""

    def __init__(self, here: Here, folder: Path) -> None:
        self._here = here
        self._file = folder / "tune.yaml"
        self.runs_dir = folder / "runs"

    def command(self, content: dict[str, Any] | str) -> list[str | Path]:
        """Write the file and return the command line."""
        self._file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        common = ["run", "--method", "rotate", "--dataset", "tiny", "--runs-dir", self.runs_dir, "--json"]
        return [*common, "--tune", self._file]

    def __call__(self, content: dict[str, Any] | str, *arguments: str) -> Done:
        """Run it."""
        return self._here(*self.command(content), *arguments)

    def document(self, content: dict[str, Any] | str, *arguments: str) -> dict[str, Any]:
        """Run it and return what it printed."""
        done = self(content, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture
def tune(here: Here, tmp_path: Path, notes: Callable[[str], list[list[Any]]]) -> Tune:
    """Return `recbench run --method rotate --tune`."""
    return Tune(here, tmp_path)


OFFSETS = [3, 50, 20, 41]


def test_the_best_on_validation_rows_is_run_on_test_rows(
    tune: Tune, here: Here, notes: Callable[[str], list[list[Any]]], tmp_path: Path
) -> None:
    document = tune.document({"space": {"offset": OFFSETS}})
    split = tiny_split()
    values = [value_of(offset, split.valid) for offset in OFFSETS]
    best = int(np.argmax(values))
    tuning = document["tuning"]
    assert [trial["value"] for trial in tuning["all_trials"]] == pytest.approx(values, abs=1e-12)
    assert (tuning["best_trial"], tuning["best_value"]) == (best + 1, pytest.approx(values[best]))
    assert tuning["chosen"] == {"offset": OFFSETS[best]}
    assert (tuning["trials"], tuning["failed"], tuning["rows"]) == (4, 0, len(split.valid))
    assert document["metrics"]["NDCG@10"] == pytest.approx(value_of(OFFSETS[best], split.test))

    assert notes("fit") == [[offset] for offset in OFFSETS], "the chosen model is not fitted twice"
    *trials, last = notes("rank")
    test_rows = set(split.test.example_id.tolist())
    assert all(not test_rows & set(rows) for _, rows in trials), "no trial saw a test row"
    assert last == [OFFSETS[best], split.test.example_id.tolist()]

    folder = Path(document["path"])
    manifest = manifest_of(folder)
    assert {key: tuning[key] for key in manifest["tuning"]} == manifest["tuning"]
    assert manifest["fit_reused_from"] == f"tuning {tuning['tune_id']}, trial {best + 1}"
    lines = (Path(tuning["path"]) / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["chosen"]["offset"] for line in lines] == OFFSETS
    likelihoods = [float(np.mean(-0.1 * ((split.valid.target - offset) % 60))) for offset in OFFSETS]
    assert [json.loads(line)["metrics"]["LL"] for line in lines] == pytest.approx(likelihoods)
    assert not (Path(tuning["path"]) / "models").exists()
    assert not list(Path(tuning["path"]).rglob("work"))

    common = ["run", "--dataset", "tiny", "--json"]
    direct = here(*common, "--method", "rotate", "--set", f"offset={OFFSETS[best]}", "--runs-dir", tmp_path / "direct")
    assert json.loads(direct.stdout)["run_id"] == document["run_id"], "how it was chosen is no part of what it is"
    same = here(*common, "--config", folder / "config.yaml", "--runs-dir", tune.runs_dir)
    assert json.loads(same.stdout)["fresh"] is False
    listed = json.loads(here("runs", "list", "--runs-dir", tune.runs_dir, "--json").stdout)
    assert len(listed["runs"]) == 1
    assert listed["damaged"] == []


def test_chosen_by_likelihood_no_list_is_made_for_a_trial(tune: Tune, notes: Callable[[str], list[list[Any]]]) -> None:
    document = tune.document({"metric": "ll", "rows": 9, "space": {"offset": OFFSETS}})
    split = tiny_split()
    tuning = document["tuning"]
    seen = notes("likelihood")
    *trials, last = seen
    assert [offset for offset, _ in trials] == OFFSETS
    assert {tuple(rows) for _, rows in trials} == {tuple(trials[0][1])}
    rows = split.valid.take(np.flatnonzero(np.isin(split.valid.example_id, trials[0][1])))
    assert len(rows) == 9
    values = [float(np.mean(-0.1 * ((rows.target - offset) % 60))) for offset in OFFSETS]
    assert [trial["value"] for trial in tuning["all_trials"]] == pytest.approx(values)
    assert (tuning["metric"], tuning["chosen"]) == ("LL", {"offset": OFFSETS[int(np.argmax(values))]})
    assert notes("rank") == [[last[0], split.test.example_id.tolist()]], "lists are made of test rows alone"
    assert last[1] == split.test.example_id.tolist()
    summary = json.loads((Path(document["path"]) / "summary.json").read_text())
    expected = -0.1 * ((split.test.target - last[0]) % 60)
    assert summary["likelihood"]["LL"] == pytest.approx(float(expected.mean()))


def test_targets_of_test_rows_are_shown_only_after_the_lists(
    tune: Tune, notes: Callable[[str], list[list[Any]]], tmp_path: Path
) -> None:
    tune.document({"space": {"offset": OFFSETS[:2]}})
    test_rows = tiny_split().test.example_id.tolist()
    lines = [json.loads(line) for line in (tmp_path / "notes.txt").read_text().splitlines()]
    shown = [line[0] for line in lines if line[0] in ("rank", "likelihood") and line[2] == test_rows]
    assert shown == ["rank", "likelihood"]


def test_a_method_without_likelihood_is_not_tuned_by_it(tune: Tune) -> None:
    done = tune({"metric": "LL", "space": {"offset": [59]}})
    assert done.returncode == 2
    assert "has no probabilities of these titles" in json.loads(done.stdout)["error"]["message"]


def test_asked_again_nothing_is_done_again(tune: Tune, notes: Callable[[str], list[list[Any]]]) -> None:
    first = tune.document({"space": {"offset": OFFSETS}})
    n_fits, n_ranks = len(notes("fit")), len(notes("rank"))
    second = tune.document({"space": {"offset": OFFSETS}})
    assert (first.pop("fresh"), second.pop("fresh")) == (True, False)
    assert first == second
    assert (len(notes("fit")), len(notes("rank"))) == (n_fits, n_ranks)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tune: Tune, notes: Callable[[str], list[list[Any]]], tmp_path: Path) -> None:
    content = {"space": {"offset": OFFSETS}}
    killed = run_process(*tune.command(content), STOP_AT="20")
    assert killed.returncode == -signal.SIGKILL
    assert notes("fit") == [[3], [50]]
    document = tune.document(content)
    assert notes("fit") == [[offset] for offset in OFFSETS], "finished trials are not made again"
    values = [value_of(offset, tiny_split().valid) for offset in OFFSETS]
    assert [trial["value"] for trial in document["tuning"]["all_trials"]] == pytest.approx(values)
    assert document["tuning"]["best_trial"] == int(np.argmax(values)) + 1


def test_failed_trials_are_kept_and_skipped(tune: Tune, notes: Callable[[str], list[list[Any]]]) -> None:
    document = tune.document({"space": {"offset": [-1, 3], "inner.scale": [0, 2]}})
    trials = document["tuning"]["all_trials"]
    assert [trial["status"] for trial in trials] == ["failed", "failed", "failed", "complete"]
    assert "the loss is not finite" in trials[0]["error"]
    assert "NaN" in trials[2]["error"], "of the second offset: what ranking alone reads changes the fastest"
    assert document["tuning"]["chosen"] == {"offset": 3, "inner.scale": 2.0}
    assert (document["tuning"]["failed"], document["tuning"]["best_trial"]) == (3, 4)
    n_fits = len(notes("fit"))
    tune.document({"space": {"offset": [-1, 3], "inner.scale": [0, 2]}})
    assert len(notes("fit")) == n_fits


def test_all_failed_and_a_bug(tune: Tune) -> None:
    done = tune({"space": {"offset": [-1, -2]}})
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert "All 2 trials of the tuning failed" in error["message"]
    assert tune({"space": {"offset": [1000, 3]}}).returncode == 1, "a bug is no failed trial"


def test_the_first_of_equals_is_chosen(tune: Tune) -> None:
    document = tune.document({"space": {"inner.scale": [2, 1, 3]}})
    assert len({trial["value"] for trial in document["tuning"]["all_trials"]}) == 1
    assert document["tuning"]["best_trial"] == 1


def test_budget_and_sample_of_rows(tune: Tune, notes: Callable[[str], list[list[Any]]]) -> None:
    def asked(n: int) -> dict[str, Any]:
        return {"search": "random", "rows": 7, "budget": {"trials": n}, "space": {"offset": list(range(40))}}

    four = tune.document(asked(4))["tuning"]
    ranked = [rows for _, rows in notes("rank")][:4]
    assert all(rows == ranked[0] and len(rows) == 7 for rows in ranked), "all trials answer the same rows"
    assert set(ranked[0]) < set(tiny_split().valid.example_id.tolist())
    seven = tune.document(asked(7))["tuning"]
    assert seven["tune_id"] == four["tune_id"], "a larger budget goes on with the same search"
    assert [trial["chosen"] for trial in seven["all_trials"][:4]] == [trial["chosen"] for trial in four["all_trials"]]
    assert len({trial["chosen"]["offset"] for trial in seven["all_trials"]}) == 7, "no combination is tried twice"
    assert len([1 for _, rows in notes("rank") if len(rows) == 7]) == 7
    assert tune.document(asked(4))["tuning"]["best_trial"] == four["best_trial"]
    timed = {"budget": {"minutes": 1e-9}, "space": {"offset": OFFSETS}}
    assert tune.document(timed)["tuning"]["trials"] == 1, "one trial is always made"


def test_optuna_is_repeatable(tune: Tune, tmp_path: Path, here: Here) -> None:
    pytest.importorskip("optuna")
    content = {
        "search": "optuna", "budget": {"trials": 14},
        "space": {"offset": {"low": 0, "high": 40, "int": True}, "inner.scale": {"low": 0.1, "high": 10, "log": True}},
    }  # fmt: skip
    first = tune.document(content | {"budget": {"trials": 5}})["tuning"]
    resumed = tune.document(content)["tuning"]
    tune.runs_dir = tmp_path / "other"
    undisturbed = tune.document(content)["tuning"]
    chosen = [[trial["chosen"] for trial in one["all_trials"]] for one in (first, resumed, undisturbed)]
    assert chosen[1] == chosen[2]
    assert chosen[0] == chosen[1][:5]
    assert all(0 <= one["offset"] <= 40 and 0.1 <= one["inner.scale"] <= 10 for one in chosen[1])


def ends_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why searches ended."""
    return [one.getMessage() for one in caplog.records if one.getMessage().startswith("The search ends")]


@pytest.mark.parametrize(
    ("search", "space", "n_points"),
    [
        ("optuna", {"offset": [3, 20]}, 2),
        ("optuna", {"offset": {"low": 3, "high": 5, "int": True}}, 3),
        ("random", {"offset": {"low": 3, "high": 4, "int": True}, "inner.scale": [1, 2]}, 4),
        ("random", {"offset": [3, 20]}, 2),
    ],
)
def test_minutes_end_with_the_combinations(
    tune: Tune, caplog: pytest.LogCaptureFixture, search: str, space: dict[str, Any], n_points: int
) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    caplog.set_level("INFO")
    # 200 trials keep a search that never ends from holding up the tests.
    trials = tune.document({"search": search, "budget": {"minutes": 5, "trials": 200}, "space": space})["tuning"]
    new = [trial for trial in trials["all_trials"] if trial["repeats"] is None]
    assert len(new) == n_points
    assert trials["all_trials"][-1] == new[-1], "nothing is repeated once all are tried"
    assert ends_of(caplog) == [f"The search ends with trial {trials['trials']}: all {n_points} combinations are tried."]


def test_a_search_that_repeats_itself_ends(tune: Tune, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # No end of numbers in principle, but only a few that a computer can tell apart.
    content = {"search": "random", "space": {"inner.scale": {"low": 1, "high": 1.000000000000001}}}
    caplog.set_level("INFO")
    whole = content | {"budget": {"minutes": 5, "trials": 300}}
    cut = tune.document(content | {"budget": {"minutes": 5, "trials": 30}})["tuning"]
    resumed = tune.document(whole)["tuning"]
    again = tune.document(whole)["tuning"]
    tune.runs_dir = tmp_path / "other"
    undisturbed = tune.document(whole)["tuning"]
    trials = resumed["all_trials"]
    last_new = max(trial["number"] for trial in trials if trial["repeats"] is None)
    assert len(trials) == last_new + 50
    chosen = [[trial["chosen"] for trial in one["all_trials"]] for one in (cut, resumed, again, undisturbed)]
    assert chosen[1] == chosen[2] == chosen[3]
    assert chosen[0] == chosen[1][:30]
    assert ends_of(caplog) == [
        "The search ends with trial 30: the budget allows no more.",
        *[f"The search ends with trial {len(trials)}: the last 50 trials repeated settings tried before."] * 3,
    ]


def test_a_grid_tries_every_combination_whatever_it_repeats(tune: Tune) -> None:
    trials = tune.document({"space": {"offset": [3] * 60 + [20]}})["tuning"]["all_trials"]
    assert len(trials) == 61
    assert trials[-1]["chosen"] == {"offset": 20}


@pytest.mark.parametrize(
    "content",
    [
        {"space": {"offset": OFFSETS, "inner.scale": [1, 2, 3]}},
        {"space": {"inner.scale": [1, 2, 3], "offset": OFFSETS}},
        {"space": {"offset": OFFSETS, "inner.scale": [0, 2]}},
    ],
    ids=["scale last", "scale first", "the trial that fitted failed in ranking"],
)
def test_a_grid_makes_every_fit_once(
    tune: Tune, notes: Callable[[str], list[list[Any]]], content: dict[str, Any]
) -> None:
    tuning = tune.document(content)["tuning"]
    scales = content["space"]["inner.scale"]
    assert notes("fit") == [[offset] for offset in OFFSETS]
    pairs = [(trial["chosen"]["offset"], trial["chosen"]["inner.scale"]) for trial in tuning["all_trials"]]
    assert pairs == [(offset, scale) for offset in OFFSETS for scale in scales]
    values = [trial["value"] for trial in tuning["all_trials"] if trial["status"] == "complete"]
    expected = [value_of(offset, tiny_split().valid) for offset, scale in pairs if scale]
    assert values == pytest.approx(expected), "each trial ranks with its own settings"
    assert not (Path(tuning["path"]) / "models").exists()


def test_another_order_of_keys_is_another_drawn_search_but_not_another_grid(tune: Tune) -> None:
    one = {"offset": OFFSETS, "inner.scale": [1, 2, 3]}
    other = dict(reversed(one.items()))

    def tune_ids(**content: Any) -> set[str]:
        return {tune.document({**content, "space": space})["tuning"]["tune_id"] for space in (one, other)}

    assert len(tune_ids(search="random", budget={"trials": 3})) == 2
    assert len(tune_ids()) == 1, "what ranking alone reads comes last"


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_drawn_trials_share_a_fit(tune: Tune, notes: Callable[[str], list[list[Any]]], search: str) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    space = {"inner.scale": {"low": 1, "high": 9}}
    document = tune.document({"search": search, "budget": {"trials": 4}, "space": space})
    tuning = document["tuning"]
    assert len({trial["chosen"]["inner.scale"] for trial in tuning["all_trials"]}) == 4
    assert notes("fit") == [[0]], "by the trials and by the chosen run"
    assert manifest_of(Path(document["path"]))["fit_reused_from"] == f"tuning {tuning['tune_id']}, trial 1"
    fitted, *others = [trial["timings_s"] for trial in tuning["all_trials"]]
    assert all(one["fit"] == fitted["fit"] for one in others), "what the fit cost stands in all of them"


def test_no_reuse_and_nothing_to_share(tune: Tune, notes: Callable[[str], list[list[Any]]]) -> None:
    tune.document({"space": {"inner.scale": [1, 2]}}, "--no-reuse")
    assert notes("fit") == [[0], [0]]
    tune.document({"space": {"inner.scale": [1, 2], "share": [False]}})
    assert notes("fit") == [[0]] * 5, "two trials and the chosen run"


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["2.0", "3.0"])
def test_killed_in_the_middle_trials_still_share(
    tune: Tune, notes: Callable[[str], list[list[Any]]], scale: str
) -> None:
    content = {"space": {"inner.scale": [1, 2, 3, 4]}}
    killed = run_process(*tune.command(content), STOP_AT_SCALE=scale)
    assert killed.returncode == -signal.SIGKILL
    assert tune.document(content)["tuning"]["trials"] == 4
    assert notes("fit") == [[0]]


def test_models_of_the_best_and_the_latest_fit_are_kept_and_no_other(tune: Tune) -> None:
    best = OFFSETS[int(np.argmax([value_of(offset, tiny_split().valid) for offset in OFFSETS]))]
    others = [offset for offset in OFFSETS if offset != best]
    assert tune({"space": {"offset": [best, *others, 1000]}}).returncode == 1, "a bug ends it in the middle"
    (models,) = tune.runs_dir.rglob(".tune/*/models")
    kept = {json.loads(file.read_text()) for file in models.rglob("offset.json")}
    assert kept == {best, others[-1]}
    assert len(list(models.iterdir())) == 2


def test_kept_models_serve_trials(tune: Tune, here: Here, notes: Callable[[str], list[list[Any]]]) -> None:
    here(
        "run", "--method", "rotate", "--dataset", "tiny", "--runs-dir", tune.runs_dir, "--set", "offset=50",
        "--keep-model",
    )  # fmt: skip
    document = tune.document({"space": {"offset": OFFSETS}}, "--keep-model")
    assert notes("fit") == [[50], [3], [20], [41]]
    models = json.loads(here("runs", "models", "--runs-dir", tune.runs_dir, "--json").stdout)["models"]
    assert {row["fit_id"] for row in models} >= {document["fit_id"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"space": {"ofset": [1, 2]}}, "ofset: unknown key. Did you mean 'offset'?"),
        ({"space": {"offset": [1, "x"]}}, "offset: got 'x'"),
        ({"space": {"inner.scale": [1], "inner": [{"scale": 1}]}}, "inner is given both as a value and as a group"),
        ({"space": {"protocol.depth": [20, 30]}}, "protocol.depth: only keys of the method's configuration are tuned"),
        ({"space": {"offset": {"low": 1, "high": 3}}}, "a grid needs a list of values"),
        ({"space": {"offset": {"low": 3, "high": 1}}, "search": "random"}, "low 3 is not below high 1"),
        ({"space": {"offset": 3}}, "3 is neither a list of values nor low: and high:"),
        ({"space": {"offset": []}}, "space.offset"),
        ({"space": {"offset": [1]}, "search": "random"}, "needs budget.trials or budget.minutes"),
        ({"space": {"offset": [1]}, "search": "grit"}, "search: got 'grit'"),
        ({"space": {"offset": [1]}, "metric": "NDGC@10"}, "Unknown metric 'NDGC@10'. Did you mean"),
        ({"space": {"offset": [1]}, "budgets": {}}, "budgets: unknown key. Did you mean 'budget'?"),
        ({}, "space: is needed and missing"),
        ("- 1\n", "holds a list"),
    ],
)
def test_wrong_files(tune: Tune, content: dict[str, Any] | str, message: str) -> None:
    done = tune(content)
    assert done.returncode == 2
    assert message in json.loads(done.stdout)["error"]["message"]
    assert not tune.runs_dir.exists()


def test_for_people(tune: Tune, here: Here) -> None:
    command = [word for word in tune.command({"space": {"offset": ["3", -1]}}) if word != "--json"]
    done = here(*command)
    assert done.returncode == 0
    for word in ("validation NDCG@10", "chosen", "failed", "the loss is not finite", "Chosen on 50 validation rows"):
        assert word in done.stdout
