"""A report as blocks, before it is drawn: views build documents, `text` and `md` draw them.

Nothing here is escaped or cut; that is the drawing's work, so that no view can forget it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of text with a style: "", "bold", "dim", "ok", "error", "warning" or "info"."""

    text: str
    style: str = ""


Cell = str | Span


@dataclass(frozen=True, slots=True)
class Line:
    """One line; on a terminal it is wrapped, and goes on `hang` columns in."""

    spans: tuple[Cell, ...]
    indent: int = 0
    hang: int = 0


@dataclass(frozen=True, slots=True)
class Heading:
    """A line above a section, with a remark beside it."""

    title: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels and what stands beside them, aligned. `mark` leads each line of a finding ("=")."""

    rows: tuple[tuple[str, Cell], ...]
    indent: int = 0
    mark: str = ""
    min_label: int = 8


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `right` aligns numbers; `cut` may lose its middle; on little room the largest `drop` goes first."""

    title: str
    right: bool = False
    cut: bool = False
    drop: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    indent: int = 2


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be shown as they are (escaped, never wrapped)."""

    lines: tuple[str, ...]
    indent: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """An empty line."""


Block = Line | Heading | Facts | Table | Code | Gap
Document = list[Block]


def line(*spans: Cell, indent: int = 0, hang: int = 0) -> Line:
    """A line of these spans."""
    return Line(spans, indent, hang)


def text_of(cell: Cell) -> str:
    """The text of a cell without its style."""
    return cell.text if isinstance(cell, Span) else cell


def style_of(cell: Cell) -> str:
    """The style of a cell."""
    return cell.style if isinstance(cell, Span) else ""
