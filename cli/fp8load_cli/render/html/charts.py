"""Values of scales as pictures, each with its numbers: histograms, and a heatmap of layers by kinds of modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fp8load.survey import Outlier, Survey
from fp8load_cli.render.document import Column, Table
from fp8load_cli.render.html.blocks import table
from fp8load_cli.render.html.markup import Markup, breakable, element
from fp8load_cli.render.units import plural

_WIDTH, _HEIGHT, _FOOT, _WIDEST = 720, 160, 22, 56
MAX_LABELS = 16


def scale_section(survey: Survey) -> Markup:
    """Everything about scales: a part for each role, and the outliers of all."""
    if not survey.scales:
        return element("p", "Nothing here has stored scales.")
    parts = [part for role in survey.roles() for part in _role(survey, role)]
    return Markup("\n".join([*parts, *_outliers(survey.outliers())]))


def _role(survey: Survey, role: str) -> Iterator[Markup]:
    counts = survey.histograms[role]
    odd = survey.odd[role]
    said = f"{odd:,} zero, negative or not finite" if odd else "all positive and finite"
    total = plural(sum(counts.values()) + odd, "value")
    yield element("h3", role, Markup(" "), element("small", f"{total}, {said}"))
    if counts:
        yield histogram(counts, role)
        yield _numbers("log2", "values", {str(number): f"{counts[number]:,}" for number in sorted(counts)})
    medians = survey.medians(role)
    if medians:
        kinds = [kind for kind in survey.kinds(role) if any(known == kind for _, known in medians)]
        yield element("h4", "Median log2 by layer and kind of module")
        yield heatmap(medians, kinds)


def histogram(counts: Mapping[int, int], role: str) -> Markup:
    """Bars over powers of two, from the lowest to the highest."""
    low, high = min(counts), max(counts)
    slot = min(_WIDTH / (high - low + 1), _WIDEST)
    begin = (_WIDTH - slot * (high - low + 1)) / 2
    largest = max(counts.values())
    bars = []
    for number in sorted(counts):
        height = max(2.0, (_HEIGHT - 16) * counts[number] / largest)
        title = element("title", f"2^{number} to 2^{number + 1}: {counts[number]:,}")
        bars.append(element(
            "rect", title, x=f"{begin + (number - low + 0.06) * slot:.1f}", y=f"{_HEIGHT - height:.1f}",
            width=f"{max(slot * 0.88, 1):.1f}", height=f"{height:.1f}", rx=f"{min(2.0, slot / 4):.1f}",
        ))  # fmt: skip
    step = -(-(high - low + 1) // MAX_LABELS)
    labels = [
        element(
            "text",
            str(number),
            x=f"{begin + (number - low + 0.5) * slot:.1f}",
            y=str(_HEIGHT + 16),
            text_anchor="middle",
        )
        for number in range(low, high + 1, step)
    ]
    line = Markup(f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"></line>')
    picture = Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" role="img" aria-label="histogram of log2">'
        + "".join([*bars, line, *labels]) + "</svg>"
    )  # fmt: skip
    caption = element("figcaption", f"log2 of {role}; each bar is a power of two, the tallest {largest:,} values")
    return element("figure", picture, caption)


def heatmap(medians: Mapping[tuple[int, str], float], kinds: list[str]) -> Markup:
    """A row for each layer, a column for each kind; the number stands in its cell, the shade is only a help."""
    low, high = min(medians.values()), max(medians.values())
    head = element("tr", element("th", "layer", scope="col"),
                   *(element("th", breakable(kind), scope="col") for kind in kinds))  # fmt: skip
    rows = []
    for layer in sorted({layer for layer, _ in medians}):
        cells = [_shade(medians.get((layer, kind)), low, high) for kind in kinds]
        rows.append(element("tr", element("th", str(layer), scope="row"), *cells))
    made = element("table", element("thead", head), element("tbody", *rows), class_="heatmap")
    return element("div", made, class_="scroll tall fit", tabindex="0")


def _shade(value: float | None, low: float, high: float) -> Markup:
    if value is None:
        return element("td", Markup("&#8211;"), class_="none")
    share = (value - low) / (high - low) if high > low else 0.5
    return element("td", f"{value:.1f}", style=f"--share:{100 * share:.0f}%")


def _numbers(first: str, second: str, rows: Mapping[str, str]) -> Markup:
    columns = (Column(first, right=True), Column(second, right=True))
    made = table(Table(columns, tuple(rows.items())))
    return element("details", element("summary", "Numbers"), made)


def _outliers(found: list[Outlier]) -> Iterator[Markup]:
    yield element("h3", "Outliers", Markup(" "), element("small", "1024 times the median of their kind, or a 1024th"))
    if not found:
        yield element("p", "None.", class_="ok")
        return
    columns = (Column("tensor", cut=True), Column("block"), Column("value", right=True), Column("log2", right=True),
               Column("usual log2", right=True))  # fmt: skip
    yield table(Table(columns, tuple(
        (one.name, str(list(one.position)), f"{2.0**one.log2:.4g}", f"{one.log2:.1f}", f"{one.usual:.1f}")
        for one in found
    )))  # fmt: skip
