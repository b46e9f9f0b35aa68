"""Values of scales, drawn with characters: a histogram for each role, a line over the layers for each kind."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.survey import Outlier, Survey
from fp8load_cli.render.document import Cell, Column, Document, Gap, Heading, Line, Span, Table, line
from fp8load_cli.render.units import many, plural

_WIDTH = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"
_HEIGHTS, _PLAIN_HEIGHTS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
_GAP = " "


def scales_document(survey: Survey, *, unicode: bool) -> Document:
    """Histograms, medians over the layers, outliers. Without `unicode` in ASCII."""
    if not survey.scales:
        return [line("No scales: nothing here is quantized with stored scales.")]
    document: Document = []
    for role in survey.roles():
        document += [Heading(role, _remark(survey, role)), _histogram(survey, role, unicode=unicode), Gap()]
        medians = survey.medians(role)
        if medians:
            document += [_over_layers(survey, role, medians, unicode=unicode), Gap()]
    return [*document, *_outliers(survey.outliers())]


def _remark(survey: Survey, role: str) -> str:
    total = sum(survey.histograms[role].values()) + survey.odd[role]
    odd = f"{survey.odd[role]:,} zero, negative or not finite" if survey.odd[role] else "all positive and finite"
    return f"{plural(total, 'value')}, {odd}"


def _histogram(survey: Survey, role: str, *, unicode: bool) -> Table:
    """A row for each power of two from the lowest to the highest; long gaps become one row."""
    counts = survey.histograms[role]
    columns = (Column("log2", right=True), Column(""), Column("values", right=True))
    largest = max(counts.values(), default=1)
    rows: list[tuple[Cell, ...]] = []
    numbers = sorted(counts)
    for at, number in enumerate(numbers):
        between = number - numbers[at - 1] - 1 if at else 0
        if between > 2:
            rows.append(("...", "", ""))
        else:
            rows += [(str(empty), "", "0") for empty in range(number - between, number)]
        rows.append((str(number), bar(counts[number], largest, unicode=unicode), many(counts[number])))
    return Table(columns, tuple(rows))


def bar(count: int, largest: int, *, unicode: bool) -> str:
    """A bar as long as its share of the largest count; never nothing for something."""
    if not unicode:
        return "#" * max(1, round(_WIDTH * count / largest))
    eighths = max(1, round(8 * _WIDTH * count / largest))
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _over_layers(survey: Survey, role: str, medians: dict[tuple[int, str], float], *, unicode: bool) -> Table:
    """A row for each kind: a character for each layer, and the range of its medians."""
    layers = range(min(layer for layer, _ in medians), max(layer for layer, _ in medians) + 1)
    low, high = min(medians.values()), max(medians.values())
    heading = f"layers {layers[0]}..{layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    columns = (Column("median log2 of", cut=True), Column(heading), Column("least", right=True),
               Column("largest", right=True))  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for kind in survey.kinds(role):
        values = [medians.get((layer, kind)) for layer in layers]
        known = [value for value in values if value is not None]
        if known:
            drawn = "".join(_height(value, low, high, unicode=unicode) for value in values)
            rows.append((kind, drawn, f"{min(known):.1f}", f"{max(known):.1f}"))
    return Table(columns, tuple(rows))


def _height(value: float | None, low: float, high: float, *, unicode: bool) -> str:
    steps = _HEIGHTS if unicode else _PLAIN_HEIGHTS
    if value is None:
        return _GAP
    return steps[min(int((value - low) / (high - low or 1.0) * len(steps)), len(steps) - 1)]


def _outliers(found: list[Outlier]) -> Iterator[Line | Table | Heading]:
    if not found:
        yield line(Span("no outlier: every value lies within a factor of 1024 of its kind's median", "ok"))
        return
    yield Heading("Outliers", "a factor of 1024 or more from the median of their kind")
    columns = (Column("tensor", cut=True), Column("block"), Column("value", right=True), Column("usual", right=True))
    yield Table(columns, tuple(
        (one.name, str(list(one.position)), f"{2.0**one.log2:.3g}", f"{2.0**one.usual:.3g}") for one in found
    ))  # fmt: skip
