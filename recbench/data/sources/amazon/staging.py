"""Raw files into staged tables: the few columns that are needed, row by row in the order of the file, checked.

A staged table is a Parquet file in the scratch folder. It appears there under its name when it is whole, so a
preparation that was killed goes on with it; its name depends on the raw file's path, size and time of change.

duckdb reads the raw file first, in parallel. Where it cannot (or finds a wrong value), the file is read once more line
by line: either a line is bad, and the error names it, or it is only too strict a reader (half of a surrogate pair in a
review's text, a repeated key), and the values read line by line are used. No bad line is ever left out unless that
was asked for, and then it is said.
"""

from __future__ import annotations

import ast
import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import duckdb

from recbench.artifacts.files import atomic_path, read_json, write_json
from recbench.contracts.errors import DataError
from recbench.contracts.hashing import hash_json
from recbench.data.sources.amazon.engine import quoted, quoted_path
from recbench.data.sources.amazon.fields import Field, read_values, sql_columns, sql_problems
from recbench.data.tables import open_binary, reading

logger = logging.getLogger(__name__)

_VERSION = 1
# The engine's reading buffers grow with this. A longer line is read in the slow way.
_LONGEST_OBJECT = 4 << 20
_NAMED_LINES = 5

Format = Literal["json", "python", "csv"]


@dataclass(frozen=True)
class RawFile:
    """A raw file and what is wanted of it.

    Attributes:
        path: plain or gzip, which is seen from its first bytes.
        fields: the wanted fields.
        file_format: "json": a JSON object per line; "python": a Python literal per line, as in the metadata of 2014;
            "csv": comma-separated with a header line.
        skip_bad_lines: leave out up to this many lines that are damaged or lack a value.
        reshape: changes a record read line by line before its fields are taken ("python" only).
    """

    path: Path
    fields: tuple[Field, ...]
    file_format: Format = "json"
    skip_bad_lines: int = 0
    reshape: Callable[[dict[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Staged:
    """A staged table.

    Attributes:
        path: the Parquet file; its row order is the order of the lines.
        remarks: what a reader of the data set must know (lines left out).
    """

    path: Path
    remarks: tuple[str, ...]

    @property
    def sql(self) -> str:
        """The table in SQL, with the number of each row as ``file_row_number``."""
        return f"read_parquet({quoted_path(self.path)}, file_row_number = true, hive_partitioning = false)"


def stage(connection: duckdb.DuckDBPyConnection, raw: RawFile, scratch: Path) -> Staged:
    """Return the staged table of a raw file, made now or by an earlier attempt.

    Raises:
        DataError: the file is missing, empty or damaged, or a line of it is wrong; names the line.
        ArtifactError: the scratch folder cannot be written.
    """
    path = scratch / f"{raw.path.name}-{_key(raw)}.parquet"
    remarks = path.with_suffix(".json")
    if not path.is_file():
        logger.info("Reading %s (%.1f MB).", raw.path, raw.path.stat().st_size / 1e6)
        with atomic_path(path) as temporary:
            fits = raw.file_format != "python" and _copy_fast(connection, raw, temporary)
            # The remarks first: where the table is, they are.
            write_json(remarks, [] if fits else _copy_by_line(connection, raw, temporary))
    return Staged(path, tuple(read_json(remarks)))


def _key(raw: RawFile) -> str:
    """Return a name for what a staged table is made from."""
    with reading(raw.path, "utf-8"):
        if not raw.path.is_file():
            what = "is a folder, not a file" if raw.path.is_dir() else "does not exist"
            raise DataError(f"{raw.path} {what}.", "Check the path.")
        state = raw.path.stat()
    content = [str(raw.path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns]
    return hash_json([_VERSION, content, raw.file_format, raw.skip_bad_lines, [asdict(field) for field in raw.fields]])


def _copy_fast(connection: duckdb.DuckDBPyConnection, raw: RawFile, out: Path) -> bool:
    """Let duckdb read the file; False where it cannot, or where it found a wrong value."""
    with reading(raw.path, "utf-8"), raw.path.open("rb") as stream:
        compression = "gzip" if stream.read(2) == b"\x1f\x8b" else "none"
    source = f"{quoted_path(raw.path)}, compression = {quoted(compression)}, hive_partitioning = false"
    try:
        if raw.file_format == "csv":
            _copy(connection, _csv_reader(raw, source), raw.fields, out)
        else:
            _copy(connection, _json_reader(raw, source), raw.fields, out)
    except duckdb.IOException as error:
        if "gzip" not in str(error).lower():
            raise
        logger.debug("duckdb cannot unpack %s: %s", raw.path, error)
        return False
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        logger.debug("duckdb cannot read %s: %s", raw.path, error)
        return False
    wrong, rows = connection.execute(
        f"SELECT count_if({sql_problems(raw.fields)}), count(*) FROM read_parquet({quoted_path(out)})"
    ).fetchall()[0]
    if not rows:
        raise _empty(raw.path)
    return not wrong


def _json_reader(raw: RawFile, source: str) -> str:
    return f"read_ndjson({source}, columns = {sql_columns(raw.fields)}, maximum_object_size = {_LONGEST_OBJECT})"


def _csv_reader(raw: RawFile, source: str) -> str:
    with reading(raw.path, "utf-8"), open_binary(raw.path) as stream:
        header = _csv_header(raw, stream)
    kinds = {field.key: field.sql_type for field in raw.fields}
    columns = ", ".join(f"{quoted(name)}: {quoted(kinds.get(name, 'VARCHAR'))}" for name in header)
    layout = "header = true, auto_detect = false, delim = ',', quote = '\"'"
    return f"read_csv({source}, columns = {{{columns}}}, {layout})"


def _copy(connection: duckdb.DuckDBPyConnection, source: str, fields: tuple[Field, ...], out: Path) -> None:
    columns = ", ".join(f'"{field.key}" AS "{field.column}"' for field in fields)
    connection.execute(
        f"COPY (SELECT {columns} FROM {source}) TO {quoted(str(out))} (FORMAT parquet, USE_TMP_FILE false)"
    )


def _copy_by_line(connection: duckdb.DuckDBPyConnection, raw: RawFile, out: Path) -> list[str]:
    """Read the file line by line, write the wanted values of the good lines anew, and let duckdb read those."""
    logger.info("Reading %s again, line by line, which is slower.", raw.path)
    compact = out.with_suffix(".jsonl")
    bad: list[tuple[int, str]] = []
    n_lines = 0
    try:
        with compact.open("w", encoding="utf-8", newline="\n") as stream:
            for number, values, problem in _lines(raw):
                n_lines += 1
                if problem is None:
                    stream.write(json.dumps(values, ensure_ascii=False) + "\n")
                    continue
                bad.append((number, problem))
                if len(bad) > raw.skip_bad_lines:
                    raise _bad_line(raw, bad)
        if n_lines == len(bad):
            raise _empty(raw.path)
        plain = RawFile(compact, raw.fields)
        _copy(connection, _json_reader(plain, quoted_path(compact)), raw.fields, out)
    finally:
        compact.unlink(missing_ok=True)
    return [_left_out(raw.path, bad)] if bad else []


def _lines(raw: RawFile) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Yield number, values and problem of every line that is not blank."""
    with reading(raw.path, "utf-8"), open_binary(raw.path) as stream:
        parse: Callable[[str], Any] = json.loads if raw.file_format == "json" else ast.literal_eval
        if raw.file_format == "csv":
            parse = partial(_csv_record, _csv_header(raw, stream))
        for number, line in enumerate(stream, start=2 if raw.file_format == "csv" else 1):
            if line.strip():
                yield number, *_read_line(raw, parse, line, "utf-8-sig" if number == 1 else "utf-8")


def _read_line(
    raw: RawFile, parse: Callable[[str], Any], line: bytes, encoding: str
) -> tuple[dict[str, Any], str | None]:
    """Return the wanted values of a line, and what is wrong with it, or None."""
    try:
        return _values(raw, parse, line.decode(encoding)), None
    except UnicodeDecodeError as error:
        return {}, f"it is not UTF-8 text (byte 0x{line[error.start]:02x} at {error.start})"
    except _WrongValue as error:
        return {}, str(error)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        return {}, _said(error) if line.endswith(b"\n") else "it is cut in half, and the file ends there"


class _WrongValue(ValueError):
    """The line can be read, but a value is missing or wrong."""


def _values(raw: RawFile, parse: Callable[[str], Any], line: str) -> dict[str, Any]:
    record = parse(line)
    if not isinstance(record, Mapping):
        raise ValueError(f"it holds a {type(record).__name__}, expected an object with fields")
    try:
        values = read_values(raw.reshape(dict(record)) if raw.reshape else record, raw.fields)
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _WrongValue("a wanted text holds half of a surrogate pair, which is no character") from None
    except ValueError as error:
        raise _WrongValue(str(error)) from None
    return values


def _csv_header(raw: RawFile, stream: IO[bytes]) -> list[str]:
    first = stream.readline()
    if not first.strip():
        raise _empty(raw.path)
    names = next(csv.reader([first.decode("utf-8-sig").rstrip("\r\n")]))
    missing = [field.key for field in raw.fields if field.key not in names]
    if missing:
        raise DataError(
            f"{raw.path} lacks the column '{missing[0]}'. Found: {', '.join(names)[:200]}.",
            "Check that it is the file of ratings: a header line, then one rating per line.",
        )
    return names


def _csv_record(header: list[str], line: str) -> dict[str, str]:
    row = next(csv.reader([line.rstrip("\r\n")]))
    if len(row) != len(header):
        raise ValueError(f"it has {len(row)} values, expected {len(header)}")
    return dict(zip(header, row, strict=True))


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is not valid JSON ({error.msg}, column {error.colno})"
    if isinstance(error, SyntaxError):
        return f"it is not a Python literal ({error.msg})"
    return str(error) or type(error).__name__


def _bad_line(raw: RawFile, bad: list[tuple[int, str]]) -> DataError:
    number, problem = bad[-1]
    allowed = f" ({len(bad)} bad lines, at most {raw.skip_bad_lines} may be left out)" if raw.skip_bad_lines else ""
    return DataError(
        f"{raw.path}, line {number}: {problem}{allowed}.",
        "Download or copy the file again, or mend that line. (From Python, skip_bad_lines=N leaves out up to N such "
        "lines; the data set's notes then say so.)",
    )


def _left_out(path: Path, bad: list[tuple[int, str]]) -> str:
    named = "; ".join(f"line {number}: {problem}" for number, problem in bad[:_NAMED_LINES])
    return f"bad lines of {path.name} left out: {len(bad)} ({named}{'; ...' if len(bad) > _NAMED_LINES else ''})"


def _empty(path: Path) -> DataError:
    return DataError(f"{path} has no rows.", "Check that it was written or downloaded completely.")
