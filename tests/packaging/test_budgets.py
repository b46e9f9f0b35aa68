"""Sizes that keep the code readable: a table of what is over, and a refusal of what is far over."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fp8load", "kernels/fp8load_kernels", "cli/fp8load_cli")
MAX_FILE, MAX_FUNCTION = 320, 50
"""Hard limits. The aims are 250 lines a file and 40 a function."""

REFLECTION = {"fp8load": 0, "kernels/fp8load_kernels": 3, "cli/fp8load_cli": 3}
"""getattr, setattr and hasattr: behaviour chosen by attributes that no type checker sees."""


def sources(package: str) -> Iterator[Path]:
    """Python files of a package."""
    return (ROOT / package).rglob("*.py")


def test_no_file_is_too_long() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text().splitlines()) for package in PACKAGES for path in sources(package)
    }

    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def test_no_function_is_too_long() -> None:
    long = {}
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    doc = ast.get_docstring(node, clean=False) or ""
                    length = node.end_lineno - node.lineno + 1 - len(doc.splitlines())
                    if length > MAX_FUNCTION:
                        long[f"{path.relative_to(ROOT)}: {node.name}"] = length

    assert long == {}


def test_reflection_stays_out() -> None:
    for package, allowed in REFLECTION.items():
        found = [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for path in sources(package)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "setattr", "hasattr")
        ]
        assert len(found) <= allowed, found


def test_no_exception_is_swallowed() -> None:
    """A handler that only passes hides a fault; each `except` does something with it."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(part, ast.Pass) for part in node.body)
    ]

    assert found == []
