"""What outside packages add: entry points, loaded with errors that name the package's own line.

Groups: fp8load.formats, fp8load.archs, fp8load.rules (each names an object), fp8load.backends and
fp8load.grouped_backends (a provider).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

from fp8load.errors import Problem, UsageError

Wanted = TypeVar("Wanted")


def plugins(group: str, kind: type[Wanted]) -> list[Wanted]:
    """The objects that the entry points of `group` name. Raises `UsageError` for one that fails or is no `kind`."""
    found: list[Wanted] = []
    for line, loaded in announced(group):
        if not isinstance(loaded, kind):
            raise UsageError(Problem(code="USE005", message=f"an entry point of {group} names the wrong thing",
                                     expected=kind.__name__, got=f"{line}: {type(loaded).__name__}"))  # fmt: skip
        found.append(loaded)
    return found


def announced(group: str) -> Iterator[tuple[str, Any]]:
    """Whatever the entry points of `group` name, in the order of their names, each after its own line.

    Raises `UsageError` for one that cannot be loaded.
    """
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        line = f"{point.name} = {point.value}"
        try:
            loaded = point.load()
        except Exception as error:  # a stranger's module may raise anything: it becomes an error that names it
            raise UsageError(Problem(
                code="USE005", message=f"an installed package offers a plugin of {group} that cannot be loaded",
                got=f"{line}: {error}", hint="repair or uninstall that package",
            )) from error  # fmt: skip
        yield line, loaded
