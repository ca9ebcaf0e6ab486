"""The report as one HTML page: no script, no other files, light and dark.

Knows: the page's template (page.html), which plots a dataset gets.
Never knows: how numbers were computed.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from guardhouse.evaluation.baseline import Change
from guardhouse.evaluation.metrics import METRICS
from guardhouse.evaluation.plots import Axes, bars, dots, frame, line, marker
from guardhouse.evaluation.report import HISTOGRAM_BINS, Curves, DatasetReport, Report
from guardhouse.evaluation.shown import show, show_interval

TEMPLATE = Path(__file__).parent / "page.html"


def write_html(report: Report, path: Path, changes: Sequence[Change] | None = None) -> None:
    """`changes`: the comparison with a baseline, where there is one."""
    path.write_text(render(report, changes), encoding="utf-8")


def render(report: Report, changes: Sequence[Change] | None = None) -> str:
    """The page's text. Names and reasons come from files, so everything is escaped."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=f"Evaluation of {report.model.name}",
        report=report,
        changes=changes,
        metrics=METRICS,
        show=show,
        interval=show_interval,
        plots=lambda dataset: Markup("".join(_figures(dataset, report.threshold))),  # plots.py escapes
    )


def _figures(dataset: DatasetReport, threshold: float) -> list[str]:
    curves = dataset.curves
    assert curves is not None
    metrics = dataset.metrics
    share = dataset.num_unsafe / dataset.num_judged
    return [
        _figure("Precision and recall", f"AUPRC {show('auprc', metrics['auprc'])}", _precision_recall(curves, share)),
        _figure("ROC", f"AUROC {show('auroc', metrics['auroc'])}", _roc(curves)),
        _figure("Reliability", f"ECE {show('ece', metrics['ece'])}", _reliability(curves)),
        _figure(
            "Scores",
            '√ scale <i class="key safe"></i>safe <i class="key unsafe"></i>unsafe',
            _histogram(curves, threshold),
        ),
    ]


def _figure(title: str, note: str, svg: str) -> str:
    return f"<figure><figcaption>{title} <span>{note}</span></figcaption>{svg}</figure>"


def _precision_recall(curves: Curves, share: float) -> str:
    axes = Axes("Precision by recall", "Recall", "Precision")
    return frame(axes, line(axes, [(0, share), (1, share)], "chance"), line(axes, curves.precision_recall, "curve"))


def _roc(curves: Curves) -> str:
    axes = Axes("Recall by false positive rate", "False positive rate", "Recall")
    return frame(axes, line(axes, [(0, 0), (1, 1)], "chance"), line(axes, curves.roc, "curve"))


def _reliability(curves: Curves) -> str:
    axes = Axes("Share of unsafe rows by score", "Mean score of the bin", "Share that is unsafe")
    points = [
        (mean, share, f"score {mean:.2f}: {100 * share:.0f} % of {count} rows are unsafe")
        for mean, share, count in curves.reliability
    ]
    path = [(mean, share) for mean, share, _ in points]
    return frame(axes, line(axes, [(0, 0), (1, 1)], "chance"), line(axes, path, "curve"), dots(axes, points, "dot"))


def _histogram(curves: Curves, threshold: float) -> str:
    """Square roots, for a few rows at one end would not be seen beside the hundreds at the other."""
    highest = max(*curves.histogram_safe, *curves.histogram_unsafe, 1)
    ticks = tuple((tick**0.5, f"{tick:,}") for tick in _round_ticks(highest))
    axes = Axes("Rows by score", "Score", "Rows", y_max=highest**0.5, y_ticks=ticks)
    series = []
    for kind, counts in (("safe", curves.histogram_safe), ("unsafe", curves.histogram_unsafe)):
        texts = [
            f"score {index / HISTOGRAM_BINS:.2f} to {(index + 1) / HISTOGRAM_BINS:.2f}: {count} {kind} rows"
            for index, count in enumerate(counts)
        ]
        series.append((kind, [count**0.5 for count in counts], texts))
    return frame(axes, bars(axes, series), marker(axes, threshold, f"threshold {threshold:g}"))


def _round_ticks(highest: int) -> list[int]:
    """A few round numbers whose square roots are about evenly spread up to `highest`."""
    found = [0]
    for part in (0.25, 0.5, 0.75, 1.0):
        wanted = highest * part**2
        digits = 10 ** max(len(str(int(wanted))) - 1, 0)
        tick = int(wanted // digits * digits)
        if tick > found[-1]:
            found.append(tick)
    return found
