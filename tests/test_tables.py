"""Rows of files: what is read, and what the error says where it cannot be."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from guardhouse.errors import InputError
from guardhouse.tables import read_rows

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)


def values(path: Path) -> list[dict[str, object]]:
    return [dict(row.values) for row in read_rows(path)]


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_every_text_survives_csv_and_json_lines(rows: list[tuple[str, str]], tmp_path_factory: object) -> None:
    folder = tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    expected = [{"a": first, "b": second} for first, second in rows]
    lines = folder / "rows.jsonl"
    lines.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in expected))
    assert values(lines) == expected
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    table = folder / "rows.csv.gz"
    table.write_bytes(gzip.compress(buffer.getvalue().encode()))
    assert values(table) == expected


def test_a_row_knows_the_line_it_began_on(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('text,label\n"two\nlines",safe\n\nthird,unsafe\n')
    assert [(row.where, row.line) for row in read_rows(file)] == [("rows.csv:2", 2), ("rows.csv:5", 5)]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_bytes(b"\xef\xbb\xbftext\tlabel\na\tsafe\n")
    assert values(file) == [{"text": "a", "label": "safe"}]


def test_parquet_is_read_like_the_others(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table({"text": ["a", "b"], "label": [0, 1]}), file)
    assert values(file) == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": \n', "a.jsonl:2: not valid JSON: Expecting value at column"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected a JSON object, found list"),
        ("a.jsonl", b'{"x": 1}\n{"x": "\xff"}\n', "a.jsonl:2: not UTF-8 text (byte 8 of the line)"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "a.jsonl:1: not valid JSON"),
        ("a.csv", b"x,y\n1,2\n3\n", "a.csv:3: has 1 fields, the header has 2"),
        ("a.csv", b"x,x\n1,2\n", "a.csv:1: the header names column 'x' twice"),
        ("a.csv", b'x\n"open\n', "a.csv:2: not valid CSV"),
        ("a.csv", b"", "a.csv: is empty: no header"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"x\n1\n" * 1000)[:30], "cannot be read"),
        ("a.parquet", b"no parquet", "a.parquet: not a valid Parquet file"),
        ("a.xlsx", b"", "unknown kind of file; known are .jsonl"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        values(file)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read: No such file"):
        values(tmp_path / "none.jsonl")
