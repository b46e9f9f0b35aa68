"""Which backend runs each layer of a plan on a device, and why not another: asked before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fp8load.fusion import FusionPlan
from fp8load.kernel_report import KernelReport, KernelsReport, MemoryReport, RefusalReport
from fp8load.patterns import fold
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.backend import Choice, Device, Refusal, backends_named, choose
from fp8load.runtime.devices import gpu_of
from fp8load.runtime.grouped import GroupedChoice, choose_grouped


def choose_for(layer: LayerSpec, device: Device, backend: str | None = None) -> Choice | GroupedChoice:
    """The backend of one layer of a plan, or of a stack of experts; `backend` forces one. Raises what `choose` and
    `choose_grouped` raise."""
    if layer.experts is None:
        return choose(layer.scheme, layer.shape, device, forced=backend, layer=layer.name)
    shape = (len(layer.experts), *layer.shape)
    return choose_grouped(layer.scheme, shape, device, forced=backend, layer=layer.name)


@dataclass(slots=True)
class _Alike:
    """Layers of one scheme and shape."""

    choice: Choice | GroupedChoice
    names: list[str] = field(default_factory=list)


def kernels_of(plan: FusionPlan, device: Device, backend: str | None = None) -> KernelsReport:
    """The choice for every layer; layers that are alike are asked once. Reads nothing, and needs no such device.

    Raises `BackendError` BKD801 where a layer has no backend, or the forced one refuses; `UsageError` BKD800 for a name
    that no backend has.
    """
    if backend is not None and all(layer.experts is None for layer in plan.layers.values()):
        backends_named([backend], device)  # a name that does not exist is an error where no layer asks for it, too
    alike: dict[tuple[object, ...], _Alike] = {}
    for layer in plan.layers.values():
        kind = (layer.scheme, _shape(layer))
        if kind not in alike:
            alike[kind] = _Alike(choose_for(layer, device, backend))
        alike[kind].names.append(layer.name)
    chosen, refused = [], Counter[Refusal]()
    for group in alike.values():
        layer, count = plan.layers[group.names[0]], len(group.names)
        refused.update(dict.fromkeys(group.choice.refused, count))
        chosen.append(KernelReport(
            backend=group.choice.backend.name, scheme=str(layer.scheme), shape=_shape(layer), count=count,
            layers=tuple(pattern for pattern, _ in fold(group.names)),
        ))  # fmt: skip
    order = list(dict.fromkeys(name for name, _ in refused))
    gpu = gpu_of(device)
    return KernelsReport(
        device=device.name or device.kind,
        title=gpu.title if gpu else "",
        forced=backend,
        chosen=tuple(chosen),
        refused=tuple(
            RefusalReport(backend=name, reason=reason, count=refused[Refusal(name, reason)])
            for name, reason in sorted(refused, key=lambda refusal: order.index(refusal.backend))
        ),
        memory=tuple(MemoryReport(gb=gb, fits=plan.nbytes <= gb * 10**9) for gb in (gpu.memory_gb if gpu else ())),
    )


def explain_kernel(plan: FusionPlan, tensor: str, device: Device, backend: str | None = None) -> list[str]:
    """Lines that follow those of `FusionPlan.explain`: what multiplies with the tensor. Nothing for plain tensors."""
    own = (copy for copy in plan.copies if copy.source == tensor or copy.source.startswith(f"{tensor}["))
    names = (plan.params[copy.param].module for copy in own)
    layer = next((plan.layers[name] for name in names if name in plan.layers), None)
    if layer is None:
        return []
    choice = choose_for(layer, device, backend)
    each = "" if layer.experts is None else f" for each of {len(layer.experts)} experts"
    num_rows, num_cols = layer.shape
    where = f"{choice.backend.name} on {device.name or device.kind}"
    lines = [f"  kernel   {where}, N {num_rows:,}, K {num_cols:,}{each}"]
    return lines + [f"  refused  {refusal.backend}: {refusal.reason}" for refusal in choice.refused]


def _shape(layer: LayerSpec) -> tuple[int, ...]:
    return layer.shape if layer.experts is None else (len(layer.experts), *layer.shape)
