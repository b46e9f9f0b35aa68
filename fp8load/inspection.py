"""InspectReport from a checkpoint: pure counting over headers, schemes and the family."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from fp8load.archs.base import Head, Linear
from fp8load.archs.expected import is_fused_on_disk
from fp8load.dtypes import DType
from fp8load.formats.lower import ModuleInfo
from fp8load.index.index import Index, TensorMeta
from fp8load.report import (
    DTypeReport,
    FileReport,
    InspectReport,
    ModuleReport,
    Read,
    SchemeReport,
    SlotReport,
    SourceReport,
)
from fp8load.scheme import LinearScheme, Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.source.base import Source

_MAIN = (Role.WEIGHT, Role.BIAS)


def source_report(source: Source, index: Index) -> SourceReport:
    """Where a checkpoint comes from, and how large it is."""
    info = source.info
    return SourceReport(
        kind=info.kind,
        id=info.id,
        revision=info.revision,
        commit=info.commit,
        files=len(index.files),
        nbytes=sum(file.nbytes for file in index.files.values()),
    )


def read_report(source: Source) -> Read:
    """What a source has served so far."""
    return Read(nbytes=source.meter.nbytes, requests=source.meter.num_requests)


def inspect_report(checkpoint: Checkpoint) -> InspectReport:
    """Everything that `inspect` shows. Reads nothing."""
    index, lowered = checkpoint.index, checkpoint.lowered
    scales = set(scale_names(checkpoint))
    return InspectReport(
        source=source_report(checkpoint.source, index),
        read=read_report(checkpoint.source),
        format=checkpoint.format.name,
        format_title=checkpoint.format.title,
        format_place=checkpoint.format.place,
        arch=checkpoint.arch.name if checkpoint.arch else None,
        model_type=index.config.get("model_type"),
        files=[
            FileReport(name=f.name, nbytes=f.nbytes, header_nbytes=f.header_nbytes, num_tensors=f.num_tensors)
            for f in index.files.values()
        ],
        nbytes=index.nbytes,
        num_tensors=len(index.tensors),
        num_params=sum(meta.num_elements for name, meta in index.tensors.items() if name not in scales),
        dtypes=_dtypes(index, scales),
        schemes=_schemes(lowered.modules.values()),
        kv_scales=len(lowered.kv),
        modules=list(_modules(checkpoint)),
        unknown_keys=list(checkpoint.format.unknown_keys),
    )


def scale_names(checkpoint: Checkpoint) -> Iterator[str]:
    """Names of all tensors that are scales, KV scales and unused ones included."""
    for info in checkpoint.lowered.modules.values():
        yield from (meta.name for role, meta in info.tensors.items() if role not in _MAIN)
    yield from (meta.name for meta in checkpoint.lowered.kv.values())
    yield from checkpoint.lowered.unused


def _dtypes(index: Index, scales: set[str]) -> list[DTypeReport]:
    counts: dict[tuple[DType, Literal["weight", "scale", "other"]], list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, meta in index.tensors.items():
        kind: Literal["weight", "scale", "other"] = "other"
        if name in scales:
            kind = "scale"
        elif name.endswith(".weight"):
            kind = "weight"
        entry = counts[meta.dtype, kind]
        entry[0] += 1
        entry[1] += meta.num_elements
        entry[2] += meta.nbytes
    return [
        DTypeReport(dtype=dtype, kind=kind, num_tensors=n, num_elements=elements, nbytes=nbytes)
        for (dtype, kind), (n, elements, nbytes) in sorted(counts.items(), key=lambda item: -item[1][2])
    ]


def _schemes(modules: Iterator[ModuleInfo] | object) -> list[SchemeReport]:
    counts = Counter(info.scheme for info in modules if info.scheme is not None)  # type: ignore[attr-defined]
    merged: dict[str, SchemeReport] = {}
    for scheme, count in counts.most_common():
        text = str(scheme)
        if text in merged:
            count += merged[text].count  # noqa: PLW2901 - schemes that differ in suffix order only read alike
        merged[text] = _scheme(scheme, count)
    return list(merged.values())


def _scheme(scheme: LinearScheme, count: int) -> SchemeReport:
    how = "weight-only"
    if scheme.input is not None:
        how = f"{'static' if scheme.input_static else 'dynamic'}, {scheme.input.granularity}"
    return SchemeReport(
        scheme=str(scheme),
        count=count,
        weight_dtype=scheme.weight.dtype,
        granularity=str(scheme.weight.granularity),
        scale_dtype=scheme.weight.scale_dtype,
        input=how,
    )


def _modules(checkpoint: Checkpoint) -> Iterator[ModuleReport]:
    """Modules under fused names where the family is known, in the order of the model; then whatever is left."""
    modules = checkpoint.lowered.modules
    seen: set[str] = set()
    if checkpoint.model is not None:
        for at, entry in checkpoint.model.entries():
            if not isinstance(entry, Linear | Head):
                continue
            names, slots = _members(at, entry, modules)
            infos = [modules[name] for name in names if name in modules]
            if infos:
                seen.update(info.name for info in infos)
                target = entry.target if isinstance(entry, Linear) else entry.module
                yield _module(at + target, infos, slots, fused=isinstance(entry, Linear) and names == [at + target] and len(entry.parts) > 1)
    for name, info in modules.items():
        if name not in seen:
            yield _module(name, [info], [SlotReport(name="", module=name)], fused=False)


def _members(at: str, entry: Linear | Head, modules: object) -> tuple[list[str], list[SlotReport]]:
    if isinstance(entry, Head):
        return [at + entry.module], [SlotReport(name="", module=at + entry.module)]
    if is_fused_on_disk(entry, at, modules):  # type: ignore[arg-type]
        target = at + entry.target
        return [target], [SlotReport(name=part.slot, module=target) for part in entry.parts]
    names = [at + part.module for part in entry.parts]
    return names, [SlotReport(name=part.slot, module=name) for part, name in zip(entry.parts, names, strict=True)]


def _module(name: str, infos: list[ModuleInfo], slots: list[SlotReport], *, fused: bool) -> ModuleReport:
    weights = [info.tensors[Role.WEIGHT] for info in infos]
    scale = infos[0].tensors.get(Role.WEIGHT_SCALE) if infos[0].scheme is not None else None
    scheme = infos[0].scheme
    return ModuleReport(
        name=name,
        kind="quantized" if scheme is not None else "plain",
        scheme=str(scheme) if scheme is not None else None,
        shape=_stacked(weights),
        dtype=weights[0].dtype,
        scale_shape=list(scale.shape) if scale is not None and len(infos) == 1 else None,
        nbytes=sum(meta.nbytes for info in infos for meta in info.tensors.values()),
        fused_on_disk=fused,
        slots=slots,
    )


def _stacked(weights: list[TensorMeta]) -> list[int]:
    """Shape of the fused weight: rows added up."""
    first = weights[0].shape
    return [sum(meta.shape[0] for meta in weights), *first[1:]] if first else []
