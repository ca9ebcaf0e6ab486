"""The written grammars, filled, and the written lines: turns, categories, and how many of each.

Knows: counts, which frames take which deeds. Never knows: files, ids, the held-out split.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.written.answering import HELP, REFUSE, STEPS
from training.written.asking import ASK, ASK_SLYLY, DANGEROUS_THINGS, SMALL_TALK, TALK, TOPICS
from training.written.deeds import HARMFUL, HARMLESS, SOUNDS_LIKE_HARM
from training.written.grammar import Phrases, fill, sample, sentence
from training.written.lines import read_lines
from training.written.saying import (
    DESPAIR,
    HARMLESS_TALK,
    HATE,
    PHRASES,
    RESPECT,
    SEX,
    VIOLENCE,
)

ALL_HARMFUL = tuple(deed for deeds in HARMFUL.values() for deed in deeds)


@dataclass(frozen=True, slots=True)
class Written:
    """`kind` names the grammar; `codes` is empty where the last turn is safe."""

    kind: str
    turns: tuple[str, ...]
    codes: tuple[str, ...] = ()
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Grammar:
    """`count` distinct single turns of one kind."""

    kind: str
    patterns: Sequence[str]
    phrases: Phrases
    count: int
    codes: tuple[str, ...] = ()


GRAMMARS = (
    *(Grammar("ask_harm", (*ASK, *ASK_SLYLY), {"deed": deeds}, 450, (code,)) for code, deeds in HARMFUL.items()),
    Grammar("hate", HATE, PHRASES, 500, ("O1",)),
    Grammar("violence", VIOLENCE, PHRASES, 400, ("O1",)),
    Grammar("sex", SEX, PHRASES, 700, ("O2",)),
    Grammar("despair", DESPAIR, PHRASES, 350, ("O6",)),
    Grammar("ask_harmless", ASK, {"deed": HARMLESS}, 1800),
    Grammar("sounds_like_harm", ASK, {"deed": SOUNDS_LIKE_HARM}, 1300),
    Grammar("talk", TALK, {"deed": ALL_HARMFUL}, 1100),
    Grammar("topics", TOPICS, {"thing": DANGEROUS_THINGS}, 900),
    Grammar("small_talk", SMALL_TALK, {}, 900),
    Grammar("respect", RESPECT, PHRASES, 350),
    Grammar("harmless_talk", HARMLESS_TALK, PHRASES, 900),
)
NUM_ANSWERS = 600  # of each kind
HARD_KINDS = frozenset({"sounds_like_harm", "talk", "topics", "respect", "hard_line"})
LINE_PASSES = 3  # they are few and each was thought of


def written_examples(seed: int = 0) -> Iterator[Written]:
    """All of them, always the same ones."""
    chance = random.Random(seed)
    for grammar in GRAMMARS:
        for text in sample(grammar.patterns, grammar.phrases, grammar.count, chance):
            yield Written(grammar.kind, (text,), grammar.codes)
    yield from _answers(chance)
    for line in read_lines(chance):
        yield Written("hard_line" if line.label == "hard" else "line", line.turns, line.codes, LINE_PASSES)


def _answers(chance: random.Random) -> Iterator[Written]:
    """The same deeds helped with and refused, so that neither the question nor the tone decides alone."""
    for _ in range(NUM_ANSWERS):
        code = chance.choice(list(HARMFUL))
        harmful, harmless = chance.choice(HARMFUL[code]), chance.choice((*HARMLESS, *SOUNDS_LIKE_HARM))
        yield _exchange("help_harm", harmful, HELP, (code,), chance)
        yield _exchange("refuse", harmful, REFUSE, (), chance)
        yield _exchange("help_harmless", harmless, HELP, (), chance)


def _exchange(kind: str, deed: str, answers: Sequence[str], codes: tuple[str, ...], chance: random.Random) -> Written:
    phrases = {**STEPS, "deed": (fill(deed, {}, chance),)}
    question, answer = (sentence(fill(chance.choice(patterns), phrases, chance)) for patterns in (ASK, answers))
    return Written(kind, (question, answer), codes)
