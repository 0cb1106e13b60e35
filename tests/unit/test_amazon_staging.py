"""Raw lines into staged tables: what is read, and what is said about lines that cannot be."""

from __future__ import annotations

import gzip
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from helpers_amazon import review, write_lines

from recbench.contracts.errors import ArtifactError, DataError
from recbench.data.sources.amazon.engine import Resources, open_engine
from recbench.data.sources.amazon.fields import Field, read_values, sql_problems
from recbench.data.sources.amazon.release_2018 import REVIEW_FIELDS
from recbench.data.sources.amazon.staging import Format, RawFile, Staged, stage

ROWS = [review(f"A{n}", f"B{n % 3}", 1_500_000_000 + n, float(n % 5 + 1)) for n in range(6)]
LINES = [json.dumps(row).encode() for row in ROWS]
VALUES = [(f"A{n}", f"B{n % 3}", 1_500_000_000.0 + n, n % 5 + 1.0) for n in range(6)]
RATINGS = (
    Field("user_id", "user_id", "id"),
    Field("parent_asin", "item_id", "id"),
    Field("timestamp", "time", "milliseconds"),
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(tmp_path / "scratch", Resources(256 << 20, 2)) as connection:
        yield connection


def read(
    engine: duckdb.DuckDBPyConnection,
    path: Path,
    fields: Sequence[Field] = REVIEW_FIELDS,
    file_format: Format = "json",
    skip: int = 0,
) -> tuple[list[tuple[Any, ...]], Staged]:
    staged = stage(engine, RawFile(path, tuple(fields), file_format, skip), path.parent / "scratch")
    rows = engine.execute(f"SELECT * FROM {staged.sql} ORDER BY file_row_number").fetchall()
    assert [row[-1] for row in rows] == list(range(len(rows)))
    return [row[:-1] for row in rows], staged


def test_plain_and_packed_files_in_the_order_of_their_lines(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert read(engine, write_lines(tmp_path / "plain.json", ROWS))[0] == VALUES
    packed = tmp_path / "packed.json"  # seen from its first bytes, not from its name
    packed.write_bytes(gzip.compress(b"\n".join(LINES[:3]) + b"\n") + gzip.compress(b"\r\n".join(LINES[3:])))
    assert read(engine, packed)[0] == VALUES


def test_many_lines_keep_their_order(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "many.json", (review("A", "B", 10**9 + n, text="x" * 200) for n in range(60_000)))
    times = [row[2] for row in read(engine, path)[0]]
    assert times == [10**9 + n for n in range(60_000)]


@pytest.mark.parametrize("name", ["a b.json", "it's.json", "[x]*?.json", "key=1.json", "größe.json"])
def test_any_file_name(engine: duckdb.DuckDBPyConnection, tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "x1.json", [review("wrong", "file", 1)])
    assert read(engine, write_lines(tmp_path / name, ROWS))[0] == VALUES


def replaced(line: int, **values: Any) -> bytes:
    row = {**ROWS[line], **values}
    return json.dumps({key: value for key, value in row.items() if value is not None}).encode()


BAD_LINES = {
    "missing field": (replaced(2, asin=None), "the field 'asin' is missing"),
    "empty id": (replaced(2, reviewerID=""), "the field 'reviewerID' is missing"),
    "negative time": (replaced(2, unixReviewTime=-1), r"'unixReviewTime' is -1, .* it is negative"),
    "milliseconds": (replaced(2, unixReviewTime=1538352000000), "it looks like milliseconds"),
    "nanoseconds": (replaced(2, unixReviewTime=1538352000 * 10**9), "it looks like another unit"),
    "fraction": (replaced(2, unixReviewTime=1538352000.5), "it has a fraction"),
    "no number": (replaced(2, unixReviewTime="yesterday"), "'unixReviewTime' is 'yesterday', expected a number"),
    "no rating": (replaced(2, overall=None), "the field 'overall' is missing"),
    "rating not finite": (LINES[2].replace(b"3.0", b"NaN"), "expected a finite number"),
    "not UTF-8": (LINES[2].replace(b"Audio", b"Aud\xffo"), r"not UTF-8 text \(byte 0xff at 123\)"),
    "no object": (b"[1, 2]", "it holds a list, expected an object"),
    "null": (b"null", "it holds a NoneType, expected an object"),
    "no JSON": (b'{"asin": }', r"not valid JSON \(Expecting value, column 10\)"),
    "web page": (b"<!DOCTYPE html>", r"not valid JSON \(Expecting value, column 1\)"),
    "two in one": (LINES[2] + LINES[3], r"not valid JSON \(Extra data"),
    "deep": (b"[" * 200_000, "recursion"),
    "half a pair": (replaced(2, asin="B\ud83d"), "half of a surrogate pair"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(engine: duckdb.DuckDBPyConnection, tmp_path: Path, name: str, packed: bool) -> None:
    line, problem = BAD_LINES[name]
    data = b"\n".join([LINES[0], b"", LINES[1], line, *LINES[3:]]) + b"\n"
    path = tmp_path / "reviews.json"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=rf"reviews\.json, line 4: .*{problem}") as caught:
        read(engine, path)
    assert "again" in str(caught.value.hint)
    rows, staged = read(engine, path, skip=1)
    assert rows == [*VALUES[:2], *VALUES[3:]]
    assert len(staged.remarks) == 1
    assert staged.remarks[0].startswith("bad lines of reviews.json left out: 1 (line 4: ")


def test_no_more_bad_lines_than_allowed_are_left_out(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_bytes(b"\n".join([LINES[0], b"x", b"y", LINES[1], b"z"]))
    with pytest.raises(DataError, match=r"line 5: .*\(3 bad lines, at most 2 may be left out\)"):
        read(engine, path, skip=2)
    rows, staged = read(engine, path, skip=3)
    assert rows == VALUES[:2]
    assert "left out: 3 (line 2" in staged.remarks[0]


def test_a_file_that_ends_within_a_line(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_bytes(b"\n".join(LINES)[:-30])
    with pytest.raises(DataError, match="line 6: it is cut in half, and the file ends there"):
        read(engine, path)


def test_a_whole_last_line_needs_no_line_end(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_bytes(b"\n".join(LINES))
    assert read(engine, path)[0] == VALUES


@pytest.mark.parametrize("lost", [1, 4, 8, 20, 100])
def test_truncated_gzip(engine: duckdb.DuckDBPyConnection, tmp_path: Path, lost: int) -> None:
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(gzip.compress(b"\n".join(LINES))[:-lost])
    with pytest.raises(DataError, match="damaged gzip file") as caught:
        read(engine, path)
    assert "cut off" in str(caught.value.hint)
    assert not list((tmp_path / "scratch").glob("*.parquet"))


@pytest.mark.parametrize(
    "content", [b"", b"\n\n  \n", gzip.compress(b"", mtime=0)], ids=["nothing", "blank lines", "packed"]
)
def test_an_empty_file(engine: duckdb.DuckDBPyConnection, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reviews.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="has no rows"):
        read(engine, path)


def test_no_file(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(engine, tmp_path / "reviews.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read(engine, tmp_path / "folder")


@pytest.mark.parametrize(
    "line",
    [
        replaced(2, reviewText="half a pair \ud83d of surrogates"),
        b'{"asin": "not this one", ' + LINES[2][1:],
        LINES[2][:-1] + b', "long": "' + b"x" * 5_000_000 + b'"}',
    ],
    ids=["surrogate", "repeated key", "long line"],
)
def test_what_only_the_engine_cannot_read_is_read_line_by_line(
    engine: duckdb.DuckDBPyConnection, tmp_path: Path, line: bytes
) -> None:
    json.loads(line)
    path = tmp_path / "reviews.json"
    path.write_bytes(b"\n".join([*LINES[:2], line, *LINES[3:]]))
    rows, staged = read(engine, path)
    assert rows == VALUES
    assert not staged.remarks


def test_a_byte_order_mark(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(LINES))
    assert read(engine, path)[0] == VALUES


def test_a_staged_table_is_used_again_until_the_file_changes(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "reviews.json", ROWS)
    _, first = read(engine, path)
    made = first.path.stat().st_mtime_ns
    assert read(engine, path)[1] == first
    assert first.path.stat().st_mtime_ns == made
    write_lines(path, ROWS[:4])
    rows, second = read(engine, path)
    assert rows == VALUES[:4]
    assert second.path != first.path


def test_csv(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("user_id,parent_asin,rating,timestamp\nA,B,5.0,1500000000123\nA2,B2,4.0,1500000000999\n")
    assert read(engine, path, RATINGS, "csv")[0] == [("A", "B", 1500000000123.0), ("A2", "B2", 1500000000999.0)]
    path.write_text("user_id,parent_asin,rating,timestamp\nA,B,5.0,1500000000123\nA2,B2,4.0,1500000000\n")
    with pytest.raises(DataError, match=r"ratings\.csv, line 3: .*milliseconds since 1970: it looks like seconds"):
        read(engine, path, RATINGS, "csv")
    path.write_text("user_id,parent_asin,rating,timestamp\nA,B,5.0,1500000000123\nA2,B2\n")
    with pytest.raises(DataError, match=r"line 3: it has 2 values, expected 4"):
        read(engine, path, RATINGS, "csv")
    path.write_text("user_id,asin,rating,timestamp\nA,B,5.0,1500000000123\n")
    with pytest.raises(DataError, match=r"lacks the column 'parent_asin'\. Found: user_id, asin"):
        read(engine, path, RATINGS, "csv")
    path.write_text("")
    with pytest.raises(DataError, match="has no rows"):
        read(engine, path, RATINGS, "csv")
    path.write_text("user_id,parent_asin,rating,timestamp\n")
    with pytest.raises(DataError, match="has no rows"):
        read(engine, path, RATINGS, "csv")


def test_python_literals(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    fields = (Field("asin", "item_id", "id"), Field("title", "title", "text"))
    path = tmp_path / "meta.json"
    path.write_text(
        "{'asin': '01', 'title': \"It's\", 'x': [1]}\n{'asin': '02'}\n{\"asin\": \"03\", \"title\": \"t\"}\n"
    )
    assert read(engine, path, fields, "python")[0] == [("01", "It's"), ("02", None), ("03", "t")]
    path.write_text("{'asin': '01'}\n{'asin': __import__('os').getcwd()}\n")
    with pytest.raises(DataError, match=r"line 2: .*malformed"):
        read(engine, path, fields, "python")
    path.write_text("{'asin': '01'}\n{'asin': '02'\n{'asin': '03'}\n")
    with pytest.raises(DataError, match=r"line 2: it is not a Python literal"):
        read(engine, path, fields, "python")


VALUES_TO_JUDGE = [None, "", "A", 0, 1, -1, 0.5, 10**11 - 1, 10**11, 10**14, -(10**12), 1e300, 5, 4.5]


@pytest.mark.parametrize("kind", ["id", "text", "number", "seconds", "milliseconds"])
def test_python_and_sql_agree_on_what_is_wrong(engine: duckdb.DuckDBPyConnection, kind: Any) -> None:
    field = Field("key", "column", kind)
    for value in VALUES_TO_JUDGE:
        if isinstance(value, str) and field.sql_type == "DOUBLE":
            continue
        try:
            read_values({"key": value}, [field])
            wrong = False
        except ValueError:
            wrong = True
        query = f'SELECT {sql_problems([field])} FROM (SELECT ?::{field.sql_type} AS "column")'
        assert engine.execute(query, [value]).fetchall()[0][0] == wrong, value


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="Cannot write"), open_engine(tmp_path / "file", Resources()):
        pass


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "reviews.json", ROWS)
    with (
        pytest.raises(ArtifactError, match=r"ran out of the 0\.0 GiB of memory"),
        open_engine(tmp_path / "scratch", Resources(2 << 20, 1)) as connection,
    ):
        read(connection, path)
    assert not list((tmp_path / "scratch").iterdir())


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let this process write no larger file; to it that looks much like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "reviews.json", ROWS)
    with (
        pytest.raises(ArtifactError, match=r"Cannot (work in|write) .*scratch"),
        open_engine(tmp_path / "scratch", Resources(256 << 20, 1)) as connection,
        files_of_at_most(100),
    ):
        read(connection, path)
    assert not list((tmp_path / "scratch").iterdir())


LONG_QUERY = """
import sys
from pathlib import Path
from recbench.data.sources.amazon.engine import Resources, open_engine
with open_engine(Path(sys.argv[1]), Resources(256 << 20, 1)) as connection:
    print("go", flush=True)
    connection.execute("SELECT sum(a.range * b.range % 7) FROM range(10000000) a, range(1000000) b").fetchall()
"""


def test_an_interrupt_within_a_query_is_an_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LONG_QUERY, str(tmp_path / "scratch")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert not list((tmp_path / "scratch").iterdir())
