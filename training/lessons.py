"""All that the guard is taught, put together before training begins: rows, soft labels, sentence vectors, swapped texts.

Knows: how many of each, which texts are short enough for the teachers.
Never knows: tokens, the guard, how teachers think.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data import UNLABELLED_SOURCE, Example
from training.sentences import SentenceEncoder
from training.swaps import Swapper
from training.teacher import SoftLabels, Teachers

MAX_TAUGHT_CHARS = 200  # the encoder reads 64 tokens, and long texts are few and dear
NUM_SWAPPED = 45_000


@dataclass(frozen=True, slots=True)
class Lessons:
    """`examples` hold the swapped texts, which have soft labels alone."""

    examples: Sequence[Example]
    meanings: Mapping[str, NDArray[np.float16]]  # judged turn -> sentence vector
    soft_labels: SoftLabels


def prepare_lessons(examples: Sequence[Example], sentences: SentenceEncoder, seed: int) -> Lessons:
    """Fit the teachers on the short rows and ask them about these and about texts nobody wrote."""
    taught = [example for example in examples if len(example.turns[-1]) <= MAX_TAUGHT_CHARS]
    prompts = _distinct(example for example in taught if example.role == "user")
    swapped = Swapper(prompts, sentences).sample(prompts, NUM_SWAPPED, random.Random(seed))
    texts = [*_distinct(taught), *swapped]
    meanings = dict(zip(texts, sentences.encode(texts), strict=True))
    teachers = Teachers(taught, sentences)
    unlabelled = [Example(UNLABELLED_SOURCE, (text,)) for text in swapped]
    return Lessons([*examples, *unlabelled], meanings, {**teachers.opinions(swapped), **teachers.soft_labels()})


def _distinct(examples: Iterable[Example]) -> list[str]:
    return list(dict.fromkeys(example.turns[-1] for example in examples))
