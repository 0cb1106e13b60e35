"""Reading tables of any common format, with errors that say what is wrong where.

CSV (quotes as in RFC 4180; comma, semicolon, tab or bar, seen from the header), TSV and RecBole's atomic files (tabs,
no quoting at all), JSON lines and Parquet. Gzip is recognised by its first bytes, not by the file's name.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recbench.contracts.errors import ConfigError, DataError
from recbench.data.text import CATEGORY_SEPARATOR

_DELIMITED = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet", ".pq")
_CSV_DELIMITERS = ",;\t|"
_BLOCK_BYTES = 1 << 24
_KEYS_FROM_RECORDS = 100


@dataclass(frozen=True)
class TableFile:
    """A table on disk whose header was read.

    Attributes:
        path: the file.
        kind: how it is written.
        columns: column names, without the types that RecBole appends (``user_id:token``).
        delimiter: for kind "delimited".
        raw_columns: column names as they stand in the file.
        encoding: of its text.
    """

    path: Path
    kind: Literal["delimited", "jsonl", "parquet"]
    columns: tuple[str, ...]
    raw_columns: tuple[str, ...]
    delimiter: str = ","
    encoding: str = "utf-8"


def table_suffix(path: Path) -> str:
    """Return the suffix that tells a file's format, in lower case and without ``.gz``; "" for formats not read here."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return last if last in (*_DELIMITED, *_JSON_LINES, *_PARQUET) else ""


def open_table(path: Path, encoding: str = "utf-8") -> TableFile:
    """Read the header of a table.

    Raises:
        DataError: the file is missing, empty, damaged, not in ``encoding``, or of a format that is not read here.
        ConfigError: there is no such encoding.
    """
    _require_encoding(encoding)
    suffix = table_suffix(path)
    with reading(path, encoding):
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise DataError(f"{path} {what}.", "Check the path.")
        if not suffix:
            known = ", ".join((*_DELIMITED, *_JSON_LINES, *_PARQUET))
            raise DataError(f"{path} is of no known format.", f"Known suffixes, each also with .gz: {known}.")
        if suffix in _PARQUET:
            names = tuple(pq.read_schema(path).names)
            return TableFile(path, "parquet", names, names)
        if suffix in _JSON_LINES:
            names = _json_keys(path, encoding)
            return TableFile(path, "jsonl", names, names, encoding=encoding)
        first = next(numbered_lines(path, encoding))[1]
    delimiter = max(_CSV_DELIMITERS, key=first.count) if suffix == ".csv" else _DELIMITED[suffix]
    raw = next(csv.reader([first], delimiter=delimiter)) if suffix == ".csv" else first.split(delimiter)
    names = tuple(name.strip().partition(":")[0] for name in raw)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns called '{twice}'.", "Rename one of them in the header line.")
    return TableFile(path, "delimited", names, tuple(raw), delimiter, encoding)


def read_columns(file: TableFile, columns: Sequence[str]) -> pa.Table:
    """Read the given columns, in file order of rows.

    Text formats give text columns; Parquet gives the types it holds. Blank lines are skipped.

    Raises:
        DataError: the file is damaged or holds no rows.
    """
    with reading(file.path, file.encoding):
        if file.kind == "parquet":
            table = pq.read_table(file.path, columns=list(columns))
        elif file.kind == "jsonl":
            table = _read_json_lines(file, columns)
        else:
            table = _read_delimited(file, columns)
    if not table.num_rows:
        raise DataError(f"{file.path} has no rows.", "Check that the file is complete.")
    return table


@contextmanager
def reading(path: Path, encoding: str) -> Iterator[None]:
    """Turn what can go wrong while a file is read into one clear :class:`DataError`."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is a damaged gzip file: {_lower(error)}.", "It may be cut off: download or copy it again."
        ) from error
    except UnicodeDecodeError as error:
        raise _encoding_error(path, encoding) from error
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error) or "UTF-8" in str(error):
            raise _encoding_error(path, encoding) from error
        raise DataError(
            f"{path} cannot be read: {_lower(error)}.", "Check that it is complete and of its format."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path and permissions."
        ) from error


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; what begins like gzip is unpacked on the way."""
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if is_gzip:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield raw


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Return the lines of a text file that are not blank, without their line ends.

    Raises:
        DataError: the file is missing, empty, damaged or not in ``encoding``.
    """
    _require_encoding(encoding)
    with reading(path, encoding):
        return [line for _, line in numbered_lines(path, encoding)]


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not blank. Only line feeds (and CR before them) end a line."""
    empty = True
    with open_binary(path) as stream, io.TextIOWrapper(stream, encoding=_with_bom(encoding), newline="\n") as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                empty = False
                yield number, line.rstrip("\r\n")
    if empty:
        raise DataError(f"{path} is empty.", "Check that it was written or downloaded completely.")


def _read_delimited(file: TableFile, columns: Sequence[str]) -> pa.Table:
    raw_name = dict(zip(file.columns, file.raw_columns, strict=True))
    wanted = [raw_name[column] for column in columns]
    quoted = table_suffix(file.path) == ".csv"
    with open_binary(file.path) as stream:
        table = pa.csv.read_csv(
            stream,
            # One thread: only then do messages hold the row number.
            pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, encoding=file.encoding),
            pa.csv.ParseOptions(
                delimiter=file.delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            pa.csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
    return table.rename_columns(list(columns))


def _read_json_lines(file: TableFile, columns: Sequence[str]) -> pa.Table:
    """Read JSON lines with duckdb; what it refuses is read line by line, which is slower.

    Both give the same texts. duckdb lets pass a comma before a closing brace, and takes a line ``null`` for an object
    without keys; of all else that is wrong, the error names the line.
    """
    fast = _read_json_fast(file, columns) if codecs.lookup(file.encoding).name == "utf-8" else None
    if fast is not None:
        return fast
    values: dict[str, list[str | None]] = {column: [] for column in columns}
    for number, line in numbered_lines(file.path, file.encoding):
        record = _json_object(file.path, line, number)
        for column in columns:
            values[column].append(_as_text(record.get(column)))
    return pa.table({column: pa.array(texts, pa.string()) for column, texts in values.items()})


def _read_json_fast(file: TableFile, columns: Sequence[str]) -> pa.Table | None:
    """Return the values as text, or None where duckdb cannot read the file."""
    with file.path.open("rb") as stream:
        compression = "gzip" if stream.read(2) == b"\x1f\x8b" else "none"
    path = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(file.path))
    keys = ", ".join(f"{_sql_text(column)}: 'JSON'" for column in columns)
    names = ", ".join(f'"{column.replace(chr(34), 2 * chr(34))}"::VARCHAR' for column in columns)
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
            # Values stay JSON here: numbers keep all their digits.
            relation = connection.sql(
                f"SELECT {names} FROM read_json({_sql_text(path)}, columns = {{{keys}}}, auto_detect = false, "
                f"format = 'newline_delimited', compression = '{compression}', hive_partitioning = false)"
            )
            table = relation.to_arrow_table()
    except duckdb.Error:
        return None
    texts = ([_texts_of_json(chunk) for chunk in column.chunks] for column in table.columns)
    return pa.table([pa.chunked_array(chunks, pa.string()) for chunks in texts], names=list(columns))


def _texts_of_json(values: pa.Array) -> pa.Array:
    """Turn values written in JSON into text, as :func:`_as_text` does; only unusual ones need Python."""
    is_text = pc.match_substring_regex(values, r'^"[^"\\]*"$')
    is_whole = pc.match_substring_regex(values, r"^(0|-?[1-9][0-9]*)$")
    plain = pc.if_else(is_text, pc.utf8_slice_codeunits(values, 1, -1), values)
    unusual = pc.fill_null(pc.invert(pc.or_(is_text, is_whole)), False)
    if not pc.any(unusual).as_py():
        return plain
    encoded = values.filter(unusual).dictionary_encode()
    texts = pa.array([_as_text(json.loads(text)) for text in encoded.dictionary.to_pylist()], pa.string())
    return pc.replace_with_mask(plain, unusual, texts.take(encoded.indices))


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json_keys(path: Path, encoding: str) -> tuple[str, ...]:
    """Return the keys of the first records; a key that the very first one lacks is found too."""
    records = (
        _json_object(path, line, number) for number, line in islice(numbered_lines(path, encoding), _KEYS_FROM_RECORDS)
    )
    return tuple(dict.fromkeys(key for record in records for key in record))


def _json_object(path: Path, line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}).",
            "JSON lines hold one complete object per line; the file may be cut off.",
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f"{path}, line {number}: a JSON {type(record).__name__}, expected an object.",
            'JSON lines hold one object per line: {"item_id": "1", "title": "..."}.',
        )
    return record


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return CATEGORY_SEPARATOR.join(_as_text(part) or "" for part in value)
    return json.dumps(value, ensure_ascii=False)


def _require_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ConfigError(
            f"There is no encoding '{encoding}'.", "Common ones: utf-8, latin-1, cp1252, utf-16."
        ) from None


def _with_bom(encoding: str) -> str:
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _encoding_error(path: Path, encoding: str) -> DataError:
    """Look for the first byte that is not in the encoding, and say where it is."""
    where = "somewhere"
    decoder = codecs.getincrementaldecoder(encoding)()
    done, line = 0, 1
    with open_binary(path) as stream:
        while chunk := stream.read(_BLOCK_BYTES):
            waiting = len(decoder.getstate()[0])  # the first bytes of a character that the last chunk cut
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                at = error.start - waiting
                line += chunk.count(b"\n", 0, max(at, 0))
                where = f"at byte {done + at} (line {line}: 0x{error.object[error.start]:02x})"
                break
            done += len(chunk)
            line += chunk.count(b"\n")
    return DataError(
        f"{path} is not {encoding} text: invalid {where}.",
        "If the file is whole, give its encoding, for example --encoding latin-1 or --encoding cp1252.",
    )


def _lower(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]  # "CSV" stays
