"""Is a report worse than an earlier one over the same rows? Differences are judged row by row (paired resampling).

Knows: two reports, which way each number is better.
Never knows: models, files, exit codes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import InputError
from guardhouse.evaluation.bootstrap import paired
from guardhouse.evaluation.metrics import METRICS, Float64, Metric, Tally, tally
from guardhouse.evaluation.report import DatasetReport, Report

DEFAULT_TOLERANCE = 0.005


@dataclass(frozen=True, slots=True)
class Change:
    """One number then and now. `low` and `high` bound the difference now - then at 95 %."""

    name: str  # "xstest: AUPRC", "xstest: AUPRC of O3"
    before: float
    after: float
    low: float
    high: float
    is_worse: bool

    def __str__(self) -> str:
        difference = f"{self.after - self.before:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.name} {self.before:.4f} -> {self.after:.4f}, {difference}"


def compare(before: Report, after: Report, tolerance: float = DEFAULT_TOLERANCE) -> list[Change]:
    """Every number that both reports have. Worse: by more than `tolerance`, and beyond the interval of the difference.

    A row more without a verdict is always worse. Raises InputError where the reports are not about the same rows.
    """
    if before.threshold != after.threshold:
        raise InputError(
            f"the baseline was measured at threshold {before.threshold:g}, this run at {after.threshold:g}: not comparable"
        )
    old = {dataset.name: dataset for dataset in before.datasets}
    shared = [dataset for dataset in after.datasets if dataset.name in old]
    if not shared:
        names = ", ".join(old) or "nothing"
        raise InputError(f"the baseline has none of these datasets; it has {names}")
    changes: list[Change] = []
    for dataset in shared:
        changes += _compare_dataset(old[dataset.name], dataset, after, tolerance)
    return changes


def uncompared(before: Report, after: Report) -> list[str]:
    """Datasets, and categories of a dataset, that only one of the two reports has."""
    return sorted(_parts(before) ^ _parts(after))


def _parts(report: Report) -> set[str]:
    names = {dataset.name for dataset in report.datasets}
    return names | {f"{dataset.name}, category {code}" for dataset in report.datasets for code in dataset.categories}


def _compare_dataset(old: DatasetReport, new: DatasetReport, after: Report, tolerance: float) -> Iterator[Change]:
    if old.digest != new.digest or old.limit != new.limit:
        raise InputError(f"{new.name}: the baseline was measured on other rows (another file, or another --limit)")
    lost_before, lost_after = sum(old.unjudged.values()), sum(new.unjudged.values())
    if lost_before or lost_after:
        lost = lost_after - lost_before
        yield Change(f"{new.name}: rows without verdict", lost_before, lost_after, lost, lost, is_worse=lost > 0)
    rows = _common_rows(old, new)
    for metric in METRICS.values():
        yield from _change(f"{new.name}: {metric.label}", metric, rows, after, tolerance)
    for code in sorted(new.category_scores.keys() & old.category_scores.keys()):
        yield from _change(
            f"{new.name}: AUPRC of {code}", METRICS["auprc"], _common_rows(old, new, code), after, tolerance
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that both reports judged."""

    before: Float64  # scores, [n]
    after: Float64
    labels: NDArray[np.bool_]


def _common_rows(old: DatasetReport, new: DatasetReport, code: str | None = None) -> _Rows:
    """Of a category: those whose label says whether they belong to it."""
    _, first, second = np.intersect1d(old.lines, new.lines, assume_unique=True, return_indices=True)
    old_scores = old.scores if code is None else old.category_scores[code]
    new_scores = new.scores if code is None else new.category_scores[code]
    labels = np.array(new.labels if code is None else new.category_labels[code])[second]
    known = labels >= 0
    return _Rows(np.array(old_scores)[first][known], np.array(new_scores)[second][known], labels[known] == 1)


def _change(name: str, metric: Metric, rows: _Rows, after: Report, tolerance: float) -> Iterator[Change]:
    def statistic(part: Tally) -> Float64:
        return metric.compute(part, after.threshold)

    if metric.needs_both_labels and len(np.unique(rows.labels)) < 2:
        return
    before, now = (statistic(tally(scores, rows.labels)).item() for scores in (rows.before, rows.after))
    if np.isnan([before, now]).any():
        return
    low, high = paired(rows.before, rows.after, rows.labels, statistic, after.num_resamples)
    # Written so that NaN, the interval of no resamples, leaves the decision to the tolerance alone.
    loss, is_beyond = (before - now, not high >= 0) if metric.is_higher_better else (now - before, not low <= 0)
    yield Change(name, before, now, low, high, is_worse=bool(loss > tolerance and is_beyond))
