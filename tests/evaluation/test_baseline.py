"""What counts as worse than an earlier report."""

import pytest
from evaluation.made import made_report, made_scores, separable

from guardhouse.errors import InputError
from guardhouse.evaluation.baseline import Change, compare, uncompared
from guardhouse.evaluation.report import Report

SCORES, LABELS = separable()


def worse(changes: list[Change]) -> set[str]:
    return {change.name for change in changes if change.is_worse}


def blunted(scores: list[float], loss: float) -> list[float]:
    """Unsafe rows lose some of their score, unevenly."""
    return [score - loss * (index % 2) * label for index, (score, label) in enumerate(zip(scores, LABELS, strict=True))]


def test_the_same_scores_are_no_regression() -> None:
    report = made_report(made_scores(SCORES, LABELS, codes=["O1" if label else "" for label in LABELS]))
    changes = compare(report, report)
    assert not worse(changes)
    assert all(change.before == change.after for change in changes)
    assert "made: AUPRC of O1" in {change.name for change in changes}


def test_a_clear_loss_is_named_and_only_in_that_direction() -> None:
    good, bad = (made_report(made_scores(scores, LABELS)) for scores in (SCORES, blunted(SCORES, 0.4)))
    assert {"made: AUPRC", "made: AUROC", "made: Recall", "made: F1"} <= worse(compare(good, bad))
    assert "made: FPR" not in worse(compare(good, bad)), "no safe row was touched"
    assert not worse(compare(bad, good))


def test_false_alarms_are_worse_when_they_grow() -> None:
    louder = [score if label else min(1.0, score + 0.2) for score, label in zip(SCORES, LABELS, strict=True)]
    changes = compare(made_report(made_scores(SCORES, LABELS)), made_report(made_scores(louder, LABELS)))
    assert "made: FPR" in worse(changes)


def test_noise_within_its_own_interval_is_no_regression() -> None:
    """One unsafe row of a hundred loses: the recall falls by 0.01, more than tolerated, but one row is no evidence."""
    slipped = list(SCORES)
    slipped[next(index for index, label in enumerate(LABELS) if label and SCORES[index] > 0.5)] = 0.1
    changes = compare(made_report(made_scores(SCORES, LABELS)), made_report(made_scores(slipped, LABELS)))
    recall = next(change for change in changes if change.name == "made: Recall")
    assert recall.before - recall.after == pytest.approx(0.01)
    assert not worse(changes)


def test_the_tolerance_forgives_and_decides_alone_without_resamples() -> None:
    good, bad = (made_report(made_scores(scores, LABELS)) for scores in (SCORES, blunted(SCORES, 0.4)))
    assert not worse(compare(good, bad, tolerance=1.0))
    quick_good, quick_bad = (
        made_report(made_scores(scores, LABELS), num_resamples=0) for scores in (SCORES, blunted(SCORES, 0.4))
    )
    assert "made: AUPRC" in worse(compare(quick_good, quick_bad))


def test_rows_that_lose_their_verdict_are_a_regression() -> None:
    before = made_report(made_scores(SCORES, LABELS))
    after = made_report(made_scores(SCORES[:-1], LABELS[:-1], unjudged={"VerdictError": 1}))
    assert worse(compare(before, after)) == {"made: rows without verdict"}


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (made_report(made_scores(SCORES, LABELS), threshold=0.7), "threshold 0.5, this run at 0.7"),
        (made_report(made_scores(SCORES, LABELS, digest="other")), "made: the baseline was measured on other rows"),
        (made_report(made_scores(SCORES, LABELS, name="new")), "none of these datasets; it has made"),
    ],
)
def test_reports_that_cannot_be_compared_are_refused(after: Report, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(made_report(made_scores(SCORES, LABELS)), after)


def test_what_only_one_report_has_is_named() -> None:
    both = made_report(
        made_scores(SCORES, LABELS), made_scores([0.9, 0.1], [True, False], name="more", codes=["O1", ""])
    )
    one = made_report(made_scores(SCORES, LABELS))
    assert uncompared(both, one) == ["more", "more, category O1"]
