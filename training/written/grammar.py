"""A pattern with choices -> distinct texts.

Knows: `[a|b|c]` (one of these, may be empty) and `{name}` (one of a list of phrases).
Never knows: what the phrases are about.
"""

import random
import re
from collections.abc import Mapping, Sequence

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
MAX_TRIES = 30  # per wanted text, before a small grammar is taken to be exhausted

Phrases = Mapping[str, Sequence[str]]


def fill(pattern: str, phrases: Phrases, chance: random.Random) -> str:
    """One text. Slots first, so that phrases may hold choices.

    >>> fill("[go|go] {where}", {"where": ["home"]}, random.Random(0))
    'go home'
    """
    while SLOT.search(pattern):
        pattern = SLOT.sub(lambda slot: chance.choice(phrases[slot[1]]), pattern)
    while CHOICE.search(pattern):
        pattern = CHOICE.sub(lambda found: chance.choice(found[1].split("|")), pattern)
    return re.sub(r" +", " ", pattern).strip()


def sentence(text: str) -> str:
    """First letter large."""
    return text[:1].upper() + text[1:]


def sample(patterns: Sequence[str], phrases: Phrases, count: int, chance: random.Random) -> list[str]:
    """At most `count` distinct texts, fewer where the grammar is small."""
    texts: dict[str, None] = {}
    for _ in range(count * MAX_TRIES):
        if len(texts) == count:
            break
        texts[sentence(fill(chance.choice(patterns), phrases, chance))] = None
    return list(texts)
