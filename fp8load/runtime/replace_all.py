"""A whole checkpoint into a model that is there: compared first, its scales read and checked, then layer by layer.

Each group of parameters (a decoder layer, the embedding, ...) is read into memory of its own and copied from there, so
a read that fails leaves the layer as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from fp8load.contract import Offer
from fp8load.dtypes import DType
from fp8load.errors import ChangedError, Problem
from fp8load.formats.stacked import stored_name
from fp8load.fusion import FusionPlan
from fp8load.plan.layout import memory_dtype
from fp8load.plan.plan import Copy, ParamSpec
from fp8load.runtime.dtypes import stored_shape, torch_dtype
from fp8load.runtime.exchange import Placed
from fp8load.runtime.execute import execute
from fp8load.runtime.intake import SCALES, Scale, ask_scale
from fp8load.runtime.live import Live, layer_of
from fp8load.runtime.memory import allocate
from fp8load.runtime.segments import segments
from fp8load.runtime.verdicts import Verdicts
from fp8load.runtime.writer import Writer
from fp8load.scheme import LinearScheme, Role, Storage


def layout_fault(live: FusionPlan, new: FusionPlan) -> Problem | None:
    """Why a checkpoint's parameters are not those of the model, or None: names, shapes, dtypes and what scales mean."""
    for name, spec in live.params.items():
        other = new.params.get(name)
        if other is None or _held(other) != _held(spec):
            got = "no such parameter" if other is None else f"{other.dtype} {list(other.shape)}"
            return _fault(name, f"{spec.dtype} {list(spec.shape)}", got, new)
    for name, spec in new.params.items():
        if name not in live.params:
            return _fault(name, "no such parameter", f"{spec.dtype} {list(spec.shape)}", new)
    for name, layer in live.layers.items():
        scheme = new.layers[name].scheme
        if _meaning(layer.scheme) != _meaning(scheme):
            return _fault(name, str(layer.scheme), str(scheme), new)
    return None


def _held(spec: ParamSpec) -> tuple[object, ...]:
    """What a parameter is in memory; which tensors it comes from may differ."""
    return spec.dtype, spec.shape, spec.slots


def _meaning(scheme: LinearScheme) -> LinearScheme:
    """A scheme without what is a matter of files alone."""
    weight = scheme.weight
    if weight.scale_dtype is not None:
        weight = replace(weight, scale_dtype=memory_dtype(weight.scale_dtype))
    given = scheme.input
    if given is not None and given.scale_dtype is not None:
        given = replace(given, scale_dtype=memory_dtype(given.scale_dtype))
    packed = Storage(elements_per_byte=scheme.storage.elements_per_byte)
    return replace(scheme, weight=weight, input=given, suffixes=(), storage=packed)


def _fault(name: str, expected: str, got: str, new: FusionPlan) -> Problem:
    return Problem(
        code="FILL729", message="the checkpoint has another layout than the model", tensor=name, expected=expected,
        got=f"{got} in {new.source.info.id}", hint="load it as a model of its own",
    )  # fmt: skip


def groups(params: Iterable[ParamSpec]) -> Mapping[str, list[ParamSpec]]:
    """Parameters by the decoder layer that they are in, each of the others by itself."""
    found: dict[str, list[ParamSpec]] = {}
    for spec in params:
        layer = layer_of(spec.module)
        found.setdefault(spec.name if layer == spec.module else layer, []).append(spec)
    return found


def refuse_scales(plan: FusionPlan) -> None:
    """Read all scales of a plan, a layer's at a time, and refuse those that are no scales: `LoadError` FILL725."""
    copies = _by_param(plan)
    for specs in groups(spec for spec in plan.params.values() if spec.role in SCALES).values():
        read(plan, specs, copies, {spec.name: torch.device("cpu") for spec in specs})


def commit(live: Live, plan: FusionPlan, writer: Writer) -> None:
    """Read and write layer by layer."""
    copies, targets = _by_param(plan), live.targets()
    where = {name: target.device for name, target in targets.items()}
    for specs in groups(plan.params.values()).values():
        staged = read(plan, specs, copies, where)
        writer.write(live.names_of(staged), partial(_whole, live, staged))


def _whole(live: Live, staged: dict[str, torch.Tensor]) -> list[Placed]:
    """What was read, of which nobody else holds on to the memory."""
    placed = live.whole(staged)
    staged.clear()
    return placed


def read(
    plan: FusionPlan, specs: list[ParamSpec], copies: Mapping[str, list[Copy]], where: Mapping[str, torch.device]
) -> dict[str, torch.Tensor]:
    """Parameters in memory of their own, scales checked. Raises `LoadError` FILL725, and what reading raises."""
    staged: dict[str, torch.Tensor] = {}
    for device in dict.fromkeys(where[spec.name] for spec in specs):
        here = [spec for spec in specs if where[spec.name] == device]
        storage = allocate(here, device)
        wanted = (copy for spec in here for copy in copies[spec.name])
        execute(plan, segments(wanted, plan.tensors, storage), device, None)
        staged |= storage
    verdicts = Verdicts()
    for spec in specs:
        if spec.role in SCALES:
            _ask(plan, spec, staged[spec.name], copies[spec.name], verdicts)
    verdicts.refuse()
    return staged


def _ask(plan: FusionPlan, spec: ParamSpec, scale: torch.Tensor, copies: list[Copy], verdicts: Verdicts) -> None:
    rounded = spec.dtype.is_fp8 and spec.role is Role.WEIGHT_SCALE
    for copy in copies:
        name = stored_name(copy.source, plan.lowered.pieces)
        file = plan.tensors[copy.source].file
        ask_scale(verdicts, scale[copy.dst.slices()], spec.dtype, Scale(name, rounded, file))


def _by_param(plan: FusionPlan) -> Mapping[str, list[Copy]]:
    found: dict[str, list[Copy]] = {}
    for copy in plan.copies:
        found.setdefault(copy.param, []).append(copy)
    return found


def refuse_names(live: FusionPlan, new: FusionPlan) -> None:
    """Refuse an unquantized checkpoint whose tensors are not those that the model is made of: `LoadError`."""
    offers = [Offer(meta.name, meta.shape, meta.dtype.value) for meta in new.index.tensors.values()]
    live.contract.raise_for(live.contract.check(offers))


def stored_chunks(plan: FusionPlan) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The tensors of a checkpoint as they are stored, one at a time."""
    for meta in plan.index.tensors.values():
        data = bytearray(plan.source.read(meta.file, meta.begin, meta.end))
        if len(data) != meta.nbytes:
            raise ChangedError(Problem(code="FILL710", message="the file changed after it was opened", file=meta.file,
                                       tensor=meta.name, expected=f"{meta.nbytes} bytes", got=f"{len(data)} bytes",
                                       hint="open the checkpoint again"))  # fmt: skip
        shape, dtype = stored_shape(meta.dtype, meta.shape), torch_dtype(DType(meta.dtype))
        tensor = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        yield [(meta.name, tensor.reshape(shape))]
