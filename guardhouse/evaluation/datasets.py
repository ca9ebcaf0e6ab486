"""Labelled files as datasets: `name=path`, the format by its columns, a limit that takes rows from all over the file.

Knows: files, formats, digests, what was left out and why.
Never knows: models, scores.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from guardhouse.errors import InputError
from guardhouse.evaluation.examples import Dataset, Example
from guardhouse.evaluation.formats import FORMATS, Columns, Skip, find_format, make_reader
from guardhouse.tables import SUFFIXES, read_rows

DEFAULT_COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Source:
    """A file as the user names it."""

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> "Source":
        """`data/xstest.csv` is xstest; `over-refusal=data/xstest.csv` names it."""
        name, separator, rest = text.partition("=")
        if separator and not Path(text).exists():
            if not name:
                raise InputError(f"{text}: no name before the =")
            return cls(name, Path(rest))
        path = Path(text)
        stem = path.name.removesuffix(".gz")
        for suffix in SUFFIXES:
            stem = stem.removesuffix(suffix)
        return cls(stem, path)


def load_dataset(
    source: Source, *, format_name: str | None = None, columns: Columns = DEFAULT_COLUMNS, limit: int | None = None
) -> Dataset:
    """Read a labelled file whole. Raises InputError, which names the line and the column, for whatever is wrong with it.

    `limit`: that many rows, evenly spread over the file, since many files are sorted by label.
    """
    if format_name is not None and format_name not in FORMATS:
        raise InputError(f"unknown format {format_name!r}; known are {', '.join(FORMATS)}")
    rows = read_rows(source.path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{source.path.name}: holds no rows")
    names = list(first.values)
    found = format_name or ("table" if columns != DEFAULT_COLUMNS else find_format(names))
    read = make_reader(found, names, columns, first.where)
    examples: list[Example] = []
    skipped: Counter[str] = Counter()
    for row in chain([first], rows):
        try:
            examples.append(read(row))
        except Skip as reason:
            skipped[str(reason)] += 1
        except KeyError as error:
            raise InputError(f"{row.where}: has no {error.args[0]!r}, which {found} files have") from None
    num_rows = len(examples) + skipped.total()
    is_cut = limit is not None and limit < len(examples)
    if limit is not None and is_cut:
        examples = [examples[index * len(examples) // limit] for index in range(limit)]
    digest = _digest(source.path)
    return Dataset(source.name, found, digest, examples, num_rows, dict(skipped), limit if is_cut else None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
