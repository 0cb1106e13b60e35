"""`recbench compare` as a user runs it: options, families, wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers_run_commands import Here
from helpers_runs import make_run
from rich.console import Console

from recbench.experiment.family import FamilyFile


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        make_run(folder, "good", quality=0.6, seed=seed, backbone="nano")
        make_run(folder, "same", quality=0.6, seed=seed + 5)
    make_run(folder, "weak", quality=0.0)
    return folder


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "family.yaml"
    path.write_text(
        "name: claims\nwhy: The first is better.\nmargin: 20%\n"
        "tests:\n  - pairs: [[good, weak], [good (nano), same]]\n    metrics: [NDCG@10, HR@5]\n"
    )
    return path


def test_the_table_says_what_would_decide(runs: Path, here: Here) -> None:
    done = here("compare", "good", "same", "weak", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    for words in ("Rank", "1–2", "undecided", "Would decide", "p (Holm)", "One seed only: weak"):
        assert words in done.stdout
    assert "p (users and seeds)" not in done.stdout


def test_a_narrow_terminal_shows_fewer_columns(runs: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbench.cli.compare.console", lambda: Console(width=100, highlight=False))
    done = here("compare", "good", "weak", "--runs-dir", runs)
    assert "better" in done.stdout
    assert "Users + / = / −" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_details_show_every_column(runs: Path, here: Here) -> None:
    done = here("compare", "good", "same", "--details", "--runs-dir", runs, "--margin", "2%", "--runs-test", "welch")
    assert done.returncode == 0, done.stderr
    for title in ("p (users and seeds)", "Standard error", "A − B over users", "Detectable alone", "p (runs, Holm)"):
        assert title in done.stdout
    assert "Welch's t-test" in done.stdout
    assert "± 2% of the mean of B" in done.stdout


def test_json_has_all_that_was_asked(runs: Path, here: Here) -> None:
    done = here(
        "compare", "good", "same", "--margin", "0.5", "--runs-test", "welch", "--explore", "--json", "--runs-dir", runs
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    pair = document["pairs"][0]
    assert (pair["verdict"], pair["margin"], pair["runs_test"]["kind"]) == ("equivalent", 0.5, "welch")
    assert (document["correction"], document["exploratory"]) == ("bh", True)
    assert document["entries"][0]["better_than"] == []


def test_exploring_is_marked(runs: Path, here: Here) -> None:
    done = here("compare", "good", "weak", "--explore", "--runs-dir", runs)
    assert "[exploratory]" in done.stdout
    assert "p (BH)" in done.stdout
    assert "a lead to be confirmed" in " ".join(done.stdout.split())


def test_a_family_is_printed_table_by_table(runs: Path, family: Path, here: Here) -> None:
    done = here("compare", "--family", family, "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The first is better.")
    assert "claims: tiny, NDCG@10 by item" in done.stdout
    assert "claims: tiny, HR@5 by item" in done.stdout
    assert "the 4 tests of the family “claims”" in " ".join(done.stdout.split())


def test_a_family_is_one_json_document(runs: Path, family: Path, here: Here) -> None:
    done = here("compare", "--family", family, "--runs-dir", runs, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["family"], len(document["comparisons"])) == ("claims", 2)
    assert {one["n_tests"] for one in document["comparisons"]} == {4}
    assert {one["margin"] for one in document["comparisons"]} == {"20%"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to compare was named"),
        (["good", "weak", "--margin", "big"], "The margin 'big' is not a number above 0"),
        (["good", "weak", "--margin", "-1"], "The margin '-1' is not"),
        (["good", "weak", "--runs-test", "welch"], "there is one run of weak"),
        (["good", "same", "--runs-test", "paired"], "needs the same seeds on both sides"),
        (["good", "weak", "--runs-test", "wilcoxon"], "welch"),
        (["good (nano, beams=3)", "weak"], "No entry is labelled 'good (nano, beams=3)'; there are: good (nano)"),
        (["good", "--family", "f.yaml", "--metric", "HR@5"], "RUN_OR_METHOD, --metric cannot be given beside --family"),
        (["--family", "missing.yaml"], "The family file missing.yaml cannot be read"),
    ],
)
def test_wrong_use_ends_with_2_and_a_reason(runs: Path, here: Here, arguments: list[str], message: str) -> None:
    done = here("compare", *arguments, "--runs-dir", runs)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())


def test_the_example_of_the_help_is_a_family(here: Here) -> None:
    text = " ".join(here("compare", "--help").stdout.split())
    example = text[text.index("{name: main claims") : text.index("}]}") + 3]
    family = FamilyFile.model_validate(yaml.safe_load(example))
    assert family.tests[0].pairs == (("latentr3", "bigrec"),)
    assert (family.tests[0].metrics, family.tests[0].datasets) == (("NDCG@10", "HR@10"), ("toys",))


def test_wrong_keys_of_a_family_are_named(runs: Path, tmp_path: Path, here: Here) -> None:
    path = tmp_path / "family.yaml"
    path.write_text("name: claims\ncorrecton: holm\ntests: [{pairs: [[good, weak]], metric: [HR@5]}]\n")
    done = here("compare", "--family", path, "--runs-dir", runs)
    assert done.returncode == 2
    text = " ".join(done.stderr.split())
    assert "correcton: unknown key" in text
    assert "tests.0.metric: unknown key. Did you mean 'metrics'?" in text
    path.write_text("name: claims\ntests: [{pairs: [[good, god]]}]\n")
    done = here("compare", "--family", path, "--runs-dir", runs)
    assert done.returncode == 3
    assert "Did you mean 'good'" in done.stderr
