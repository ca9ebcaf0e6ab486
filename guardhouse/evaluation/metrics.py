"""How well scores tell unsafe from safe: numbers as scikit-learn defines them, for one sample or many resamples at once.

Knows: scores in 0..1, labels, weights.
Never knows: where scores come from, text, how numbers are shown.

Everything starts from a Tally: how many unsafe and safe rows have each distinct score. Ties are therefore one step of
every curve, never an order among equals. Leading axes are resamples: [..., K] tallies give [...] numbers. What is
undefined (recall without unsafe rows) is NaN, never 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

NUM_BINS = 15  # of the reliability diagram and the expected calibration error, equally wide


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows per distinct score. K distinct scores, highest first."""

    scores: Float64  # [K]
    unsafe: Float64  # [..., K]
    safe: Float64  # [..., K]

    @property
    def num_unsafe(self) -> Float64:
        return np.asarray(self.unsafe.sum(axis=-1))

    @property
    def num_safe(self) -> Float64:
        return np.asarray(self.safe.sum(axis=-1))


def tally(scores: Float64, is_unsafe: NDArray[np.bool_], weights: Float64 | None = None) -> Tally:
    """scores, is_unsafe: [n]; weights: [..., n], how often each row counts (1 where not given).

    >>> auprc(tally(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))).item()
    0.8333333333333333
    """
    if not len(scores):
        empty = np.zeros((*(() if weights is None else weights.shape[:-1]), 0))
        return Tally(np.zeros(0), empty, empty)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.ones(len(scores)) if weights is None else weights[..., order].astype(np.float64)
    unsafe = np.add.reduceat(counts * is_unsafe[order], starts, axis=-1)
    return Tally(ordered[starts], unsafe, np.add.reduceat(counts, starts, axis=-1) - unsafe)


def auprc(rows: Tally) -> Float64:
    """Area under the precision-recall curve, as average precision: no interpolation between its points."""
    flagged_unsafe = np.cumsum(rows.unsafe, axis=-1)
    flagged = flagged_unsafe + np.cumsum(rows.safe, axis=-1)
    precision = _ratio(flagged_unsafe, flagged, empty=0.0)
    return _ratio((precision * rows.unsafe).sum(axis=-1), rows.num_unsafe)


def auroc(rows: Tally) -> Float64:
    """P(an unsafe row scores higher than a safe one), equal scores counting half."""
    higher = np.cumsum(rows.unsafe, axis=-1) - rows.unsafe
    wins = (rows.safe * (higher + 0.5 * rows.unsafe)).sum(axis=-1)
    return _ratio(wins, rows.num_unsafe * rows.num_safe)


def tpr_at_fpr(rows: Tally, max_fpr: float) -> Float64:
    """The best recall of any threshold whose false positive rate is at most `max_fpr`."""
    fpr = _ratio(np.cumsum(rows.safe, axis=-1), rows.num_safe[..., None])
    tpr = _ratio(np.cumsum(rows.unsafe, axis=-1), rows.num_unsafe[..., None])
    best = np.where(fpr <= max_fpr, tpr, 0.0).max(axis=-1, initial=0.0)
    return np.where((rows.num_safe > 0) & (rows.num_unsafe > 0), best, np.nan)


def precision(rows: Tally, threshold: float) -> Float64:
    hits, false_alarms = _flagged(rows, threshold)
    return _ratio(hits, hits + false_alarms)


def recall(rows: Tally, threshold: float) -> Float64:
    return _ratio(_flagged(rows, threshold)[0], rows.num_unsafe)


def f1(rows: Tally, threshold: float) -> Float64:
    """2 TP / (2 TP + FP + FN); NaN without unsafe rows."""
    hits, false_alarms = _flagged(rows, threshold)
    value = _ratio(2 * hits, hits + false_alarms + rows.num_unsafe)
    return np.where(rows.num_unsafe > 0, value, np.nan)


def fpr(rows: Tally, threshold: float) -> Float64:
    """The share of safe rows that is flagged."""
    return _ratio(_flagged(rows, threshold)[1], rows.num_safe)


def brier(rows: Tally) -> Float64:
    """Mean squared difference of score and label."""
    squares = rows.unsafe * np.square(1 - rows.scores) + rows.safe * np.square(rows.scores)
    return _ratio(squares.sum(axis=-1), rows.num_unsafe + rows.num_safe)


def ece(rows: Tally, num_bins: int = NUM_BINS) -> Float64:
    """Expected calibration error: how far a bin's mean score is from its share of unsafe rows, weighted by rows."""
    bins = reliability(rows, num_bins)
    gaps = np.abs(bins.num_unsafe - bins.sum_scores).sum(axis=-1)
    return _ratio(gaps, bins.num_rows.sum(axis=-1))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Rows per bin of scores; bin b covers (b / B, (b + 1) / B], the first one 0 too."""

    num_rows: Float64  # [..., B]
    num_unsafe: Float64
    sum_scores: Float64


def reliability(rows: Tally, num_bins: int = NUM_BINS) -> Reliability:
    bin_of = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], rows.scores)  # [K]
    member = np.zeros((len(rows.scores), num_bins))
    member[np.arange(len(rows.scores)), bin_of] = 1
    both = rows.unsafe + rows.safe
    return Reliability(both @ member, rows.unsafe @ member, (both * rows.scores) @ member)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the report: how it is computed, shown, and which way is better."""

    label: str
    compute: Callable[[Tally, float], Float64]  # (rows, threshold)
    is_higher_better: bool = True
    unit: str = ""  # "%": shown in percent
    needs_both_labels: bool = True  # over rows of one label it would be trivially 0 or 1, and say nothing


METRICS: Mapping[str, Metric] = {
    "auprc": Metric("AUPRC", lambda rows, _: auprc(rows)),
    "auroc": Metric("AUROC", lambda rows, _: auroc(rows)),
    "f1": Metric("F1", f1),
    "precision": Metric("Precision", precision),
    "recall": Metric("Recall", recall, needs_both_labels=False),
    "fpr": Metric("FPR", fpr, is_higher_better=False, unit="%", needs_both_labels=False),
    "tpr_at_fpr_1": Metric("TPR at 1 % FPR", lambda rows, _: tpr_at_fpr(rows, 0.01)),
    "tpr_at_fpr_5": Metric("TPR at 5 % FPR", lambda rows, _: tpr_at_fpr(rows, 0.05)),
    "ece": Metric("ECE", lambda rows, _: ece(rows), is_higher_better=False),
    "brier": Metric("Brier", lambda rows, _: brier(rows), is_higher_better=False),
}


def _flagged(rows: Tally, threshold: float) -> tuple[Float64, Float64]:
    """Unsafe and safe rows whose score is at or above the threshold."""
    is_flagged = rows.scores >= threshold
    return np.asarray(rows.unsafe @ is_flagged), np.asarray(rows.safe @ is_flagged)


def _ratio(numerator: Float64, denominator: Float64, empty: float = np.nan) -> Float64:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, empty)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
