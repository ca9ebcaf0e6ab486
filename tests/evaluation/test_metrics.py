"""Our numbers against scikit-learn's, ties included; intervals against theory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from guardhouse.evaluation import metrics
from guardhouse.evaluation.bootstrap import intervals, paired, resamples

# Few distinct scores, so that most examples have ties; and any scores at all.
SCORES = st.one_of(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]), st.floats(0, 1))


@st.composite
def both_labels(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Scores, labels (both occur) and whole weights from 1 to 3."""
    rows = draw(st.lists(st.tuples(SCORES, st.booleans(), st.integers(1, 3)), min_size=2, max_size=60))
    scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    labels[0], labels[1] = True, False
    return scores.astype(np.float64), labels.astype(np.bool_), weights.astype(np.float64)


@settings(deadline=None)  # scikit-learn's first calls are slow
@given(both_labels(), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_every_metric_agrees_with_scikit_learn(case: tuple[NDArray[np.float64], ...], threshold: float) -> None:
    scores, labels, weights = case
    rows = metrics.tally(scores, labels, weights)
    flagged = scores >= threshold
    fpr, tpr, _ = oracle.roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    options = {"sample_weight": weights, "zero_division": np.nan}
    expected = {
        "auprc": oracle.average_precision_score(labels, scores, sample_weight=weights),
        "auroc": oracle.roc_auc_score(labels, scores, sample_weight=weights),
        "f1": oracle.f1_score(labels, flagged, sample_weight=weights),
        "precision": oracle.precision_score(labels, flagged, **options),
        "recall": oracle.recall_score(labels, flagged, **options),
        "fpr": oracle.recall_score(~labels, flagged, **options),
        "tpr_at_fpr_1": max(tpr[fpr <= 0.01]),
        "tpr_at_fpr_5": max(tpr[fpr <= 0.05]),
        "brier": oracle.brier_score_loss(labels, scores, sample_weight=weights),
        "ece": expected_calibration_error(
            np.repeat(scores, weights.astype(int)), np.repeat(labels, weights.astype(int))
        ),
    }
    assert expected.keys() == metrics.METRICS.keys()
    for name, value in expected.items():
        found = metrics.METRICS[name].compute(rows, threshold).item()
        assert found == pytest.approx(value, abs=1e-9, nan_ok=True), name


def expected_calibration_error(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """From scikit-learn's calibration curve, which leaves out empty bins and does not say how full the others are."""
    share, mean = calibration_curve(labels, scores, n_bins=metrics.NUM_BINS, strategy="uniform")
    bins = np.searchsorted(np.linspace(0, 1, metrics.NUM_BINS + 1)[1:-1], scores)
    filled = np.bincount(bins, minlength=metrics.NUM_BINS)
    return float(np.abs(share - mean) @ filled[filled > 0] / len(scores))


@settings(deadline=None)
@given(both_labels())
def test_resamples_computed_at_once_are_those_computed_one_by_one(case: tuple[NDArray[np.float64], ...]) -> None:
    scores, labels, _ = case
    weights = next(resamples(len(scores), 5, seed=1))
    together = metrics.tally(scores, labels, weights)
    for metric in metrics.METRICS.values():
        single = [metric.compute(metrics.tally(scores, labels, row), 0.5).item() for row in weights]
        assert metric.compute(together, 0.5).tolist() == pytest.approx(single, abs=1e-12, nan_ok=True)


def test_what_is_undefined_is_nan_and_never_zero() -> None:
    only_unsafe = metrics.tally(np.array([0.2, 0.7]), np.array([True, True]))
    only_safe = metrics.tally(np.array([0.2, 0.3]), np.array([False, False]))
    nothing = metrics.tally(np.zeros(0), np.zeros(0, np.bool_))
    assert math.isnan(metrics.fpr(only_unsafe, 0.5))
    assert math.isnan(metrics.auroc(only_unsafe))
    assert math.isnan(metrics.recall(only_safe, 0.5))
    assert math.isnan(metrics.f1(only_safe, 0.5))
    assert math.isnan(metrics.precision(only_safe, 0.5))
    assert math.isnan(metrics.tpr_at_fpr(only_safe, 0.05))
    assert all(math.isnan(metric.compute(nothing, 0.5)) for metric in metrics.METRICS.values())


def test_a_resample_draws_as_many_rows_as_there_are() -> None:
    drawn = np.concatenate(list(resamples(7, 50, seed=0)))
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert not (drawn == 1).all()


def test_the_interval_of_a_share_is_the_binomials() -> None:
    """Recall 0.6 over 400 unsafe rows: 0.6 ± 1.96 * sqrt(0.6 * 0.4 / 400) = 0.6 ± 0.048."""
    scores = np.concatenate([np.full(240, 0.9), np.full(160, 0.1), np.full(400, 0.2)])
    labels = np.arange(800) < 400
    [(low, high)] = intervals(scores, labels, [lambda rows: metrics.recall(rows, 0.5)], num_resamples=4000)
    assert low == pytest.approx(0.552, abs=0.006)
    assert high == pytest.approx(0.648, abs=0.006)


def test_a_paired_interval_sees_what_two_intervals_cannot() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 3 == 0
    before = np.clip(generator.normal(0.35 + 0.3 * labels, 0.2), 0, 1)
    after = np.clip(before - 0.02 * labels * generator.random(600), 0, 1)
    [(low, _)] = intervals(before, labels, [metrics.auprc])
    assert metrics.auprc(metrics.tally(after, labels)) > low, "well inside the first report's own interval"
    assert paired(before, after, labels, metrics.auprc)[1] < 0
