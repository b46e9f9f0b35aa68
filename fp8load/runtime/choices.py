"""Which backend runs each layer of a plan on a device, and why not another: asked before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fp8load.fusion import FusionPlan
from fp8load.kernel_report import KernelReport, KernelsReport, MemoryReport, RefusalReport
from fp8load.patterns import fold
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.backend import Backend, Device, Refusal, Verdict, Yes, backends_named
from fp8load.runtime.choose import Asked, Choice, choose, choose_grouped, known_names, names_of, refuse
from fp8load.runtime.devices import gpu_of
from fp8load.runtime.grouped import GroupedBackend, grouped_named

AnyChoice = Choice[Backend] | Choice[GroupedBackend]


def asked_of(layer: LayerSpec, backend: Asked, device: Device) -> tuple[str, ...]:
    """Of the names that a model is asked to run by those that concern a layer; where none does, it chooses by itself.

    A stack of experts takes all; a single layer those of backends of layers, since the name of a grouped one says
    nothing about it. Raises `UsageError` BKD800.
    """
    names = known_names(backend, device, layer=layer.name)
    if layer.experts is not None:
        return names
    return tuple(found.name for found in backends_named(names, device))


def choose_for(layer: LayerSpec, device: Device, backend: Asked = None) -> AnyChoice:
    """The backend of one layer of a plan, or of a stack of experts, by `asked_of`. Raises what `choose` raises."""
    forced = asked_of(layer, backend, device)
    if layer.experts is None:
        return choose(layer.scheme, layer.shape, device, forced=forced, layer=layer.name)
    shape = (len(layer.experts), *layer.shape)
    return choose_grouped(layer.scheme, shape, device, forced=forced, layer=layer.name)


@dataclass(slots=True)
class Alike:
    """Layers of one scheme and shape."""

    choice: AnyChoice
    layers: list[LayerSpec] = field(default_factory=list)


def choose_all(plan: FusionPlan, device: Device, backend: Asked = None) -> list[Alike]:
    """The choice for every layer; those that are alike are asked once. Reads nothing, and needs no such device.

    Raises `UsageError` BKD800 for a name that no backend has; `BackendError` BKD801 where a layer has no backend, those
    that were asked for refuse it, or one was asked for that none of the layers can take.
    """
    names = known_names(backend, device)  # also where no layer asks
    alike: dict[tuple[object, ...], Alike] = {}
    for layer in plan.layers.values():
        kind = (layer.scheme, _shape(layer))
        if kind not in alike:
            alike[kind] = Alike(choose_for(layer, device, names))
        alike[kind].layers.append(layer)
    for name in names if alike else ():
        _check_taken(name, [one.layers[0] for one in alike.values()], device)
    return list(alike.values())


def _check_taken(name: str, layers: list[LayerSpec], device: Device) -> None:
    """Raise `BackendError` BKD801 for a name that none of these layers can take."""
    refused: dict[Refusal, None] = {}
    for layer in layers:
        for verdict in _verdicts(name, layer, device):
            if isinstance(verdict, Yes):
                return
            refused[Refusal(name, verdict.reason)] = None
    none = Refusal(name, "runs stacks of experts, and there are none")
    refuse([name], list(refused) or [none], f"{len(layers)} kinds of layers, on {device}", "")


def _verdicts(name: str, layer: LayerSpec, device: Device) -> list[Verdict]:
    """What the backend of a name says about a layer; nothing where it is not asked about such."""
    found = [backend.supports(layer.scheme, layer.shape, device) for backend in backends_named([name], device)]
    if layer.experts is None:
        return found
    shape = (len(layer.experts), *layer.shape)
    return found + [backend.supports(layer.scheme, shape, device) for backend in grouped_named([name], device)]


def kernels_of(plan: FusionPlan, device: Device, backend: Asked = None) -> KernelsReport:
    """The choice for every layer as a report. Raises what `choose_all` raises."""
    chosen, refused = [], Counter[Refusal]()
    for alike in choose_all(plan, device, backend):
        layer, count = alike.layers[0], len(alike.layers)
        refused.update(dict.fromkeys(alike.choice.refused, count))
        chosen.append(KernelReport(
            backend=alike.choice.backend.name, scheme=str(layer.scheme), shape=_shape(layer), count=count,
            layers=tuple(pattern for pattern, _ in fold([one.name for one in alike.layers])),
        ))  # fmt: skip
    order = list(dict.fromkeys(name for name, _ in refused))
    gpu, nbytes = gpu_of(device), plan.nbytes + plan.nbytes_staged
    return KernelsReport(
        device=device.name or device.kind,
        title=gpu.title if gpu else "",
        forced=", ".join(names_of(backend)) or None,
        chosen=tuple(chosen),
        refused=tuple(
            RefusalReport(backend=name, reason=reason, count=refused[Refusal(name, reason)])
            for name, reason in sorted(refused, key=lambda refusal: order.index(refusal.backend))
        ),
        memory=tuple(MemoryReport(gb=gb, fits=nbytes <= gb * 10**9) for gb in (gpu.memory_gb if gpu else ())),
    )


def explain_kernel(plan: FusionPlan, tensor: str, device: Device, backend: Asked = None) -> list[str]:
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
