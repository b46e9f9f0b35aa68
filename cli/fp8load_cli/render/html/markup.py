"""Markup out of text: the one place where names from a checkpoint become HTML."""

from __future__ import annotations

import re
from html import escape as escape_html

from fp8load.patterns import escape

_NUMBER = re.compile(r"(-?[\d,]+(?:\.\d+)?(?:e[-+]?\d+)?)(?: (B|KiB|MiB|GiB|TiB|K|M|T|%))?")
_UNITS = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
          "K": 1e3, "M": 1e6, "T": 1e12, "%": 1.0}  # fmt: skip


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: str) -> Markup:
    """Text that stands for itself, in an element or in an attribute; dots and underscores may break a line."""
    return Markup(escape_html(escape(value), quote=True))


def breakable(value: str) -> Markup:
    """A long dotted name, which may be broken after its dots and commas."""
    return Markup(re.sub(r"([.,/_])(?=\w)", r"\1<wbr>", text(value)))


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """An element; children that are no `Markup` are escaped, and so is every attribute. `class_` is class."""
    said = "".join(f' {name.strip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    inner = "".join(child if isinstance(child, Markup) else text(child) for child in children)
    return Markup(f"<{tag}{said}>{inner}</{tag}>")


def sort_key(value: str) -> str:
    """What a column is sorted by: a number where a cell is one ("64.0 KiB"), else nothing."""
    found = _NUMBER.fullmatch(value)
    if found is None:
        return ""
    unit = _UNITS[found[2]] if found[2] else 1.0
    return repr(float(found[1].replace(",", "")) * unit)
