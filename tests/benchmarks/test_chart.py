"""The chart of measurements: bars as long as the numbers, whatever the words beside them."""

from xml.etree import ElementTree

from benchmarks.chart import draw


def test_bars_are_as_long_as_the_ratios() -> None:
    pairs = [{"work": "a < b & c", "peer": "peer", "ratio": 2.0}, {"work": "d", "peer": "e", "ratio": 0.5}]
    root = ElementTree.fromstring(draw(pairs, 'captions "quoted"'))
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths[0] == 4 * widths[1]
    assert "a < b & c · peer" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
