"""Rows of JSONL, CSV, TSV and Parquet files, each with the place it came from.

Knows: these formats, gzip, UTF-8, which line a row began on.
Never knows: what the columns mean.

Nothing is skipped but blank lines: whatever cannot be read is an InputError that names the file and the line. Messages
hold places and column names, never the text of a field.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from guardhouse.errors import InputError

MAX_FIELD_CHARS = 64 << 20  # csv's own default of 128 Ki refuses long texts
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands: `where` is "file.csv:17", for messages."""

    where: str
    line: int  # of the file, from 1; for Parquet the number of the row
    values: Mapping[str, Any]


def table_suffix(path: Path) -> str:
    """The format, as a suffix: `.csv` for `data.csv.gz`. Raises InputError for any other."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in SUFFIXES:
        raise InputError(f"{path.name}: unknown kind of file; known are {', '.join(SUFFIXES)}, and each with .gz")
    return suffix


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a file, in order.

    >>> [row.values["prompt"] for row in read_rows(Path("rows.jsonl.gz"))]      # doctest: +SKIP
    ['How do I bake bread?']
    """
    suffix = table_suffix(path)
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        else:
            with _open(path) as file:
                yield from _csv_rows(path, file, suffix) if suffix in {".csv", ".tsv"} else _json_rows(path, file)
    except (OSError, EOFError, zlib.error) as error:  # gzip raises all three
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _json_rows(path: Path, file: BinaryIO) -> Iterator[Row]:
    """Lines end at \\n only: a text may hold U+2028 and its like, which str.splitlines would cut at."""
    for number, line in enumerate(file, start=1):
        where = f"{path.name}:{number}"
        text = _decode(line, where).removeprefix("\ufeff" if number == 1 else "")
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise InputError(f"{where}: not valid JSON: nested too deeply") from None
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
        yield Row(where, number, value)


def _csv_rows(path: Path, file: BinaryIO, suffix: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = _decoded_lines(path, file)
    reader = csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        where = f"{path.name}:{line}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise InputError(f"{where}: not valid CSV: {error}") from None
        if not fields:
            continue
        if header is None:
            header = _checked_header(fields, where)
        elif len(fields) != len(header):
            raise InputError(f"{where}: has {len(fields)} fields, the header has {len(header)}")
        else:
            yield Row(where, line, dict(zip(header, fields, strict=True)))
    if header is None:
        raise InputError(f"{path.name}: is empty: no header")


def _checked_header(fields: list[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: the header names column {name!r} twice")
    return names


def _decoded_lines(path: Path, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        yield _decode(line, f"{path.name}:{number}").removeprefix("\ufeff" if number == 1 else "")


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start + 1} of the line)") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow  # noqa: PLC0415  # an extra, and slow to import
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise InputError(f"{path.name}: reading Parquet needs pyarrow: pip install 'guardhouse[bulk]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name}: row {number}", number, values)
    except arrow.ArrowException as error:
        raise InputError(f"{path.name}: not a valid Parquet file after row {number}") from error
