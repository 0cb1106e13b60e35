"""``recbench methods`` as a user meets it, and a plugin from its first line to a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_plugins import PluginFolder

MAIN = "from recbench.cli.app import main; main()"


def recbench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


def document(*arguments: str, **environment: str) -> Any:
    done = recbench(*arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_list_names_all_methods_and_imports_none() -> None:
    listing = document("methods", "list")
    names = [record["name"] for record in listing["methods"]]
    assert names == sorted(names)
    assert {"random", "popularity", "sasrec", "bigrec", "latentr3"} <= set(names)
    assert listing["families"][0]["name"] == "recbole:<name>"
    script = "import sys; sys.argv[1:] = ['methods', 'list', '--json']\n"
    script += f"try:\n    {MAIN}\nfinally:\n    print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "recbench.methods.listing" in modules
    assert not modules & {"torch", "recbole", "transformers", "pandas", "baselines.recbole.method", "latent.method"}


def test_list_marks_broken_and_clashing_plugins(plugins: PluginFolder) -> None:
    plugins.add("broken", {"broken": "nowhere:Method"}, {})
    plugins.add("thief", {"popularity": "thief:Mine"}, {"thief.py": "class Mine: pass\n"})
    done = recbench("methods", "list")
    assert done.returncode == 0
    assert "there is no module 'nowhere'" in done.stdout
    assert done.stdout.count("claimed by 2 packages") == 2
    # Nothing else breaks.
    assert recbench("methods", "show", "random").returncode == 0


def test_show_tells_settings_with_types_and_defaults() -> None:
    shown = document("methods", "show", "sasrec")
    settings = {field["key"]: field for field in shown["config"]}
    assert settings["loss"]["type"] == "'bce' | 'bpr' | 'ce'"
    assert settings["epochs"] == {
        "key": "epochs",
        "type": "int",
        "default": 300,
        "required": False,
        "description": "passes over the training rows, at most",
    }
    assert shown["capabilities"]["extra"] == "recbole"
    text = recbench("methods", "show", "sasrec").stdout
    assert "Kang and McAuley" in text
    assert "attn_dropout_prob" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "sasrek"], 2, "Did you mean 'sasrec'?"),
        (["check", "sasrek"], 2, "Did you mean 'sasrec'?"),
        (["check", "popularity", "--set", "cuont=events"], 2, "Did you mean 'count'?"),
        (["check", "popularity", "--set", "count"], 2, "expected KEY=VALUE"),
        (["new", "Bad_Name"], 2, "small letters"),
        (["new", "popularity"], 2, "already, of recbench"),
        (["show"], 2, "Missing argument"),
    ],
)
def test_wrong_use(arguments: list[str], code: int, message: str) -> None:
    done = recbench("methods", *arguments)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_check_passes_a_method_that_keeps_the_contract() -> None:
    result = document("methods", "check", "popularity", "--set", "count=events")
    assert result["passed"] is True
    assert {check["status"] for check in result["checks"]} == {"passed"}
    assert all(check["seconds"] >= 0 for check in result["checks"])


BREAKS_MASK = """
import numpy as np
from recbench.methods.dense import rank_by_scores
from recbench.methods.popularity import Popularity

class Mine(Popularity):
    def rank(self, queries, k, ctx):
        return rank_by_scores(queries, k, len(ctx.catalog), lambda b: np.tile(self.counts, (len(b), 1)))
"""


def test_check_ends_with_code_3_for_a_method_that_does_not(plugins: PluginFolder) -> None:
    plugins.add("p", {"breaks-mask": "breaks_mask:Mine"}, {"breaks_mask.py": BREAKS_MASK})
    done = recbench("methods", "check", "breaks-mask")
    assert done.returncode == 3
    assert "breaks the contract: 1 of 11 checks failed" in done.stdout
    assert "of its own history" in done.stdout
    result = json.loads(recbench("methods", "check", "breaks-mask", "--json").stdout)
    assert [check["name"] for check in result["checks"] if check["status"] == "failed"] == ["mask-history"]


@pytest.mark.parametrize("arguments", [[], ["list"], ["show"], ["check"], ["new"]])
def test_help_has_examples(arguments: list[str]) -> None:
    done = recbench("methods", *arguments, "--help")
    assert done.returncode == 0
    if arguments:
        assert "Example" in done.stdout


@pytest.mark.slow
def test_a_new_plugin_is_installed_checked_and_run(tmp_path: Path) -> None:
    written = document("methods", "new", "item-graph", "--out", str(tmp_path))
    folder = Path(written["path"])
    assert folder == tmp_path / "recbench-item-graph"
    again = recbench("methods", "new", "item-graph", "--out", str(tmp_path))
    assert (again.returncode, "exists already" in again.stderr) == (2, True)

    site = tmp_path / "site"
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", *pip, str(folder)], check=True, capture_output=True, text=True)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

    listed = {record["name"]: record for record in document("methods", "list", PYTHONPATH=path)["methods"]}
    assert listed["item-graph"]["package"] == "recbench-item-graph 0.1.0"
    assert document("methods", "check", "item-graph", PYTHONPATH=path)["passed"] is True
    run = ["run", "--method", "item-graph", "--dataset", "ml-100k", "--runs-dir", str(tmp_path / "runs")]
    result = document(*run, "--set", "smoothing=0.5", "--limit-test", "200", PYTHONPATH=path)
    assert (result["status"], result["method"], result["n_test"]) == ("complete", "item-graph", 200)
    assert 0 < result["metrics"]["NDCG@10"] <= result["metrics"]["HR@10"] <= 1
    # Without the package the name is unknown again.
    assert recbench("methods", "show", "item-graph").returncode == 2


def test_the_skeletons_own_test_passes(tmp_path: Path) -> None:
    folder = Path(document("methods", "new", "one", "--out", str(tmp_path))["path"])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stdout
