"""A report's numbers, its JSON and its page."""

import re
from pathlib import Path

import pytest
from evaluation.made import SECRET, made_report, made_scores, separable

from guardhouse.errors import InputError
from guardhouse.evaluation.baseline import compare
from guardhouse.evaluation.html import render
from guardhouse.evaluation.report import MAX_CURVE_POINTS, read_json, write_json


def test_json_holds_everything_and_no_text(tmp_path: Path) -> None:
    report = made_report(made_scores(*separable()))
    write_json(report, tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == report
    assert SECRET not in (tmp_path / "report.json").read_text() + render(report)


def test_a_set_of_one_label_has_only_the_number_that_is_defined() -> None:
    for labels, defined in (([True] * 8, "recall"), ([False] * 8, "fpr")):
        [dataset] = made_report(made_scores([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9], labels)).datasets
        values = {name: estimate.value for name, estimate in dataset.metrics.items() if estimate.value is not None}
        assert values == {defined: 0.5}
        assert dataset.curves is None


def test_a_row_whose_category_is_open_counts_for_no_category() -> None:
    codes = ["O1", "", "?", "O1 O2", "other", ""]
    scores = made_scores([0.9, 0.1, 0.5, 0.8, 0.7, 0.2], [True, False, True, True, True, False], codes=codes)
    [dataset] = made_report(scores).datasets
    assert {code: (found.num_unsafe, found.num_rows) for code, found in dataset.categories.items()} == {
        "O1": (2, 5),
        "O2": (1, 5),
    }
    assert dataset.categories["O2"].auprc.value == pytest.approx(1 / 2)
    assert dataset.categories["O2"].auprc.low is None, "one row bounds nothing"


def test_kinds_of_rows_show_where_it_flags() -> None:
    scores = made_scores([0.9, 0.1, 0.9, 0.2], [True, True, False, False], groups=["insult", "insult", "joke", "joke"])
    [dataset] = made_report(scores).datasets
    assert [(group.name, group.is_unsafe, group.num_rows, group.num_flagged) for group in dataset.groups] == [
        ("insult", True, 2, 1),
        ("joke", False, 2, 1),
    ]


def test_curves_are_thinned_and_keep_both_ends() -> None:
    [dataset] = made_report(made_scores(*separable(5000))).datasets
    assert dataset.curves is not None
    for curve in (dataset.curves.precision_recall, dataset.curves.roc):
        assert len(curve) <= MAX_CURVE_POINTS
        assert curve[0][0] == 0
        assert curve[-1][0] == 1
    assert sum(dataset.curves.histogram_safe) + sum(dataset.curves.histogram_unsafe) == 5000
    assert sum(count for _, _, count in dataset.curves.reliability) == 5000


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    for text in ("{", "{}", '{"version": 1}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="is no report of guardhouse eval"):
            read_json(tmp_path / "x.json")


def test_the_page_stands_alone_and_escapes_what_files_say() -> None:
    scores, labels = separable()
    report = made_report(
        made_scores(scores, labels, name="<b>x</b>", groups=["<script>"] * 150 + ["b"] * 150),
        made_scores([0.2], [False]),
    )
    page = render(report, compare(report, report))
    assert "<script" not in page
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)|url\(|@import", page), "nothing is loaded from elsewhere"
    assert page.count("<svg") == 4
    assert "Nothing got worse" in page
    assert "All rows have the same label" in page


def test_every_element_of_the_page_is_closed() -> None:
    page = render(made_report(made_scores(*separable())))
    for tag in ("svg", "figure", "table", "section", "div", "text", "tr", "td"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag
