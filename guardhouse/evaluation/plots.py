"""Plots as SVG text: lines, bars, axes. No script, no fonts, no files; colours come from the page (CSS variables).

Knows: points in data units, ticks, the SVG elements it writes.
Never knows: what is plotted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 260  # of a plot, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40  # margins
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Axes:
    """The frame of a plot. Both axes begin at 0; x ends at 1."""

    title: str
    x_label: str
    y_label: str
    y_max: float = 1.0
    y_ticks: Sequence[tuple[float, str]] = tuple((tick, f"{tick:g}") for tick in TICKS)

    def x(self, value: float) -> float:
        return LEFT + value * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - TOP - BOTTOM)


def line(axes: Axes, points: Sequence[Point], kind: str) -> str:
    """A curve of class `kind`."""
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def dots(axes: Axes, points: Sequence[tuple[float, float, str]], kind: str) -> str:
    """Points with a text that shows when the pointer rests on them."""
    return "".join(
        f'<circle class="{kind}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="4"><title>{escape(text)}</title></circle>'
        for x, y, text in points
    )


def bars(axes: Axes, series: Sequence[tuple[str, Sequence[float], Sequence[str]]]) -> str:
    """Histograms side by side within each bin; per series: class, heights, texts."""
    num_bins = len(series[0][1])
    width = (WIDTH - LEFT - RIGHT) / num_bins
    bar = width * 0.86 / len(series)
    parts = []
    for index, (kind, heights, texts) in enumerate(series):
        for number, (height, text) in enumerate(zip(heights, texts, strict=True)):
            if height > 0:
                x = LEFT + number * width + 0.07 * width + index * bar
                top = axes.y(height)
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{bar:.1f}" '
                    f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{escape(text)}</title></rect>'
                )
    return "".join(parts)


def marker(axes: Axes, x: float, text: str) -> str:
    """A dashed upright line with a text, such as the threshold's."""
    at = axes.x(x)
    anchor, shift = ("end", -4) if x > 0.7 else ("start", 4)
    return (
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="marktext" x="{at + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def frame(axes: Axes, *layers: str) -> str:
    """The whole plot: grid, axes, layers in this order, labels."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(axes.title, quote=True)}">']
    for value, text in axes.y_ticks:
        y = axes.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>')
    for value in TICKS:
        x = axes.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{value:g}</text>')
    parts += layers
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axes.x_label)}</text>')
    parts.append(
        f'<text transform="translate(11 {middle_y}) rotate(-90)" text-anchor="middle">{escape(axes.y_label)}</text></svg>'
    )
    return "".join(parts)
