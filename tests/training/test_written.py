"""Our own examples: varied, labelled by the deed, and each deed both asked for and talked about."""

import random
from collections import Counter

import pytest

from training.data import _fold
from training.template import CODES
from training.written.deeds import HARMFUL, HARMLESS, SOUNDS_LIKE_HARM
from training.written.examples import HARD_KINDS, Written, written_examples
from training.written.grammar import fill, sample


@pytest.fixture(scope="module")
def examples() -> list[Written]:
    return list(written_examples())


def test_choices_and_slots_are_filled() -> None:
    text = fill("[go|walk] to {where}", {"where": ["the [red|blue] house"]}, random.Random(0))
    assert text in {f"{verb} to the {colour} house" for verb in ("go", "walk") for colour in ("red", "blue")}


def test_a_small_grammar_gives_what_it_has() -> None:
    assert sorted(sample(["[a|b] {x}"], {"x": ["1", "2"]}, 100, random.Random(0))) == ["A 1", "A 2", "B 1", "B 2"]


def test_no_bracket_or_slot_is_left(examples: list[Written]) -> None:
    ours = [e for e in examples if not e.kind.endswith("line")]  # lines are single texts, some of them code
    assert not [e for e in ours if any(mark in turn for turn in e.turns for mark in "[]{}|")]


def test_they_are_the_same_every_time(examples: list[Written]) -> None:
    assert list(written_examples()) == examples


def test_every_category_has_hundreds(examples: list[Written]) -> None:
    counts = Counter(code for e in examples for code in e.codes)
    assert all(counts[code] >= 400 for code in CODES), counts


def test_more_are_safe_than_unsafe(examples: list[Written]) -> None:
    assert sum(1 for e in examples if not e.codes) > len(examples) / 2


def test_no_text_is_both_safe_and_unsafe(examples: list[Written]) -> None:
    labels: dict[str, set[bool]] = {}
    for e in examples:
        if len(e.turns) == 1:
            labels.setdefault(_fold(e.turns[0]), set()).add(bool(e.codes))
    assert not [text for text, seen in labels.items() if len(seen) > 1]


def test_a_harmful_deed_is_also_talked_about_and_refused(examples: list[Written]) -> None:
    kinds = {kind for e in examples for kind in (e.kind,) if "phishing" in e.turns[-1] or "phishing" in e.turns[0]}
    assert {"ask_harm", "talk"} <= kinds
    assert {"talk", "sounds_like_harm"} <= HARD_KINDS


def test_lists_of_deeds_do_not_overlap() -> None:
    harmful = {deed for deeds in HARMFUL.values() for deed in deeds}
    assert not harmful & {*HARMLESS, *SOUNDS_LIKE_HARM}
    assert not {*HARMLESS} & {*SOUNDS_LIKE_HARM}
