"""AgainstReport from a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from fp8load.inspection import read_report, source_report
from fp8load.report import AgainstReport, ModuleDistance, SchemeDistance
from fp8load.rules.findings import MAX_NAMES
from fp8load.scheme import Role
from fp8load.values.compare import Comparison, Distance, median


def against_report(comparison: Comparison) -> AgainstReport:
    """Everything that was compared, and with what."""
    known = [distance for distance in comparison.distances if distance.is_known]
    source = comparison.source
    return AgainstReport(
        source=source_report(source.source, source.index),
        read=read_report(source.source),
        compared=len(known),
        identical=sum(distance.is_identical for distance in known),
        not_compared=len(comparison.distances) - len(known),
        num_only_here=len(comparison.only_here),
        num_only_there=len(comparison.only_there),
        only_here=list(comparison.only_here[:MAX_NAMES]),
        only_there=list(comparison.only_there[:MAX_NAMES]),
        schemes=list(_schemes(known)),
        modules=[_module(distance) for distance in comparison.distances],
    )


def kind_of(distance: Distance) -> str:
    """How the weight is stored: what equal distances are expected of."""
    info = distance.info
    if info.scheme is None:
        return str(info.tensors[Role.WEIGHT].dtype)
    return f"{info.scheme.weight.dtype} {info.scheme.weight.granularity}"


def _schemes(known: list[Distance]) -> Iterator[SchemeDistance]:
    kinds: dict[str, list[Distance]] = {}
    for distance in known:
        if not distance.is_identical:
            kinds.setdefault(kind_of(distance), []).append(distance)
    for kind, distances in kinds.items():
        lowest = min(distances, key=lambda distance: distance.sqnr)
        yield SchemeDistance(
            scheme=kind,
            count=len(distances),
            sqnr_db_median=_number(median(distance.sqnr for distance in distances)),
            sqnr_db_lowest=_number(lowest.sqnr),
            lowest=lowest.info.name,
            max_error=_number(max(distance.max_error for distance in distances)),
        )


def _module(distance: Distance) -> ModuleDistance:
    info = distance.info
    return ModuleDistance(
        module=info.name,
        scheme=None if info.scheme is None else str(info.scheme),
        identical=distance.is_identical,
        sqnr_db=_number(distance.sqnr),
        max_error=_number(distance.max_error),
        why=_why(distance),
    )


def _why(distance: Distance) -> str:
    if distance.is_known:
        return ""
    if distance.shapes is not None:
        here, there = distance.shapes
        return f"{list(here)} here and {list(there)} in the source"
    return "not finite" if distance.readable else "not a form that can be dequantized"


def _number(value: float) -> float | None:
    return round(value, 4) if isfinite(value) else None
