"""Latency over throughput as a picture: an SVG drawn by hand, alone or in a page of HTML.

Owns scales, marks and labels. Pure: levels in, text out; no script, no font, nothing to fetch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from perf_analyzer.console import LevelReport, number
from perf_analyzer.model import ModelInfo
from perf_analyzer.options import Mode, Options

WIDTH: Final = 860
HEIGHT: Final = 520
LEFT, RIGHT, TOP, BOTTOM = 76, 110, 56, 58
# One line per percentile, light to dark: the eye follows the tail.
COLOURS: Final = ("#86b6d9", "#4a90c4", "#1f5f99", "#123a63", "#7a3b69")
TICKS: Final = 6


def nice_step(extent: float, count: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `extent` into about `count`."""
    rough = extent / count
    power: float = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5):
        if rough <= factor * power:
            return factor * power
    return 10 * power


class _Scale:
    """From 0 to a round number above the largest value, onto pixels."""

    def __init__(self, largest: float, start: float, end: float) -> None:
        self.step = nice_step(largest if largest > 0 else 1.0, TICKS)
        self.top = math.ceil(max(largest, self.step) / self.step + 1e-9) * self.step
        self._start = start
        self._span = end - start

    def at(self, value: float) -> float:
        return round(self._start + value / self.top * self._span, 1)

    def ticks(self) -> list[float]:
        return [place * self.step for place in range(round(self.top / self.step) + 1)]


def svg(options: Options, model: ModelInfo, reports: Sequence[LevelReport]) -> str:
    """The picture: throughput to the right, a line per percentile upwards, a mark per level."""
    percents = options.percents
    ordered = sorted(reports, key=lambda report: report.value)
    highest = max(report.result.latency.percentiles[percents[-1]] for report in ordered) * 1000
    x = _Scale(max(r.result.throughput for r in ordered), LEFT, WIDTH - RIGHT)
    y = _Scale(highest, HEIGHT - BOTTOM, TOP)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12" '
            f'fill="#333" role="img" aria-label="latency over throughput of {escape(model.name)}">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        (
            f'<text x="{LEFT}" y="24" font-size="16" font-weight="600">{escape(model.name)}: '
            "latency over throughput</text>"
        ),
        f'<text x="{LEFT}" y="42" fill="#777">{_subtitle(options)}</text>',
    ]
    parts += _axes(x, y)
    labels_at: list[float] = []
    for place, percent in enumerate(percents):
        colour = COLOURS[place % len(COLOURS)]
        points = [
            (
                x.at(report.result.throughput),
                y.at(report.result.latency.percentiles[percent] * 1000),
            )
            for report in ordered
        ]
        path = " ".join(f"{px},{py}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px}" cy="{py}" r="3.5" fill="{colour}"/>' for px, py in points]
        labels_at.append(points[-1][1])
        height = _apart(labels_at)
        parts.append(
            f'<text x="{points[-1][0] + 9}" y="{height + 4}" fill="{colour}" '
            f'font-weight="600">p{percent}</text>'
        )
    parts += _levels(options, ordered, x, y)
    return "\n".join([*parts, "</svg>"])


def _apart(heights: list[float]) -> float:
    """The newest height, moved up until it touches no earlier label."""
    height = heights[-1]
    for other in sorted(heights[:-1], reverse=True):
        if abs(other - height) < 14:
            height = other - 14
    heights[-1] = height
    return height


def _subtitle(options: Options) -> str:
    what = "requests outstanding" if options.mode is Mode.CONCURRENCY else "requests/sec offered"
    protocol = "in process" if options.in_process else "gRPC" if options.grpc else "HTTP"
    return f"{protocol}, batch size {options.batch_size}; the marks are labelled with {what}"


def _axes(x: _Scale, y: _Scale) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}" stroke="#eee"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end" fill="#777">'
            f"{number(value)}</text>"
        )
    for value in x.ticks():
        at = x.at(value)
        parts.append(
            f'<text x="{at}" y="{bottom + 18}" text-anchor="middle" fill="#777">'
            f"{number(value)}</text>"
        )
    parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#999"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">inferences/sec</text>')
    parts.append(
        f'<text transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)" '
        'text-anchor="middle">latency in ms</text>'
    )
    return parts


def _levels(options: Options, ordered: Sequence[LevelReport], x: _Scale, y: _Scale) -> list[str]:
    """Each level's value under its lowest mark; a hollow mark where the verdict is a warning."""
    parts = []
    lowest = options.percents[0]
    for report in ordered:
        px = x.at(report.result.throughput)
        py = y.at(report.result.latency.percentiles[lowest] * 1000)
        value = number(float(report.value))
        title = f"{value}: {number(report.result.throughput)} infer/sec, {report.verdict}"
        fill = "#333" if report.verdict.word == "stable" else "#b3541e"
        parts.append(
            f'<g><title>{escape(title)}</title><text x="{px}" y="{py + 18}" text-anchor="middle" '
            f'fill="{fill}">{value}</text></g>'
        )
    return parts


def document(options: Options, model: ModelInfo, reports: Sequence[LevelReport]) -> str:
    """The file that --plot names: SVG, or HTML with the picture and a table of its numbers."""
    picture = svg(options, model, reports)
    if options.plot.lower().endswith(".svg"):
        return picture + "\n"
    names = ["level", "infer/sec", *(f"p{each} ms" for each in options.percents), "verdict"]
    rows = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in names) + "</tr>"]
    for report in sorted(reports, key=lambda each: each.value):
        cells = [number(float(report.value)), number(report.result.throughput)]
        cells += [f"{v * 1000:.3f}" for v in report.result.latency.percentiles.values()]
        cells.append(str(report.verdict))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return PAGE.format(title=escape(model.name), picture=picture, rows="\n".join(rows))


PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}: latency over throughput</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em auto; max-width: 900px; color: #333; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; margin-top: 1em; }}
th, td {{ padding: .3em .9em; text-align: right; border-bottom: 1px solid #eee; }}
th:last-child, td:last-child {{ text-align: left; }}
</style>
{picture}
<table>
{rows}
</table>
</html>
"""
