"""What an evaluation found: the structure of report.json, and how it is computed from scores.

Knows: which numbers a report has, curves thinned to what a plot can show.
Never knows: HTML, terminals, models.

A report holds no text of anyone: labels, scores, line numbers. Undefined numbers are null.
"""

import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from guardhouse.errors import InputError
from guardhouse.evaluation.bootstrap import CONFIDENCE, intervals
from guardhouse.evaluation.metrics import METRICS, NUM_BINS, Float64, Tally, auprc, reliability, tally
from guardhouse.evaluation.scoring import Scored

VERSION = 1
MAX_CURVE_POINTS = 200
HISTOGRAM_BINS = 20
MIN_GROUPS = 2  # of rows, before their shares are listed
MAX_GROUPS = 40
MIN_ROWS_FOR_INTERVAL = 5  # of a category; resampling two rows would claim to know more than it can


class Estimate(msgspec.Struct, frozen=True):
    """A number and its 95 % interval; null where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Curves(msgspec.Struct, frozen=True):
    """Points for plots, [x, y] each."""

    precision_recall: list[tuple[float, float]]  # recall, precision
    roc: list[tuple[float, float]]  # false positive rate, recall
    reliability: list[tuple[float, float, int]]  # mean score, share of unsafe rows, rows; one per bin that has any
    histogram_safe: list[int]  # rows per twentieth of the scores
    histogram_unsafe: list[int]


class Group(msgspec.Struct, frozen=True):
    """Rows of one kind by the source's own words."""

    name: str
    is_unsafe: bool
    num_rows: int
    num_flagged: int


class CategoryResult(msgspec.Struct, frozen=True):
    """One category against all other rows."""

    num_rows: int
    num_unsafe: int
    auprc: Estimate


class DatasetReport(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset's part."""

    name: str
    format: str
    digest: str
    limit: int | None
    num_rows: int  # of the file
    num_judged: int
    num_unsafe: int  # of the judged
    skipped: dict[str, int]  # rows that hold nothing to judge: reason -> count
    unjudged: dict[str, int]  # rows that the guard gave no verdict for: error -> count
    metrics: dict[str, Estimate]
    categories: dict[str, CategoryResult]
    groups: list[Group]
    curves: Curves | None  # None where rows of one label only are there
    rows_per_s: float
    tokens_per_s: float
    lines: list[int]
    labels: list[int]  # 1: unsafe
    scores: list[float]
    category_scores: dict[str, list[float]] = {}
    category_labels: dict[str, list[int]] = {}  # 1: of this category, 0: not, -1: the label leaves it open


class ModelReport(msgspec.Struct, frozen=True):
    """What was evaluated."""

    name: str
    policy: str
    device: str
    num_parameters: int
    num_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """report.json."""

    version: int = VERSION
    guardhouse: str
    created: str  # ISO 8601, UTC
    machine: str
    model: ModelReport
    threshold: float
    num_resamples: int
    confidence: float
    datasets: list[DatasetReport]


def build_report(results: Sequence[Scored], model: ModelReport, threshold: float, num_resamples: int) -> Report:
    """Compute everything."""
    return Report(
        guardhouse=version("guardhouse"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        model=model,
        threshold=threshold,
        num_resamples=num_resamples,
        confidence=CONFIDENCE,
        datasets=[describe(result, threshold, num_resamples) for result in results],
    )


def describe(result: Scored, threshold: float, num_resamples: int) -> DatasetReport:
    """One dataset's numbers, intervals and curves."""
    rows = tally(result.scores, result.is_unsafe)
    dataset, num_rows = result.dataset, len(result.scores)
    statistics = [partial(_at_threshold, metric.compute, threshold) for metric in METRICS.values()]
    bounds = intervals(result.scores, result.is_unsafe, statistics, num_resamples)
    num_unsafe = int(result.is_unsafe.sum())
    has_both_labels = 0 < num_unsafe < num_rows
    category_labels = _category_labels(result)
    return DatasetReport(
        name=dataset.name,
        format=dataset.format,
        digest=dataset.digest,
        limit=dataset.limit,
        num_rows=dataset.num_rows,
        num_judged=num_rows,
        num_unsafe=num_unsafe,
        skipped=dict(dataset.skipped),
        unjudged=dict(result.unjudged),
        metrics={
            name: estimate(statistic(rows).item(), bound)
            if has_both_labels or not METRICS[name].needs_both_labels
            else Estimate(None)
            for name, statistic, bound in zip(METRICS, statistics, bounds, strict=True)
        },
        categories=_category_results(result, category_labels, num_resamples),
        groups=_groups(result, threshold),
        curves=_curves(rows) if has_both_labels else None,
        rows_per_s=_round(num_rows / result.seconds) if num_rows else 0.0,
        tokens_per_s=_round(result.num_tokens / result.seconds) if num_rows else 0.0,
        lines=[example.line for example in result.examples],
        labels=result.is_unsafe.astype(int).tolist(),
        scores=result.scores.tolist(),
        category_scores={code: result.categories[code].tolist() for code in category_labels},
        category_labels={code: labels.tolist() for code, labels in category_labels.items()},
    )


def _at_threshold(compute: Callable[[Tally, float], Float64], threshold: float, rows: Tally) -> Float64:
    return compute(rows, threshold)


def estimate(value: float, bound: tuple[float, float] = (math.nan, math.nan)) -> Estimate:
    """NaN becomes null, and so do the bounds of what is undefined."""
    if math.isnan(value):
        return Estimate(None)
    return Estimate(value, *(None if math.isnan(number) else number for number in bound))


def write_json(report: Report, path: Path) -> None:
    path.write_bytes(to_json(report))


def to_json(report: Report) -> bytes:
    return msgspec.json.encode(report) + b"\n"


def read_json(path: Path) -> Report:
    """A report that `write_json` wrote. Raises InputError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: is no report of guardhouse eval: {error}") from error


def _category_labels(result: Scored) -> dict[str, Any]:
    """Per category that at least one row is labelled with: [n] of 1, 0, -1 (open)."""
    labels = {}
    for code in result.categories:
        values = np.array([_category_label(example.codes, example.unlabelled, code) for example in result.examples])
        if (values == 1).any():
            labels[code] = values
    return labels


def _category_label(codes: frozenset[str], unlabelled: frozenset[str] | None, code: str) -> int:
    if code in codes:
        return 1
    return -1 if unlabelled is None or code in unlabelled else 0


def _category_results(result: Scored, labels: dict[str, Any], num_resamples: int) -> dict[str, CategoryResult]:
    found = {}
    for code, values in labels.items():
        is_known = values >= 0
        scores, is_positive = result.categories[code][is_known], values[is_known] == 1
        value, num_positive = auprc(tally(scores, is_positive)).item(), int(is_positive.sum())
        bound = (math.nan, math.nan)
        if num_positive >= MIN_ROWS_FOR_INTERVAL:
            bound = intervals(scores, is_positive, [auprc], num_resamples)[0]
        found[code] = CategoryResult(int(is_known.sum()), num_positive, estimate(value, bound))
    return found


def _groups(result: Scored, threshold: float) -> list[Group]:
    """Flagged rows by kind: where a guard is too strict or too lax."""
    kinds = [(example.group or "-", example.is_unsafe) for example in result.examples]
    totals, flagged = Counter(kinds), Counter[tuple[str, bool]]()
    for kind, value in zip(kinds, result.scores, strict=True):
        flagged[kind] += bool(value >= threshold)
    if not MIN_GROUPS <= len(totals) <= MAX_GROUPS:
        return []
    return [Group(name, unsafe, totals[name, unsafe], flagged[name, unsafe]) for name, unsafe in sorted(totals)]


def _curves(rows: Tally) -> Curves:
    hits, false_alarms = np.cumsum(rows.unsafe), np.cumsum(rows.safe)
    recall, precision = hits / hits[-1], hits / (hits + false_alarms)
    bins, tenths = reliability(rows, NUM_BINS), reliability(rows, HISTOGRAM_BINS)
    filled = bins.num_rows > 0
    return Curves(
        precision_recall=_thin(np.concatenate(([0.0], recall)), np.concatenate(([precision[0]], precision))),
        roc=_thin(np.concatenate(([0.0], false_alarms / false_alarms[-1])), np.concatenate(([0.0], recall))),
        reliability=[
            (_round(mean), _round(share), int(count))
            for mean, share, count in zip(
                bins.sum_scores[filled] / bins.num_rows[filled],
                bins.num_unsafe[filled] / bins.num_rows[filled],
                bins.num_rows[filled],
                strict=True,
            )
        ],
        histogram_safe=(tenths.num_rows - tenths.num_unsafe).astype(int).tolist(),
        histogram_unsafe=tenths.num_unsafe.astype(int).tolist(),
    )


def _thin(x: Float64, y: Float64) -> list[tuple[float, float]]:
    """At most MAX_CURVE_POINTS of a curve, evenly along its length, both ends kept."""
    steps = np.hypot(np.diff(x), np.diff(y))
    length = np.concatenate(([0.0], np.cumsum(steps)))
    wanted = np.linspace(0, length[-1], min(MAX_CURVE_POINTS, len(x)))
    chosen = np.unique(np.searchsorted(length, wanted).clip(0, len(x) - 1))
    return [(_round(x[index]), _round(y[index])) for index in chosen]


def _round(value: float) -> float:
    return round(float(value), 5)
