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
from training.teacher import SoftLabels
from training.template import AnswerIds, Frame, answer_ids, cut_frames
from training.tokenizer import encode_plain

MAX_JUDGED_TOKENS = 160  # in training alone; the shipped guard reads whatever fits its window
MAX_CONTEXT_TOKENS = (16, 16, 24, 80)  # of an earlier turn, one of these at random; the first when scoring
LABEL_SHARE = 0.5  # of a verdict's target; the rest is the soft label, where there is one
CODE_WEIGHT = 0.5
GRAMMAR_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Prompted:
    """One example as ids after its head; the answer is what is learnt."""

    role: str
    prompt: list[int]  # contents, joiners, tail
    answer: list[int]
    text: str  # the judged turn before its surface varied
    codes: tuple[str, ...]
    target: float  # P(unsafe) to be learnt


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Examples of one judged role, padded on the right: under a causal mask nothing sees the padding."""

    head: Tensor  # [head tokens]
    ids: Tensor  # [batch, tokens]: prompt + answer without its last id
    positions: (
        Tensor  # [batch, P]: where an id of the answer comes next; the first is the verdict's, the last may repeat
    )
    rows: Tensor  # [answers]: index into the flattened positions
    targets: Tensor  # [answers]
    weights: Tensor  # [answers]
    verdicts: Tensor  # [batch]: index into rows and targets of each example's verdict
    chances: Tensor  # [batch]: P(unsafe) to be learnt there


class Encoder:
    """Turns examples into sequences and batches with one tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        meanings: Mapping[str, NDArray[np.float16]] | None = None,
        soft_labels: SoftLabels | None = None,
    ) -> None:
        """`meanings`, `soft_labels`: sentence vectors and P(unsafe), for those texts that have one."""
        self._tokenizer = tokenizer
        self._meanings, self._soft_labels = meanings or {}, soft_labels or {}
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
            limit = MAX_CONTEXT_TOKENS[0] if chance is None else chance.choice(MAX_CONTEXT_TOKENS)
            context = [turn[:limit] for turn in turns[:-1]]
            prompt = self.frames[example.role].splice([*context, turns[-1][:MAX_JUDGED_TOKENS]])
            answer = self.answers.encode(example.codes)
            target = self._target(example)
            sequences.append(Prompted(example.role, prompt, answer, example.turns[-1], example.codes, target))
        return sequences

    def _target(self, example: Example) -> float:
        label = float(bool(example.codes))
        soft = self._soft_labels.get((example.turns[-1], example.role), label)
        share = LABEL_SHARE if example.is_labelled else 0.0
        return share * label + (1 - share) * soft

    def batch(self, sequences: Sequence[Prompted]) -> TokenBatch:
        """All of one role."""
        ids = torch.full((len(sequences), max(len(s.prompt) + len(s.answer) - 1 for s in sequences)), self.answers.end)
        width = max(len(s.answer) for s in sequences)
        positions = torch.zeros(len(sequences), width, dtype=torch.long)
        rows: list[int] = []
        verdicts: list[int] = []
        for index, s in enumerate(sequences):
            line = s.prompt + s.answer[:-1]
            ids[index, : len(line)] = torch.tensor(line)
            positions[index] = torch.arange(len(s.prompt) - 1, len(s.prompt) - 1 + width).clamp_max(len(line) - 1)
            verdicts.append(len(rows))
            rows += range(index * width, index * width + len(s.answer))
        return TokenBatch(
            head=torch.tensor(self.frames[sequences[0].role].head),
            ids=ids,
            positions=positions,
            rows=torch.tensor(rows),
            targets=torch.tensor([token for s in sequences for token in s.answer]),
            weights=torch.tensor([weight for s in sequences for weight in _answer_weights(len(s.answer))]),
            verdicts=torch.tensor(verdicts),
            chances=torch.tensor([s.target for s in sequences]),
        )

    def meanings(self, sequences: Sequence[Prompted]) -> tuple[Tensor, Tensor]:
        """Which sequences' texts have a sentence vector [known], and these vectors [known, 384]."""
        known = [index for index, s in enumerate(sequences) if s.text in self._meanings]
        vectors = [self._meanings[sequences[index].text] for index in known]
        stacked = np.array(vectors, dtype=np.float32).reshape(len(known), MEANING_WIDTH)
        return torch.tensor(known, dtype=torch.long), torch.from_numpy(stacked)


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
