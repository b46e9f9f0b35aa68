"""A report as one HTML file that needs nothing else: no network, light and dark, readable without scripts."""

from __future__ import annotations

from fp8load_cli.render.html.page import Parts, draw

__all__ = ["Parts", "draw"]
