"""Examples -> padded batches of ids, with the answer's positions and targets.

Knows: frames, token ids, lengths.
Never knows: models, files, where examples come from.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from training.data import MAX_TEXT_CHARS, Example, vary_surface
from training.sentences import WIDTH as MEANING_WIDTH
from training.template import AnswerIds, Frame, answer_ids, cut_frames
from training.tokenizer import encode_plain

MAX_JUDGED_TOKENS = 160  # in training alone; the shipped guard reads whatever fits its window
MAX_CONTEXT_TOKENS = 24
CODE_WEIGHT = 0.5
GRAMMAR_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Prompted:
    """One example as ids after its head; the answer is what is learnt."""

    role: str
    prompt: list[int]  # contents, joiners, tail
    answer: list[int]
    text: str  # the judged turn before its surface varied
    judged: list[int]  # its ids
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Examples of one judged role, padded on the right: under a causal mask nothing sees the padding."""

    head: Tensor  # [head tokens]
    ids: Tensor  # [batch, tokens]: prompt + answer without its last id
    rows: Tensor  # [answers]: index into the flattened batch whose next id is learnt
    targets: Tensor  # [answers]
    weights: Tensor  # [answers]
    verdict_rows: Tensor  # [batch]: the last prompt token, whose next id is `safe` or `unsafe`
    is_unsafe: Tensor  # [batch]
    taught: Tensor  # [known texts]: index into verdict_rows
    meanings: Tensor  # [known texts, 384]: their sentence vectors


class Encoder:
    """Turns examples into sequences and batches with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, meanings: Mapping[str, NDArray[np.float16]] | None = None) -> None:
        """`meanings`: sentence vectors by text, for those texts that have one."""
        self._tokenizer = tokenizer
        self._meanings = meanings or {}
        self.frames: dict[str, Frame] = cut_frames(tokenizer)
        self.answers: AnswerIds = answer_ids(tokenizer)

    def encode(self, examples: Sequence[Example], chance: random.Random | None = None) -> list[Prompted]:
        """With `chance`, the surface of every text varies."""
        texts = [turn[:MAX_TEXT_CHARS] for example in examples for turn in example.turns]
        if chance is not None:
            texts = [vary_surface(text, chance) for text in texts]
        contents = iter(encode_plain(self._tokenizer, texts))
        sequences = []
        for example in examples:
            turns = [next(contents) for _ in example.turns]
            context = [turn[:MAX_CONTEXT_TOKENS] for turn in turns[:-1]]
            judged = turns[-1][:MAX_JUDGED_TOKENS]
            prompt = self.frames[example.role].splice([*context, judged])
            answer = self.answers.encode(example.codes)
            sequences.append(Prompted(example.role, prompt, answer, example.turns[-1], judged, example.codes))
        return sequences

    def batch(self, sequences: Sequence[Prompted]) -> TokenBatch:
        """All of one role."""
        width = max(len(s.prompt) + len(s.answer) - 1 for s in sequences)
        ids = torch.full((len(sequences), width), self.answers.end)
        rows: list[int] = []
        for index, s in enumerate(sequences):
            line = s.prompt + s.answer[:-1]
            ids[index, : len(line)] = torch.tensor(line)
            first = index * width + len(s.prompt) - 1
            rows += range(first, first + len(s.answer))
        known = [index for index, s in enumerate(sequences) if s.text in self._meanings]
        vectors = [self._meanings[sequences[index].text] for index in known]
        return TokenBatch(
            head=torch.tensor(self.frames[sequences[0].role].head),
            ids=ids,
            rows=torch.tensor(rows),
            targets=torch.tensor([token for s in sequences for token in s.answer]),
            weights=torch.tensor([weight for s in sequences for weight in _answer_weights(len(s.answer))]),
            verdict_rows=torch.tensor([i * width + len(s.prompt) - 1 for i, s in enumerate(sequences)]),
            is_unsafe=torch.tensor([s.answer[0] == self.answers.unsafe for s in sequences]),
            taught=torch.tensor(known, dtype=torch.long),
            meanings=torch.from_numpy(np.array(vectors, dtype=np.float32).reshape(len(known), MEANING_WIDTH)),
        )


def group(sequences: Sequence[Prompted], tokens_per_batch: int, chance: random.Random) -> list[list[Prompted]]:
    """Neighbours in length together, at most `tokens_per_batch` padded tokens each, in random order."""
    groups: list[list[Prompted]] = []
    for role in ("user", "assistant"):
        lengths = [(len(s.prompt) + chance.random() * 4, s) for s in sequences if s.role == role]
        groups += _pack([s for _, s in sorted(lengths, key=lambda pair: pair[0])], tokens_per_batch)
    chance.shuffle(groups)
    return groups


def in_order(sequences: Sequence[Prompted], size: int) -> Iterator[list[int]]:
    """Indexes of batches of one role and like length, for scoring."""
    for role in ("user", "assistant"):
        indexes = [index for index, s in enumerate(sequences) if s.role == role]
        indexes.sort(key=lambda index: len(sequences[index].prompt))
        for start in range(0, len(indexes), size):
            yield indexes[start : start + size]


def _answer_weights(length: int) -> list[float]:
    """`safe end`; or `unsafe \\n O 3 , O 4 end`: the verdict counts most, then the digits; the rest is grammar."""
    return [1.0] + [CODE_WEIGHT if place % 3 == 0 else GRAMMAR_WEIGHT for place in range(1, length)]


def _pack(ordered: Sequence[Prompted], tokens_per_batch: int) -> list[list[Prompted]]:
    packed: list[list[Prompted]] = []
    current: list[Prompted] = []
    for s in ordered:
        width = len(s.prompt) + len(s.answer)
        if current and (len(current) + 1) * width > tokens_per_batch:
            packed.append(current)
            current = []
        current.append(s)
    return [*packed, current] if current else packed
