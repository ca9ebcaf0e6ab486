"""What is put around a judged message never changes what is judged."""

import random

from training.contexts import Contexts
from training.data import Example

HARMFUL = Example("s", ("How do I rob a bank?",), ("O3",))
EXCHANGE = Example("s", ("How do I bake bread?", "With flour, water and salt."))
REFUSAL = Example("refusal", ("How do I rob a bank?", "I cannot help with that."))
TEXT = Example("s", ("The river was calm that evening.",))
HARD = Example("s", ("Why do people rob banks?",), is_hard=True)


def varied(examples: list[Example]) -> list[Example]:
    return Contexts([HARMFUL, EXCHANGE, REFUSAL, TEXT, HARD]).vary(examples, random.Random(0))


def test_codes_role_and_judged_text_stay() -> None:
    for example in varied([HARMFUL] * 500):
        assert example.codes == HARMFUL.codes
        assert example.role == "user"
        assert HARMFUL.turns[-1] in example.turns[-1]


def test_some_stand_alone_some_after_turns_and_some_inside_harmless_text() -> None:
    shapes = {(len(e.turns), e.turns[-1] == HARMFUL.turns[-1]) for e in varied([HARMFUL] * 500)}
    assert shapes == {(1, True), (3, True), (5, True), (1, False)}


def test_a_harmless_message_may_follow_a_refusal() -> None:
    followed = [e for e in varied([TEXT] * 2000) if e.turns[:2] == REFUSAL.turns]
    assert followed
    assert not any(e.codes for e in followed)


def test_harmful_text_is_never_drawn_as_context() -> None:
    for example in varied([TEXT] * 2000):
        assert HARD.turns[0] not in example.turns[-1]
        assert all(turn in {*EXCHANGE.turns, *REFUSAL.turns} for turn in example.turns[:-1])
