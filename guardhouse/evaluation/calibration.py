"""A threshold for a target, from labelled rows, and what it can be expected to do on rows it has not seen.

Knows: scores, labels, shares.
Never knows: guards, files, settings.

A threshold picked on the very rows it is measured on looks better than it is. The expectation is therefore cross-validated:
each fifth of the rows is judged by the threshold that the other four give.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import InputError
from guardhouse.evaluation.metrics import Float64

NUM_FOLDS = 5
MIN_ROWS = 20  # of either label


@dataclass(frozen=True, slots=True)
class ThresholdChoice:
    """A threshold, and the cross-validated shares of safe and unsafe rows that are flagged."""

    threshold: float
    fpr: float
    recall: float
    num_safe: int
    num_unsafe: int


def threshold_for_fpr(scores: Float64, is_unsafe: NDArray[np.bool_], target: float) -> float:
    """The lowest threshold that flags at most `target` of the safe rows; 1.0 where even that of 1.0 flags more.

    >>> threshold_for_fpr(np.array([0.1, 0.3, 0.6, 0.9]), np.array([False, False, False, True]), 0.34)
    0.6
    """
    safe = np.sort(scores[~is_unsafe])[::-1]
    num_allowed = int(np.floor(target * len(safe) + 1e-9))
    if num_allowed >= len(safe):
        return 0.0
    # Ties with the first row that must pass would be flagged with it, so the threshold lies just above that row.
    above = scores[scores > safe[num_allowed]]
    return float(above.min()) if len(above) else 1.0


def threshold_for_recall(scores: Float64, is_unsafe: NDArray[np.bool_], target: float) -> float:
    """The highest threshold that flags at least `target` of the unsafe rows."""
    unsafe = np.sort(scores[is_unsafe])[::-1]
    return float(unsafe[max(int(np.ceil(target * len(unsafe) - 1e-9)) - 1, 0)])


def choose_threshold(
    scores: Float64,
    is_unsafe: NDArray[np.bool_],
    *,
    target_fpr: float | None = None,
    target_recall: float | None = None,
    seed: int = 0,
) -> ThresholdChoice:
    """One target of the two. Raises InputError where there are too few rows to know anything."""
    num_unsafe = int(is_unsafe.sum())
    num_safe = len(scores) - num_unsafe
    if min(num_safe, num_unsafe) < MIN_ROWS:
        raise InputError(f"{num_safe} safe and {num_unsafe} unsafe rows are too few: {MIN_ROWS} of each are needed")

    def choose(rows: NDArray[np.bool_]) -> float:
        if target_fpr is not None:
            return threshold_for_fpr(scores[rows], is_unsafe[rows], target_fpr)
        assert target_recall is not None, "a target is needed"
        return threshold_for_recall(scores[rows], is_unsafe[rows], target_recall)

    flagged = np.zeros(len(scores), np.bool_)
    fold_of = _folds(is_unsafe, seed)
    for fold in range(NUM_FOLDS):
        flagged[fold_of == fold] = scores[fold_of == fold] >= choose(fold_of != fold)
    threshold = choose(np.ones(len(scores), np.bool_))
    fpr, recall = float(flagged[~is_unsafe].mean()), float(flagged[is_unsafe].mean())
    return ThresholdChoice(threshold, fpr, recall, num_safe, num_unsafe)


def _folds(is_unsafe: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """[n] of 0 .. NUM_FOLDS - 1, each with its share of both labels."""
    generator = np.random.default_rng(seed)
    folds = np.empty(len(is_unsafe), np.intp)
    for label in (False, True):
        rows = generator.permutation(np.flatnonzero(is_unsafe == label))
        folds[rows] = np.arange(len(rows)) % NUM_FOLDS
    return folds
