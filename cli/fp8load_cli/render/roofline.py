"""The roofline of a BenchGemmReport as a picture: what each product reached, under what this machine can do.

The only place that needs matplotlib, an extra: `fp8load[plot]`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from math import atan2, degrees
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fp8load.errors import Problem, UsageError
from fp8load_cli.benching import backends_of
from fp8load_cli.render.units import plural
from fp8load_cli.render.views.gemm import number
from fp8load_cli.reports import BenchGemmReport, GemmRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B4A9E", "#8A6D00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
"""Colours that colour-blind people tell apart (Okabe and Ito), and a shape for each, so that colour is not alone."""

_ASIDE = 0.03
"""Powers of ten between neighbours that do the same work."""

_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
_INK, _FAINT, _PLAIN = "#222222", "#DDDDDD", "#777777"


class _Point(NamedTuple):
    """Operations for each byte, and operations in a second."""

    intensity: float
    speed: float


def check_plot(path: Path) -> None:
    """Raise `UsageError` before anything is measured: without matplotlib, or for a file that cannot be written."""
    if find_spec("matplotlib") is None:
        raise UsageError(Problem(code="USE014", message="--plot needs matplotlib, which is not installed",
                                 hint="pip install 'fp8load[plot]'"))  # fmt: skip
    if path.suffix != ".png":
        raise UsageError(Problem(code="USE010", message="--plot does not take this value", expected="FILE.png",
                                 got=str(path)))  # fmt: skip
    if not os.access(path.parent, os.W_OK):
        raise UsageError(Problem(code="USE011", message="the picture cannot be written", file=str(path),
                                 expected="a file in a folder that exists and may be written to"))  # fmt: skip


def draw_roofline(report: BenchGemmReport, path: Path) -> None:
    """Write the picture. Nothing to draw is an error: `UsageError`."""
    if not report.rows:
        raise UsageError(Problem(code="USE014", message="there is nothing to draw: no product was measured"))
    try:
        roofline(report).savefig(path, facecolor="white")
    except OSError as error:
        raise UsageError(Problem(code="USE011", message="the picture cannot be written", file=str(path),
                                 got=error.strerror or str(error))) from error  # fmt: skip


def roofline(report: BenchGemmReport) -> Figure:
    """The picture of at least one product."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit = _unit(report)
    _style(axes, unit)
    names = backends_of(report.rows)
    for place, name in enumerate(names):
        rows, aside = [row for row in report.rows if row.backend == name], place - (len(names) - 1) / 2
        _draw_points(axes, [_point(row, unit, aside) for row in rows], name, place, hollow=rows[0].peer)
    _limit_axes(axes, report, unit)
    figure.legend(
        loc="outside right upper", frameon=False, labelcolor=_INK, fontsize=10, title=_legend(report),
        alignment="left", title_fontproperties={"size": 9},
    )  # fmt: skip
    title = f"{report.device}: {plural(len(report.rows), 'product')} of quantized layers"
    axes.set_title(title, color=_INK, fontsize=13, loc="left", weight="bold", pad=26)
    axes.annotate(_subtitle(report), (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points",
                  color=_PLAIN, fontsize=9.5)  # fmt: skip
    figure.draw_without_rendering()  # the layout decides the angle of the slope
    _draw_roofs(axes, report, unit)
    return figure


def _unit(report: BenchGemmReport) -> float:
    """Operations in a second that are one on the axis: 10**12, or 10**9 on slow machines."""
    return 1e12 if max(row.tflops for row in report.rows) >= 1 or report.peak_fp8_tflops else 1e9


def _point(row: GemmRow, unit: float, aside: float = 0) -> _Point:
    """Where a product stands; `aside` moves it a little, so that backends with the same work do not hide each other."""
    operations = 2 * row.tokens * row.shape[0] * row.shape[1]
    return _Point(operations / row.nbytes * 10 ** (_ASIDE * aside), operations / row.us * 1e6 / unit)


def _style(axes: Axes, unit: float) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(
        "operations for each byte that has to move (equal ones are set side by side)", color=_INK, fontsize=10.5
    )
    axes.set_ylabel("TFLOP/s" if unit == 1e12 else "GFLOP/s", color=_INK, fontsize=10.5)
    axes.grid(visible=True, which="major", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=10, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")


def _draw_points(axes: Axes, points: Sequence[_Point], name: str, place: int, *, hollow: bool) -> None:
    """Ours are filled, peers are outlines."""
    colour = _COLOURS[place % len(_COLOURS)]
    axes.scatter(
        [point.intensity for point in points], [point.speed for point in points], label=name, s=30,
        marker=_MARKERS[place % len(_MARKERS)], facecolors="none" if hollow else colour, edgecolors=colour,
        linewidths=1.2, alpha=0.9, zorder=3,
    )  # fmt: skip


def _peaks(report: BenchGemmReport, unit: float) -> list[tuple[float, str]]:
    known = ((report.peak_fp8_tflops, "FP8"), (report.peak_bf16_tflops, "BF16"))
    return [(peak * 1e12 / unit, f"{peak:.0f} TFLOP/s {name}, dense") for peak, name in known if peak is not None]


def _limit_axes(axes: Axes, report: BenchGemmReport, unit: float) -> None:
    """Room for every point, for the roof above them, and for its labels."""
    points = [_point(row, unit) for row in report.rows]
    slope = report.bandwidth_gb_s * 1e9 / unit
    left, right = min(p.intensity for p in points) / 2, max(p.intensity for p in points) * 2
    low, high = min(p.speed for p in points) / 2, max(p.speed for p in points) * 2.5
    peaks = [peak for peak, _ in _peaks(report, unit)]
    if peaks:
        ridge = peaks[-1] / slope
        left, right = min(left, ridge / 50), max(right, 4 * peaks[0] / slope)
        low, high = min(low, peaks[-1] / 50), max(high, peaks[0] * 1.7)
    else:
        high = max(high, slope * left * 4)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _draw_roofs(axes: Axes, report: BenchGemmReport, unit: float) -> None:
    """The bandwidth's slope up to the highest peak, and every peak from the slope on; labels along the lines."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    slope, peaks = report.bandwidth_gb_s * 1e9 / unit, _peaks(report, unit)
    top = min([peak for peak, _ in peaks[:1]] + [slope * right])
    axes.plot([left, top / slope], [slope * left, top], color=_INK, linewidth=1.6, zorder=2)
    for peak, text in peaks:
        axes.plot([peak / slope, right], [peak, peak], color=_INK, linewidth=1.6, zorder=2,
                  linestyle="-" if peak == top else (0, (5, 3)))  # fmt: skip
        axes.annotate(text, (peak / slope, peak), (-8, 0), textcoords="offset points", ha="right", va="center",
                      color=_INK, fontsize=9.5, bbox=_PAPER)  # fmt: skip
    begin, end = max(left, low / slope), min(top, high) / slope
    (x0, y0), (x1, y1) = axes.transData.transform([(begin, slope * begin), (end, slope * end)])
    middle = (begin * end) ** 0.5
    text = f"{number(report.bandwidth_gb_s)} GB/s, measured"
    axes.annotate(
        text, (middle, slope * middle), (-7, 7), textcoords="offset points",
        ha="center", va="bottom", rotation=degrees(atan2(y1 - y0, x1 - x0)), rotation_mode="anchor", color=_INK,
        fontsize=9.5,
    )  # fmt: skip


def _legend(report: BenchGemmReport) -> str:
    peers, ours = any(row.peer for row in report.rows), any(not row.peer for row in report.rows)
    return "filled: fp8load\noutlined: peers" if peers and ours else ""


def _subtitle(report: BenchGemmReport) -> str:
    tokens = sorted({row.tokens for row in report.rows})
    span = plural(tokens[0], "token") if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]} tokens"
    return f"{span}, quantization of the input included; {report.timing}"
