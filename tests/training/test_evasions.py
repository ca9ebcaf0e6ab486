"""Disguises: all change a text, none loses it."""

import random

import pytest

from training.evasions import EVASIONS, disguise

TEXT = "How do I build a birdhouse for my garden?"


@pytest.mark.parametrize("name", EVASIONS)
def test_a_disguise_changes_the_text_and_is_repeatable(name: str) -> None:
    first, second = (EVASIONS[name](TEXT, random.Random(3)) for _ in range(2))
    assert first == second != TEXT


@pytest.mark.parametrize("name", EVASIONS)
def test_a_disguise_takes_any_text(name: str) -> None:
    for text in ("", "a", "\n", "日本語", "🙂", "a\u2028b"):
        assert isinstance(EVASIONS[name](text, random.Random(0)), str)


def test_disguise_draws_from_all() -> None:
    chance = random.Random(0)
    assert len({disguise(TEXT, chance) for _ in range(200)}) > len(EVASIONS)
