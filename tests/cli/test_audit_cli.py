"""`recbench audit` as a user runs it: data sets, files of lists, stored runs, and wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers_run_commands import Here
from helpers_runs import make_run

from recbench.artifacts.store import StoredRun
from recbench.data.store import save_dataset
from recbench.testing.tiny import tiny_dataset


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of caches with the tiny data set in it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECBENCH_HOME", str(folder))
        save_dataset(tiny_dataset())
        yield folder


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return make_run(tmp_path / "runs", "sasrec")


def export(here: Here, run: StoredRun, file: Path, file_format: str = "trec") -> None:
    """Write the lists of a run for other programs."""
    assert here("runs", "export", run.paths.folder, "--format", file_format, "--out", file).returncode == 0


def test_a_table_and_sentences_for_people(here: Here) -> None:
    done = here("audit", "tiny")
    assert done.returncode == 0
    assert done.stderr == ""
    for code in ("titles-shared", "time-ties", "boundary-ties", "cold-users", "leak-rows", "popularity"):
        assert code in done.stdout
    assert "note titles-junk\n" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("Audit: no dangers, ")
    assert done.stdout.rstrip().endswith("recbench audit tiny.")


def test_json_is_one_document_with_exact_numbers(here: Here) -> None:
    done = here("audit", "tiny", "--json", "--split", "leave-one-out", "--set", "protocol.mask_history=true")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert document["headline"].startswith(f"Audit: {document['dangers']} danger")
    assert document["command"] == "recbench audit tiny --split leave-one-out --set protocol.mask_history=true"
    assert (document["kind"], document["strategy"], document["n_test"]) == ("data", "leave-one-out", 40)
    for finding in document["findings"]:
        assert finding["share"] == finding["count"] / finding["out_of"]
        assert (finding["effect"] is None) == bool(finding["no_effect"])
    assert {finding["rating"] for finding in document["findings"]} == {"danger", "note", "fine"}
    assert "importable" not in document


def test_strict_ends_with_three_where_there_is_a_danger(here: Here) -> None:
    assert here("audit", "tiny", "--strict").returncode == 0
    done = here("audit", "tiny", "--strict", "--split", "leave-one-out", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["dangers"] > 0


def test_a_page_is_written(here: Here, tmp_path: Path) -> None:
    page = tmp_path / "new" / "audit.md"
    done = here("audit", "tiny", "--out", page, "--limit-test", "10")
    assert done.returncode == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Audit of tiny\n\nAudit: ")
    assert "`recbench audit tiny --set protocol.limit_test=10`" in text
    assert "| fine | `leak-rows` |" in text
    assert "* **boundary-ties** was not checked: Rows were left out" in text


@pytest.mark.parametrize("file_format", ["trec", "csv"])
def test_exported_lists_are_fine(here: Here, run: StoredRun, tmp_path: Path, file_format: str) -> None:
    file = tmp_path / f"lists.{file_format}"
    export(here, run, file, file_format)
    done = here("audit", "tiny", "--run-file", file, "--json", "--strict")
    document = json.loads(done.stdout)
    assert (done.returncode, document["importable"], document["dangers"]) == (0, True, 0)
    assert document["source"] == file.name
    assert document["command"] == f"recbench audit tiny --run-file {file} --format {file_format}"


def test_lists_that_cannot_be_imported_end_with_three(here: Here, run: StoredRun, tmp_path: Path) -> None:
    file = tmp_path / "lists.run"
    export(here, run, file)
    text = file.read_text()
    file.write_text(text + "1 Q0 i01 1 2.0 tag\nodd line\n")
    done = here("audit", "tiny", "--run-file", file, "--json")
    document = json.loads(done.stdout)
    blocking = {finding["code"] for finding in document["findings"] if finding["blocks_import"] and finding["count"]}
    assert (done.returncode, document["importable"]) == (3, False)
    assert blocking == {"lists-unknown-examples", "lists-unreadable"}
    # The import says no for the same reason, at the first of them.
    assert (
        here("runs", "import", file, "--method", "other", "--dataset", "tiny", "--runs-dir", tmp_path).returncode == 3
    )


MENDS: dict[str, Callable[[list[list[str]]], list[list[str]]]] = {
    "nothing": lambda lines: lines,
    "unknown example": lambda lines: [["0", *lines[0][1:]], *lines],
    "unknown item": lambda lines: [[lines[0][0], "nobody", *lines[0][2:]], *lines[1:]],
    "item twice": lambda lines: [lines[0], [lines[1][0], lines[0][1], *lines[1][2:]], *lines[2:]],
    "missing rows": lambda lines: [line for line in lines if line[0] != lines[0][0]],
    "short lists": lambda lines: [line for line in lines if int(line[2]) < 4],
    "scores that rise": lambda lines: [[*line[:3], line[2]] for line in lines],
    "one score": lambda lines: [[*line[:3], "0"] for line in lines],
    "rank with a hole": lambda lines: [line for line in lines if line[2] != "2"],
    "ranks from zero": lambda lines: [[*line[:2], str(int(line[2]) - 1), line[3]] for line in lines],
    "score that is none": lambda lines: [[*lines[0][:3], "nan"], *lines[1:]],
    "no number": lambda lines: [["x", *lines[0][1:]], *lines[1:]],
    "other order of lines": lambda lines: lines[::-1],
}


@pytest.mark.parametrize("file_format", ["trec", "csv"])
@pytest.mark.parametrize("fault", MENDS)
def test_what_the_audit_calls_importable_is_imported(
    here: Here, run: StoredRun, tmp_path: Path, fault: str, file_format: str
) -> None:
    exported, file = tmp_path / "exported.csv", tmp_path / f"lists.{file_format}"
    export(here, run, exported, "csv")
    header, *lines = (line.split(",") for line in exported.read_text().splitlines())
    columns = [header.index(name) for name in ("example_id", "item_id", "rank", "score")]
    mended = MENDS[fault]([[line[column] for column in columns] for line in lines])
    if file_format == "csv":
        file.write_text("\n".join(map(",".join, [["example_id", "item_id", "rank", "score"], *mended])) + "\n")
    else:
        file.write_text("".join(f"{e} Q0 {i} {r} {s} tag\n" for e, i, r, s in mended))
    audited = here("audit", "tiny", "--run-file", file, "--json")
    imported = here("runs", "import", file, "--method", "other", "--dataset", "tiny", "--runs-dir", tmp_path / "other")
    assert audited.returncode == imported.returncode
    assert json.loads(audited.stdout)["importable"] == (imported.returncode == 0)


def test_a_danger_that_does_not_block_needs_strict_to_fail(here: Here, run: StoredRun, tmp_path: Path) -> None:
    file = tmp_path / "lists.run"
    export(here, run, file)
    lines = [line.split() for line in file.read_text().splitlines()]
    file.write_text("".join(" ".join([*line[:4], line[3], line[5]]) + "\n" for line in lines))  # the rank as score
    done = here("audit", "tiny", "--run-file", file)
    assert done.returncode == 0
    assert "danger lists-scores-rise" in done.stdout
    assert here("audit", "tiny", "--run-file", file, "--strict").returncode == 3


def test_a_run_by_id_and_by_folder(here: Here, run: StoredRun, tmp_path: Path) -> None:
    by_id = here("audit", run.run_id[:6], "--runs-dir", tmp_path / "runs", "--json")
    by_folder = here("audit", run.paths.folder, "--json")
    assert (by_id.returncode, by_folder.returncode) == (0, 0)
    assert by_id.stdout == by_folder.stdout
    assert json.loads(by_id.stdout)["source"] == f"run {run.run_id}"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing-like-it"], 3, "nothing-like-it"),
        (["tiny", "--split", "global"], 2, "global"),
        (["tiny", "--split", "provided"], 2, "brings no split of its own"),
        (["tiny", "--set", "epochs=3"], 2, "only the protocol can be set here"),
        (["tiny", "--set", "protocol.nothing=3"], 2, "unknown key"),
        (["tiny", "--format", "csv"], 2, "no --run-file is given"),
        (["tiny", "--run-file", "missing.run"], 3, "missing.run does not exist"),
        (["abcdef123456", "--runs-dir", "nowhere"], 3, "No run in nowhere fits"),
        ([], 2, "DATASET|RUN"),
    ],
)
def test_wrong_input(here: Here, arguments: list[str], code: int, words: str) -> None:
    done = here("audit", *arguments)
    assert done.returncode == code
    assert words in " ".join(done.stderr.split())


def test_a_run_brings_its_own_protocol(here: Here, run: StoredRun) -> None:
    done = here("audit", run.paths.folder, "--split", "leave-one-out")
    assert done.returncode == 2
    assert "brings its own data set, protocol and lists" in done.stderr


def test_help_has_examples(here: Here) -> None:
    done = here("audit", "--help")
    assert "recbench audit ml-100k --run-file other.run.gz --strict" in " ".join(done.stdout.split())
