"""Intervals by resampling rows with replacement.

Knows: rows as scores and labels, percentiles.
Never knows: which metrics there are, what is done with an interval.

A resample is a weight per row. The weights of a seed are the same for every model, so two reports over the same rows can
be compared row by row (`paired`), which sees far smaller changes than two separate intervals.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from guardhouse.evaluation.metrics import Float64, Tally, tally

CONFIDENCE = 0.95
CHUNK_NUMBERS = 4 << 20  # weights held at a time

Statistic = Callable[[Tally], Float64]


def resamples(num_rows: int, num_resamples: int, seed: int) -> Iterator[Float64]:
    """Weights, [some resamples, num_rows] at a time; each resample's weights sum to num_rows."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_NUMBERS // max(num_rows, 1))
    for start in range(0, num_resamples, step):
        count = min(step, num_resamples - start)
        drawn = generator.integers(0, num_rows, (count, num_rows)) + np.arange(count)[:, None] * num_rows
        yield np.bincount(drawn.ravel(), minlength=count * num_rows).reshape(count, num_rows).astype(np.float64)


def intervals(
    scores: Float64,
    is_unsafe: NDArray[np.bool_],
    statistics: Sequence[Statistic],
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """The central 95 % of each statistic over resamples; (NaN, NaN) where it is undefined for the rows as they are."""
    values: list[list[Float64]] = [[] for _ in statistics]
    for weights in resamples(len(scores), num_resamples, seed):
        rows = tally(scores, is_unsafe, weights)
        for found, statistic in zip(values, statistics, strict=True):
            found.append(statistic(rows))
    return [percentile_interval(np.concatenate(found)) if found else (np.nan, np.nan) for found in values]


def paired(
    before: Float64,
    after: Float64,
    is_unsafe: NDArray[np.bool_],
    statistic: Statistic,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The central 95 % of statistic(after) - statistic(before), both over the same resampled rows."""
    differences = [
        statistic(tally(after, is_unsafe, weights)) - statistic(tally(before, is_unsafe, weights))
        for weights in resamples(len(before), num_resamples, seed)
    ]
    return percentile_interval(np.concatenate(differences)) if differences else (np.nan, np.nan)


def percentile_interval(values: Float64, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Resamples in which the statistic is undefined (no unsafe row was drawn) are left out."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
