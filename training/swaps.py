"""Texts nobody wrote: training texts with some words exchanged. They have no label; the teacher's opinion is learnt.

They show the guard what the teacher makes of words and combinations that no source brought together.

Knows: words, which are near in meaning.
Never knows: labels.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.sentences import SentenceEncoder

WORD = re.compile(r"[a-z]{4,}")
VOCABULARY = 9000
NUM_NEAR = 12
SWAPPED_SHARE = 0.3  # of a text's longer words
NEAR_SHARE = 0.6  # of exchanged words get a neighbour in meaning, the others any word of the texts
MAX_CHARS = 140


class Swapper:
    """Exchanges words by the sentence encoder's neighbours."""

    def __init__(self, texts: Sequence[str], sentences: SentenceEncoder) -> None:
        counts = Counter(word for text in texts for word in set(WORD.findall(text.lower())))
        self._words = [word for word, _ in counts.most_common(VOCABULARY)]
        self._weights = np.cumsum(np.sqrt([counts[word] for word in self._words]))
        self._near = _neighbours(sentences.encode(self._words).astype(np.float32))
        self._index = {word: index for index, word in enumerate(self._words)}

    def sample(self, texts: Sequence[str], count: int, chance: random.Random) -> list[str]:
        """`count` distinct new texts, from those of `texts` that are short enough."""
        short = [text for text in texts if len(text) <= MAX_CHARS]
        made: dict[str, None] = {}
        while len(made) < count:
            text = chance.choice(short)
            swapped = WORD.sub(lambda found: self._swap(found[0], chance), text)
            if swapped != text:
                made[swapped] = None
        return list(made)

    def _swap(self, word: str, chance: random.Random) -> str:
        if word not in self._index or chance.random() > SWAPPED_SHARE:
            return word
        if chance.random() < NEAR_SHARE:
            return self._words[chance.choice(self._near[self._index[word]])]
        return chance.choices(self._words, cum_weights=self._weights)[0]


def _neighbours(vectors: NDArray[np.float32]) -> list[list[int]]:
    """The NUM_NEAR nearest other rows of each row, by cosine."""
    near = []
    for start in range(0, len(vectors), 1000):
        likeness = vectors[start : start + 1000] @ vectors.T
        order = np.argpartition(-likeness, NUM_NEAR, axis=1)[:, : NUM_NEAR + 1]
        near += [[int(i) for i in row if i != start + n] for n, row in enumerate(order)]
    return near
