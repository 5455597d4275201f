"""TTFT error p99 over streams, one line a client, both axes logarithmic: SVG, written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.ttft.compare import Row
from benchmarks.ttft.figures import number

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 50, 50
_COLOURS = {"daemon": "#0b6e4f", "aiohttp": "#c8553d", "openai": "#3d5a98", "guidellm": "#8a6d1f", "floor": "#999999"}
_LABEL_PIXELS = 15


class _Axes:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.streams = sorted({row.streams for row in rows})
        values = [row.ttft.p99 for row in rows if row.ttft and row.ttft.p99 > 0]
        self.least = math.floor(math.log10(min(values)))
        self.most = max(math.ceil(math.log10(max(values))), self.least + 1)

    def x(self, streams: int) -> float:
        logs = [math.log(one) for one in self.streams]
        share = (math.log(streams) - logs[0]) / (logs[-1] - logs[0]) if len(logs) > 1 else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, milliseconds: float) -> float:
        share = (math.log10(milliseconds) - self.least) / (self.most - self.least)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def svg(rows: Sequence[Row], caption: str) -> str:
    """Of the rows that have figures; there has to be one."""
    drawn = [row for row in rows if not row.words and not row.is_noisy and row.ttft and row.ttft.p99 > 0]
    axes = _Axes(drawn)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="TTFT error p99 by client and number of streams">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" fill="#222">How wrong a TTFT is: error p99, milliseconds</text>',
        f'<text x="{_LEFT}" y="38" font-size="10" fill="#777">{escape(caption)}</text>',
        *_grid(axes),
    ]
    label_ys: list[float] = []
    ends = []
    for client in dict.fromkeys(row.client for row in drawn):
        line = sorted((row for row in drawn if row.client == client), key=lambda row: row.streams)
        parts += _line(axes, line)
        ends.append(line[-1])
    for row in sorted(ends, key=lambda row: row.ttft.p99, reverse=True):
        y = max(axes.y(row.ttft.p99), label_ys[-1] + _LABEL_PIXELS if label_ys else 0)
        label_ys.append(y)
        parts.append(
            f'<text x="{axes.x(row.streams) + 10:.1f}" y="{y + 4:.1f}" fill="{_COLOURS[row.client]}">'
            f"{escape(row.label)}: {number(row.ttft.p99)} ms</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for power in range(axes.least, axes.most + 1):
        y = axes.y(10.0**power)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{number(10.0**power)}</text>'
        )
    for streams in axes.streams:
        x, y = axes.x(streams), _HEIGHT - _BOTTOM + 18
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle" fill="#555">{streams}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle" fill="#555">streams in flight</text>')
    return parts


def _line(axes: _Axes, line: Sequence[Row]) -> list[str]:
    colour = _COLOURS[line[0].client]
    spots = [(axes.x(row.streams), axes.y(row.ttft.p99)) for row in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in spots]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]
