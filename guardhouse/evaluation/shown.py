"""Numbers of a report as people read them, in the terminal and on the page.

Knows: digits, units, the dash for what is undefined.
Never knows: tables, markup.
"""

from guardhouse.evaluation.metrics import METRICS
from guardhouse.evaluation.report import Estimate


def show(name: str, estimate: Estimate) -> str:
    """ "0.847", "3.2 %", or a dash where it is undefined."""
    return "–" if estimate.value is None else _number(name, estimate.value)


def show_interval(name: str, estimate: Estimate) -> str:
    """ "0.821 – 0.870", or nothing."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    low, high = _number(name, estimate.low), _number(name, estimate.high)
    return f"{low.removesuffix(' %')} – {high}"


def _number(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if METRICS[name].unit == "%" else f"{value:.3f}"
