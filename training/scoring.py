"""Scores of conversations under the torch model, and the numbers that sum them up.

Knows: P(unsafe), labels, thresholds.
Never knows: how the model was trained, files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from training.batches import Encoder, in_order
from training.data import Example, is_everyday
from training.model import Llama

THRESHOLD = 0.5
BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Summary:
    """How well scores tell unsafe from safe. A number is NaN where a set has one class only."""

    num_rows: int
    auprc: float
    f1: float
    recall: float
    false_positive_rate: float

    def __str__(self) -> str:
        return (
            f"{self.num_rows} rows: AUPRC {self.auprc:.4f}, F1 {self.f1:.4f}, recall {self.recall:.4f}, "
            f"false positives {self.false_positive_rate:.4f}"
        )


@torch.inference_mode()
def verdict_states(model: Llama, encoder: Encoder, examples: Sequence[Example]) -> Tensor:
    """The normed hidden states whose next id is the verdict, [examples, hidden]."""
    model.eval()
    sequences = encoder.encode(examples)
    states = torch.zeros(len(examples), model.shape.hidden_size)
    for indexes in in_order(sequences, BATCH_SIZE):
        batch = encoder.batch([sequences[index] for index in indexes])
        states[indexes] = model(batch.head, batch.ids, batch.positions[:, :1])[:, 0]
    return states


@torch.inference_mode()
def unsafe_scores(model: Llama, encoder: Encoder, examples: Sequence[Example]) -> NDArray[np.float32]:
    """P(unsafe) over {safe, unsafe}, per example."""
    pair = [encoder.answers.safe, encoder.answers.unsafe]
    logits = model.logits(verdict_states(model, encoder, examples))[:, pair]
    scores: NDArray[np.float32] = logits.softmax(dim=1)[:, 1].numpy()
    return scores


def summarise(scores: NDArray[np.float32], is_unsafe: Sequence[bool]) -> Summary:
    """
    >>> summarise(np.array([0.9, 0.2], np.float32), [True, False]).f1
    1.0
    """
    labels = np.array(is_unsafe)
    flagged = scores >= THRESHOLD
    return Summary(
        num_rows=len(labels),
        auprc=float(average_precision_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan"),
        f1=float(f1_score(labels, flagged)) if labels.any() else float("nan"),
        recall=float(flagged[labels].mean()) if labels.any() else float("nan"),
        false_positive_rate=float(flagged[~labels].mean()) if not labels.all() else float("nan"),
    )


def report(scores: NDArray[np.float32], examples: Sequence[Example]) -> dict[str, Summary]:
    """The held-out split as a whole and in the parts that matter."""
    parts = {
        "all": [True] * len(examples),
        "prompts": [example.role == "user" for example in examples],
        "responses": [example.role == "assistant" for example in examples],
        "everyday": [is_everyday(example) for example in examples],
        "hard benign": [example.is_hard for example in examples],
    }
    return {
        name: summarise(scores[chosen], [bool(e.codes) for e, is_in in zip(examples, chosen, strict=True) if is_in])
        for name, chosen in parts.items()
    }
