"""A chart of what versus.py measured: how many times as fast the engine is as each peer.

    python -m benchmarks.versus product embedded | tee /tmp/versus.txt
    python -m benchmarks.chart /tmp/versus.txt docs/speed.svg --date 2026-11-25

Reads the JSON line that ends each file, draws an SVG that needs no program but a browser.

Knows: versus.py's JSON, SVG.
Never knows: how anything is measured.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LABELS, ROW, TOP = 860, 400, 26, 54  # pixels
OURS, EVEN = "#2f6fb3", "#888888"


def draw(pairs: list[dict[str, Any]], caption: str) -> str:
    """One bar per pair; the vertical line is the peer's own speed."""
    height = TOP + ROW * len(pairs) + 34
    longest = max(pair["ratio"] for pair in pairs)
    unit = (WIDTH - LABELS - 70) / longest  # pixels per 1 x
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="24" font-size="16" font-weight="bold">Times as fast as the peer on the same work</text>',
        '<text x="12" y="42" fill="#555555">interleaved in one run, medians; the line is the peer</text>',
    ]
    for index, pair in enumerate(pairs):
        top = TOP + index * ROW
        label = f"{pair['work']} · {pair['peer']}"
        lines += [
            f'<text x="{LABELS - 8}" y="{top + 17}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABELS}" y="{top + 4}" width="{pair["ratio"] * unit:.1f}" height="18" fill="{OURS}"/>',
            f'<text x="{LABELS + pair["ratio"] * unit + 6:.1f}" y="{top + 17}">{pair["ratio"]:.2f}</text>',
        ]
    line, bottom = LABELS + unit, TOP + ROW * len(pairs)
    lines += [
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="{TOP}" y2="{bottom}" stroke="{EVEN}" stroke-dasharray="4 3"/>',
        f'<text x="12" y="{bottom + 22}" fill="#555555" font-size="12">{escape(caption)}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, read, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="what versus.py printed; the last of them comes below")
    parser.add_argument("target", type=Path)
    parser.add_argument("--date", required=True, help="day of the measurement")
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) for path in arguments.results]
    pairs = [pair for run in runs for pair in run["pairs"]]
    first = runs[0]
    commits = ", ".join(dict.fromkeys(run["machine"]["commit"] for run in runs))
    caption = f"{first['machine']['processor']}, {first['threads']} thread(s), commit {commits}, {arguments.date}"
    arguments.target.write_text(draw(pairs, caption), encoding="utf-8")


if __name__ == "__main__":
    main()
