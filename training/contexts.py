"""What may stand around a judged message without changing its label: earlier turns, and harmless text in the same message.

Without such rows a guard learns that harm stands alone, and any small talk before it is a way past (docs/log.md).

Knows: which exchanges are harmless, how often to add which.
Never knows: token ids, files.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from training.data import Example

SHARE = 0.2  # of messages that stand alone get earlier turns
DELICATE_SHARE = 0.15  # of earlier turns: something harmful was asked and refused
TWO_EXCHANGES_SHARE = 0.3
BURIED_SHARE = 0.04  # of messages stand before or after harmless text
MAX_TURN_CHARS = 400
MAX_BURIED_CHARS = 200
REFUSALS = frozenset({"refusal", "written_refuse"})


class Contexts:
    """Exchanges and texts to draw from."""

    def __init__(self, examples: Iterable[Example]) -> None:
        harmless = [e for e in dict.fromkeys(examples) if e.is_labelled and not e.codes]
        unique = [e for e in harmless if max(map(len, e.turns)) <= MAX_TURN_CHARS]
        exchanges = [e for e in unique if len(e.turns) == 2]
        self._refused = [e.turns for e in exchanges if e.source in REFUSALS]
        self._harmless = [e.turns for e in exchanges if e.source not in REFUSALS and not e.is_hard]
        self._texts = [e.turns[0] for e in unique if len(e.turns) == 1 and not e.is_hard]

    def vary(self, examples: Sequence[Example], chance: random.Random) -> list[Example]:
        """Some of them with something around the judged message; labels stay."""
        return [self._surround(example, chance) for example in examples]

    def _surround(self, example: Example, chance: random.Random) -> Example:
        draw = chance.random()
        if draw < SHARE and len(example.turns) <= 2:
            num = 2 if chance.random() < TWO_EXCHANGES_SHARE else 1
            before = [turn for _ in range(num) for turn in self._exchange(chance)]
            return replace(example, turns=(*before, *example.turns))
        if draw > 1 - BURIED_SHARE and len(example.turns) == 1 and len(example.turns[0]) <= MAX_BURIED_CHARS:
            parts = [example.turns[0], chance.choice(self._texts)]
            chance.shuffle(parts)
            return replace(example, turns=(chance.choice((" ", "\n", "\n\n")).join(parts),))
        return example

    def _exchange(self, chance: random.Random) -> tuple[str, ...]:
        is_delicate = self._refused and chance.random() < DELICATE_SHARE
        return chance.choice(self._refused if is_delicate else self._harmless)
