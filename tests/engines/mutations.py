"""Every fact of a profile taken out by itself: what a profile says has to matter somewhere in the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fp8load.engines.profile import Profile

CODES = {
    "linears": ("F8L107", "F8T003"),
    "experts": ("F8L107", "F8T003"),
    "algos": ("F8L107",),
    "sizes": ("F8L107",),
    "transforms": ("F8L107", "F8T003"),
    "groups": ("F8L107", "F8T003"),
    "families": ("F8L107",),
    "weights": ("F8L107", "F8T003"),
    "names": ("F8L203", "F8T003"),
    "unquantized": ("F8L208",),
    "ignore": ("F8L305", "F8L307"),
    "layouts": ("F8L209", "F8T003"),
    "targets": ("F8L105",),
    "reads": ("F8L107", "F8T003"),
    "weight_dtypes": ("F8L602",),
    "kv": ("F8L902", "F8T003"),
    "scales": ("F8L601", "F8L603", "F8T003"),
    "fused": ("F8L401",),
    "blocks": ("F8L504",),
    "gpus": ("F8T001",),
    "rounding": ("F8L707",),
    "drift": ("F8L108",),
    "renames": ("F8L305", "F8L307"),
}
"""Kind of fact -> the rules that it decides."""


def mutations(profile: Profile) -> Iterator[tuple[str, str, Profile]]:
    """(what was taken out, its kind, the profile without it)."""
    for path, kind in paths(profile):
        document = profile.model_dump()
        yield ".".join(map(str, path)), kind, Profile.model_validate(without(document, path))


def without(document: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """The document without one entry; an entry of a list is taken out of it, one of a table becomes its default."""
    at: Any = document
    for key in path[:-1]:
        at = at[key]
    last = path[-1]
    if isinstance(last, int):
        holder: Any = document
        for key in path[:-2]:
            holder = holder[key]
        holder[path[-2]] = [value for number, value in enumerate(at) if number != last]
    else:
        del at[last]
    return document


def paths(profile: Profile) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where each fact stands, and its kind."""
    document = profile.model_dump()
    for kind in ("weight_dtypes", "scales", "fused", "blocks", "gpus", "rounding", "drift", "renames"):
        yield from (((kind, at), kind) for at in range(len(document[kind])))
    for at in range(len(document["places"]["reads"])):
        yield ("places", "reads", at), "reads"
    if document["kv"] is not None:
        yield ("kv",), "kv"
    for at in range(len((document["kv"] or {"names": ()})["names"])):
        yield ("kv", "names", at), "kv"
    for name in (document["kv"] or {"formats": {}})["formats"]:
        yield ("kv", "formats", name), "kv"
    for name, fact in document["formats"].items():
        yield from ((("formats", name, *path), kind) for path, kind in of_format(fact))


def of_format(fact: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """The facts of one dialect."""
    for kind in ("linears", "experts", "algos", "sizes", "transforms", "unquantized", "layouts"):
        yield from (((kind, at), kind) for at in range(len(fact[kind] or ())))
    if fact["groups"] is not None:
        yield ("groups",), "groups"
    for table in ("families", "weights"):
        yield from (((table, kind), table) for kind in fact[table])
    for kind, roles in fact["names"].items():
        for role, suffixes in roles.items():
            yield from ((("names", kind, role, at), "names") for at in range(len(suffixes)))
    if fact["targets"] is not None:
        yield ("targets",), "targets"
        yield ("targets", "order", fact["targets"]["order"].index("class")), "targets"
    if fact["ignore"] is not None:
        yield ("ignore",), "ignore"
        for key in ("keys", "flat", "ways", "also", "by_parts"):
            yield from ((("ignore", key, at), "ignore") for at in range(len(fact["ignore"][key])))
        for key, usual in (("fused", "parts"), ("experts", "whole"), ("mapped", False), ("merged", False)):
            if fact["ignore"][key] != usual:
                yield ("ignore", key), "ignore"
