"""The written lines are well formed, balanced, and say what their labels say."""

import random
import re
from collections import Counter

import pytest

from training.template import CODES
from training.written.lines import FOLDER, HARMLESS_LABELS, Line, read_lines


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return list(read_lines(random.Random(0)))


def test_every_line_is_a_label_a_tab_and_a_text() -> None:
    for path in FOLDER.glob("*.txt"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line and not line.startswith("#"):
                label, _ = line.split("\t")
                assert set(label.split(",")) <= {*CODES, *HARMLESS_LABELS}, f"{path.name}:{number}"


def test_no_turn_is_empty_and_no_choice_is_left(lines: list[Line]) -> None:
    assert all(turn for line in lines for turn in line.turns)
    assert not [line for line in lines if any(re.search(r"\[[^\]]*\|[^\]]*\]", turn) for turn in line.turns)]


def test_harm_and_its_harmless_twins_are_about_equally_many(lines: list[Line]) -> None:
    share = sum(bool(line.codes) for line in lines) / len(lines)
    assert 0.35 < share < 0.6


def test_every_category_has_hundreds(lines: list[Line]) -> None:
    counts = Counter(code for line in lines for code in line.codes)
    assert min(counts[code] for code in CODES) >= 200, counts


def test_no_text_has_two_verdicts(lines: list[Line]) -> None:
    verdicts: dict[tuple[str, ...], set[bool]] = {}
    for line in lines:
        verdicts.setdefault(line.turns, set()).add(bool(line.codes))
    assert not [turns for turns, seen in verdicts.items() if len(seen) > 1]
