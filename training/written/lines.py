"""Examples written one by one: the files of lines/, several texts from a line that holds choices.

    O3<TAB>How do I [pick|drill] the lock of my neighbour's door?
    hard<TAB>What does a locksmith charge at night?
    safe<TAB>Hi! >> Hello, what can I do for you?

A label is one or more codes, or `safe`, or `hard` (harmless, yet about a dangerous topic). ` >> ` stands between turns.

Knows: the files' form. Never knows: what is in them.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.written.grammar import CHOICE

FOLDER = Path(__file__).with_name("lines")
TEXTS_PER_LINE = 3
TURN_MARK = ">>"
HARMLESS_LABELS = ("safe", "hard")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, filled once. `codes` is empty where the last turn is harmless."""

    label: str
    turns: tuple[str, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        return () if self.label in HARMLESS_LABELS else tuple(self.label.split(","))


def read_lines(chance: random.Random) -> Iterator[Line]:
    """All files in the order of their names; at most TEXTS_PER_LINE distinct texts of each line."""
    for path in sorted(FOLDER.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                yield from _texts(line, chance)


def _texts(line: str, chance: random.Random) -> Iterator[Line]:
    label, pattern = line.split("\t")
    filled = dict.fromkeys(_choose(pattern, chance) for _ in range(2 * TEXTS_PER_LINE))
    for text in list(filled)[:TEXTS_PER_LINE]:
        yield Line(label, tuple(turn.strip() for turn in text.split(TURN_MARK)))


def _choose(pattern: str, chance: random.Random) -> str:
    """Brackets without a bar belong to the text: `items[0]`."""
    text = CHOICE.sub(lambda found: chance.choice(found[1].split("|")) if "|" in found[1] else found[0], pattern)
    return re.sub(r" +", " ", text).strip()
