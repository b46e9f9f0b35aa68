"""InspectReport from a checkpoint: pure counting over headers, schemes and the family."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Literal

from fp8load.archs.base import Experts, Head, Linear
from fp8load.archs.model import Model, is_fused_on_disk, spelling
from fp8load.archs.numbers import MAX_EXPERTS
from fp8load.dtypes import BITS, DType
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.stacked import stored_name
from fp8load.index.index import Index
from fp8load.module_report import ModuleReport, SlotReport
from fp8load.report import (
    DTypeReport,
    FileReport,
    InspectReport,
    PlanReport,
    Read,
    SchemeReport,
    SourceReport,
)
from fp8load.scheme import LinearScheme, Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.fusion import FusionPlan
    from fp8load.source.base import Source

_MAIN = frozenset({Role.WEIGHT, Role.BIAS, Role.LOW_RANK_A, Role.LOW_RANK_B})


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
    scales, weights = set(scale_names(checkpoint)), _renamed_weights(lowered.modules.values())
    if lowered.pieces:
        scales, weights = ({stored_name(name, lowered.pieces) for name in names} for names in (scales, weights))
    dtypes = _dtypes(index, scales, weights)
    return InspectReport(
        source=source_report(checkpoint.source, index),
        read=read_report(checkpoint.source),
        format=checkpoint.format.name,
        format_title=checkpoint.format.title,
        format_place=checkpoint.format.place,
        arch=checkpoint.arch.name if checkpoint.arch else None,
        model_type=kind if isinstance(kind := index.config.get("model_type"), str) else None,
        files=[
            FileReport(name=f.name, nbytes=f.nbytes, header_nbytes=f.header_nbytes, num_tensors=f.num_tensors)
            for f in index.files.values()
        ],
        nbytes=sum(report.nbytes for report in dtypes),
        num_tensors=len(index.tensors),
        num_params=sum(report.num_elements for report in dtypes if report.kind != "scale") + _packed(checkpoint),
        dtypes=dtypes,
        schemes=_schemes(lowered.modules.values()),
        kv_scales=len(lowered.kv),
        modules=list(_modules(checkpoint)),
        unknown_keys=list(checkpoint.format.unknown_keys),
    )


def _packed(checkpoint: Checkpoint) -> int:
    """How many more elements packed weights have than their headers say: two in a byte count as two."""
    packed = [meta for meta in checkpoint.lowered.logical.values() if meta.dtype.bits < BITS[DType.U8]]
    return sum(meta.num_elements - meta.nbytes for meta in packed)


def scale_names(checkpoint: Checkpoint) -> Iterator[str]:
    """Names of all tensors that are scales, KV scales and unused ones included."""
    for info in checkpoint.lowered.modules.values():
        for role, meta in info.tensors.items():
            if role not in _MAIN:
                yield meta.name
    yield from (meta.name for meta in checkpoint.lowered.kv.values())
    yield from checkpoint.lowered.unused


def _renamed_weights(modules: Iterable[ModuleInfo]) -> set[str]:
    """Weights whose names do not end in ".weight": packed ones, and those of stacked experts."""
    names = (info.tensors[Role.WEIGHT].name for info in modules)
    return {name for name in names if not name.endswith(".weight")}


Kind = Literal["weight", "scale", "other"]


def _dtypes(index: Index, scales: set[str], weights: set[str]) -> list[DTypeReport]:
    """Tensors counted by dtype and kind, largest first. One pass; equal tensors are counted before they are sized."""
    alike: Counter[tuple[DType, tuple[int, ...], Kind]] = Counter(
        [(m.dtype, m.shape,
          "scale" if name in scales else "weight" if name.endswith(".weight") or name in weights else "other")
         for name, m in index.tensors.items()]
    )  # fmt: skip
    counts: dict[tuple[DType, Kind], list[int]] = defaultdict(lambda: [0, 0])
    for (dtype, shape, kind), count in alike.items():
        entry = counts[dtype, kind]
        entry[0] += count
        entry[1] += count * prod(shape)
    reports = [
        DTypeReport(dtype=dtype, kind=kind, num_tensors=n, num_elements=elements, nbytes=elements * BITS[dtype] // 8)
        for (dtype, kind), (n, elements) in counts.items()
    ]
    return sorted(reports, key=lambda report: -report.nbytes)


def _schemes(modules: Iterable[ModuleInfo]) -> list[SchemeReport]:
    """Ways of storage with their counts; schemes that read alike (they differ in suffixes on disk) are added up."""
    by_id = {id(info.scheme): info.scheme for info in modules if info.scheme is not None}
    counts = Counter(id(info.scheme) for info in modules if info.scheme is not None)
    alike: Counter[str] = Counter()
    for key, scheme in by_id.items():
        alike[str(scheme)] += counts[key]
    first = {str(scheme): scheme for scheme in by_id.values()}
    return [_scheme(first[text], count) for text, count in alike.most_common()]


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
    texts = {id(info.scheme): str(info.scheme) for info in _one_of_each(modules.values())}
    seen: set[str] = set()
    if checkpoint.model is not None:
        for at, entry in checkpoint.model.entries():
            if isinstance(entry, Experts):
                for target, held in _experts(checkpoint.model, at, entry, modules):
                    seen.update(info.name for _, info in held)
                    yield from [_stack(target, held, texts)] if held else ()
                continue
            if not isinstance(entry, Linear | Head):
                continue
            members, fused = _members(at, entry, modules)
            present = [(slot, modules[name]) for slot, name in members if name in modules]
            if present:
                seen.update(info.name for _, info in present)
                target = entry.target if isinstance(entry, Linear) else entry.module
                yield _module(at + target, present, texts, fused=fused)
    for name, info in modules.items():
        if name not in seen:
            yield _module(name, [("", info)], texts, fused=False)


def _experts(
    model: Model, at: str, entry: Experts, modules: Mapping[str, ModuleInfo]
) -> Iterator[tuple[str, list[tuple[str, ModuleInfo]]]]:
    """w13 and w2 of a layer's experts: each slot with the module that fills it, expert by expert."""
    count = min(model.sizes.of(entry.count), MAX_EXPERTS)
    prefixes = [at + entry.at(model.sizes, expert) for expert in range(count)]
    for name, linear in zip(("w13", "w2"), spelling(model, at, entry, modules), strict=True):
        together = [("+".join(part.slot for part in linear.parts), linear.target)]
        apart = [(part.slot, part.module) for part in linear.parts]
        members = []
        for expert, prefix in enumerate(prefixes):
            for slot, last in together if is_fused_on_disk(linear, prefix, modules) else apart:
                info = modules.get(prefix + last)
                if info is not None:
                    members.append((f"{expert}.{slot}", info))
        yield f"{at}{entry.target}.{name}", members


def _stack(name: str, members: list[tuple[str, ModuleInfo]], texts: Mapping[int, str]) -> ModuleReport:
    """The experts' layers as one module [E, N, K]."""
    slots = tuple([_slot(slot, info) for slot, info in members])
    parts = len({slot.name.partition(".")[2] for slot in slots})
    scheme = members[0][1].scheme
    num_rows = sum(slot.shape[0] for slot in slots[:parts])
    return ModuleReport(
        name=name,
        kind="plain" if scheme is None else "quantized",
        scheme=texts.get(id(scheme)),
        shape=(len(slots) // parts, num_rows, *slots[0].shape[1:]),
        dtype=members[0][1].tensors[Role.WEIGHT].dtype,
        scale_shape=None,
        nbytes=sum(slot.nbytes for slot in slots),
        fused_on_disk="+" in slots[0].name,
        slots=slots,
    )


def _one_of_each(modules: Iterable[ModuleInfo]) -> Iterable[ModuleInfo]:
    return {id(info.scheme): info for info in modules if info.scheme is not None}.values()


def _members(at: str, entry: Linear | Head, modules: Mapping[str, ModuleInfo]) -> tuple[list[tuple[str, str]], bool]:
    """Slots with the modules on disk that fill them, and whether all are one module there."""
    if isinstance(entry, Head):
        return [("", at + entry.module)], False
    fused = is_fused_on_disk(entry, at, modules)
    return [(part.slot, at + (entry.target if fused else part.module)) for part in entry.parts], fused


def _module(name: str, members: list[tuple[str, ModuleInfo]], texts: Mapping[int, str], *, fused: bool) -> ModuleReport:
    slots = tuple([_slot(slot, info) for slot, info in members])
    stored = slots[:1] if fused else slots
    first, scheme = stored[0], members[0][1].scheme
    single = len(stored) == 1
    return ModuleReport(
        name=name,
        kind="plain" if scheme is None else "quantized",
        scheme=texts.get(id(scheme)),
        shape=first.shape if single else (sum(slot.shape[0] for slot in stored if slot.shape), *first.shape[1:]),
        dtype=members[0][1].tensors[Role.WEIGHT].dtype,
        scale_shape=first.scale_shape if single else None,
        nbytes=first.nbytes if single else sum(slot.nbytes for slot in stored),
        fused_on_disk=fused,
        slots=slots,
    )


def _slot(name: str, info: ModuleInfo) -> SlotReport:
    tensors = info.tensors
    scale = tensors.get(Role.WEIGHT_SCALE) if info.scheme is not None else None
    nbytes = 0
    for meta in tensors.values():
        nbytes += meta.end - meta.begin
    return SlotReport(name, info.name, tensors[Role.WEIGHT].shape, None if scale is None else scale.shape, nbytes)


def plan_report(plan: FusionPlan) -> PlanReport:
    """Everything that `plan` shows. Reads nothing."""
    nbytes = {name: prod(spec.shape) * BITS[spec.dtype] // 8 for name, spec in plan.params.items()}
    of_layers = [spec for spec in plan.params.values() if spec.module in plan.layers]
    nbytes_quantized = sum(nbytes[spec.name] for spec in of_layers)
    return PlanReport(
        source=source_report(plan.source, plan.index),
        tp_rank=plan.rank.tp_rank,
        tp_size=plan.rank.tp_size,
        ep_rank=plan.rank.ep_rank,
        ep_size=plan.rank.ep_size,
        digest=plan.digest,
        arch=plan.arch,
        quantize=plan.quantize,
        num_tensors=len((plan.base or plan).index.tensors),
        num_layers=len(plan.layers),
        num_params=len(plan.params),
        num_slots=sum(len(layer.parts) * layer.num_members for layer in plan.layers.values()),
        num_copies=len(plan.copies),
        num_elements=plan.num_elements,
        nbytes=plan.nbytes,
        nbytes_quantized=nbytes_quantized,
        nbytes_plain=plan.nbytes - nbytes_quantized,
        nbytes_read=plan.nbytes_read,
        nbytes_staged=plan.nbytes_staged,
        skips=[{"tensor": skip.source, "reason": skip.reason} for skip in plan.skips],
        layers=[
            {
                "name": layer.name,
                "scheme": str(layer.scheme),
                "shape": list(layer.shape),
                "parts": [{"slot": slot, "rows": rows} for slot, rows in layer.parts],
                "row_parallel": layer.row_parallel,
                "fused_on_disk": layer.fused_on_disk,
                "experts": layer.experts and {"begin": layer.experts.start, "end": layer.experts.stop},
            }
            for layer in plan.layers.values()
        ],
    )
