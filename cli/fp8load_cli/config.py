"""fp8load.toml, or [tool.fp8load] in pyproject.toml: which findings a project has decided to live with."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fp8load.errors import Problem, UsageError
from fp8load.patterns import glob_match

_KEYS = ("ignore", "per-module-ignore", "per-source-ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says. `place` is how messages call it."""

    place: str = ""
    ignore: tuple[str, ...] = ()
    per_module: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    per_source: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def load_config(path: Path | None) -> Config:
    """The configuration in `path`, else in the nearest file upwards, else an empty one. Raises `UsageError`."""
    if path is not None:
        return _parse(path, _table(path, _read(path)) or {})
    try:
        here = Path.cwd()
    except OSError:  # the current folder was deleted: there is nothing above it either
        return Config()
    for folder in (here, *here.parents):
        for candidate in (folder / "fp8load.toml", folder / "pyproject.toml"):
            if candidate.is_file():
                table = _table(candidate, _read(candidate))
                if table is not None:
                    return _parse(candidate, table)
    return Config()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad(path, "a TOML file", str(error)) from error


def _table(path: Path, document: dict[str, Any]) -> dict[str, Any] | None:
    """The table that is ours. In fp8load.toml the keys may also stand at the top."""
    table = document.get("tool", {}).get("fp8load") if isinstance(document.get("tool"), dict) else None
    if table is None and path.name != "pyproject.toml":
        return document
    return table


def _parse(path: Path, table: dict[str, Any]) -> Config:
    if not isinstance(table, dict):
        raise _bad(path, "[tool.fp8load] is a table", repr(table))
    unknown = sorted(table.keys() - set(_KEYS))
    if unknown:
        raise _bad(path, ", ".join(_KEYS), ", ".join(unknown))
    per_module = _mapping(path, table, "per-module-ignore")
    for glob in per_module:
        try:
            glob_match(glob, "")
        except ValueError as error:
            raise _bad(path, "a glob such as model.layers.61.**", f"{glob!r}: {error}") from error
    return Config(
        place=path.name,
        ignore=_codes(path, "ignore", table.get("ignore", [])),
        per_module=per_module,
        per_source=_mapping(path, table, "per-source-ignore"),
    )


def _mapping(path: Path, table: dict[str, Any], key: str) -> dict[str, tuple[str, ...]]:
    entries = table.get(key, {})
    if not isinstance(entries, dict):
        raise _bad(path, f"{key} is a table of lists", repr(entries))
    return {glob: _codes(path, f"{key}.{glob}", codes) for glob, codes in entries.items()}


def _codes(path: Path, key: str, codes: Any) -> tuple[str, ...]:
    if not isinstance(codes, list) or not all(isinstance(code, str) and code for code in codes):
        raise _bad(path, f"{key} is a list of codes", repr(codes))
    return tuple(code.upper() for code in codes)


def _bad(path: Path, expected: str, got: str) -> UsageError:
    return UsageError(Problem(
        code="USE012", message="the configuration file is not usable", file=str(path), expected=expected, got=got
    ))  # fmt: skip
