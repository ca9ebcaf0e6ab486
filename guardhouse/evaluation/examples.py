"""A labelled conversation: what is judged, and what the label says.

Knows: labels, categories, the place in a file that an example came from.
Never knows: files, formats, scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from guardhouse.guard.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled row. Its last turn is what the label is about."""

    where: str  # "xstest.csv:17"
    line: int
    conversation: Conversation
    is_unsafe: bool
    codes: frozenset[str] = frozenset()  # categories that the label names, those outside the policy included
    unlabelled: frozenset[str] | None = frozenset()  # categories the label leaves open; None: it names none at all
    group: str = ""  # the kind of row by its source: XSTest's type, HarmBench's category ..
    id: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of one file, and how many of its rows are none."""

    name: str
    format: str
    digest: str  # of the file's bytes, first 16 hex digits of SHA-256
    examples: Sequence[Example]
    num_rows: int
    skipped: dict[str, int]  # reason -> rows of the file that were left out before judging
    limit: int | None = None

    @property
    def num_unsafe(self) -> int:
        return sum(example.is_unsafe for example in self.examples)
