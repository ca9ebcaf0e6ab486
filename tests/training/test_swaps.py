"""Swapped texts are new, keep the frame of a training text, and use the texts' own words."""

import random

import numpy as np

from training.swaps import WORD, Swapper

TEXTS = [f"how can I {verb} the {thing} today?" for verb in ("paint", "clean", "steal") for thing in ("house", "wagon")]


class Vectors:
    """Stands in for the sentence encoder, whose weights tests do not download."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.random.default_rng(len(texts)).normal(size=(len(texts), 16)).astype(np.float16)


def swapper() -> Swapper:
    texts = [*TEXTS, "quickly around several gardens without asking neighbours about their flowers"]
    return Swapper(texts, Vectors())  # type: ignore[arg-type]  # the same method


def test_they_are_new_and_distinct() -> None:
    made = swapper().sample(TEXTS, 40, random.Random(0))
    assert len(set(made)) == 40
    assert not set(made) & set(TEXTS)


def test_only_longer_words_change_and_into_words_of_the_texts() -> None:
    one = swapper()
    for text in one.sample(TEXTS, 40, random.Random(0)):
        assert text.startswith("how can I ")
        assert set(WORD.findall(text)) <= set(one._words)
