"""What generalists say of every training row that they have not seen: soft labels for the guard.

Two classifiers with no eye for a source's habits, fitted on three quarters of the rows and asked about the fourth: logistic
regression on words, and a small network on a public encoder's sentence vectors. The mean of their logits carries over to
other sources better than either, and better than a small transformer taught by labels alone (docs/log.md).

Knows: judged turns, roles, labels.
Never knows: tokens, the guard.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from training.data import Example
from training.sentences import SentenceEncoder

NUM_FOLDS = 4
INVERSE_PENALTY = 4.0
HIDDEN = 128
EPOCHS = 10
BATCH_SIZE = 256
RATE = 1e-3
DECAY = 1e-2
SURE = 5.0  # logits are cut here
SoftLabels = Mapping[tuple[str, str], float]  # (judged turn, role) -> P(unsafe)


class Teachers:
    """One teacher per fold and role; each has seen all other folds."""

    def __init__(self, examples: Sequence[Example], sentences: SentenceEncoder) -> None:
        self._sentences = sentences
        self._labels: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            self._labels[example.role][example.turns[-1]].append(bool(example.codes))
        self._teachers = {role: self._fit(by_text) for role, by_text in self._labels.items()}

    def soft_labels(self) -> SoftLabels:
        """Every distinct judged turn of the examples, by the teacher that has not seen it."""
        soft: dict[tuple[str, str], float] = {}
        for role, by_text in self._labels.items():
            texts = np.array(list(by_text))
            folds = _folds(texts)
            for fold, teacher in enumerate(self._teachers[role]):
                asked = texts[folds == fold].tolist()
                soft |= _chances(asked, role, teacher.logits(asked, self._vectors(asked)))
        return soft

    def opinions(self, texts: Sequence[str]) -> SoftLabels:
        """What all teachers think in the mean of a User's texts that none has seen."""
        vectors = self._vectors(texts)
        logits = np.mean([teacher.logits(texts, vectors) for teacher in self._teachers["user"]], axis=0)
        return _chances(texts, "user", logits)

    def _fit(self, by_text: Mapping[str, Sequence[bool]]) -> list["Teacher"]:
        """A text's copies in the training rows count once each."""
        texts = list(by_text)
        vectors, folds = self._vectors(texts), _folds(texts)
        rows = np.repeat(np.arange(len(texts)), [len(labels) for labels in by_text.values()])
        is_unsafe = np.array([label for labels in by_text.values() for label in labels])
        teachers = []
        for fold in range(NUM_FOLDS):
            kept = folds[rows] != fold
            teachers.append(Teacher([texts[row] for row in rows[kept]], vectors[rows[kept]], is_unsafe[kept]))
        return teachers

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._sentences.encode(texts).astype(np.float32)


class Teacher:
    """Both classifiers, fitted once."""

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32], is_unsafe: NDArray[np.bool_]) -> None:
        self._words = TfidfVectorizer(min_df=2, sublinear_tf=True)
        self._by_words = LogisticRegression(C=INVERSE_PENALTY, max_iter=200)
        self._by_words.fit(self._words.fit_transform(texts), is_unsafe)
        self._by_meaning = fit_network(torch.from_numpy(vectors), torch.from_numpy(is_unsafe).float())

    def logits(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """[texts]: the mean of both, each cut at SURE."""
        words = self._by_words.decision_function(self._words.transform(texts))
        with torch.inference_mode():
            meaning = self._by_meaning(torch.from_numpy(vectors))[:, 0].numpy()
        mean: NDArray[np.float64] = (words.clip(-SURE, SURE) + meaning.clip(-SURE, SURE)) / 2
        return mean


def fit_network(vectors: Tensor, labels: Tensor) -> nn.Module:
    """[rows, width] and [rows] -> one hidden layer, whose one output is a logit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(vectors.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(vectors)).split(BATCH_SIZE):
            loss = functional.binary_cross_entropy_with_logits(network(vectors[rows])[:, 0], labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return network


def _folds(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.array([hashlib.sha256(text.encode()).digest()[0] % NUM_FOLDS for text in texts])


def _chances(texts: Sequence[str], role: str, logits: NDArray[np.float64]) -> dict[tuple[str, str], float]:
    return {(text, role): float(1 / (1 + np.exp(-x))) for text, x in zip(texts, logits, strict=True)}
