"""What a plan loads into: quantized layers under their fused names, and every other tensor of this rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from fp8load.errors import Problem, UnfilledSlotError
from fp8load.formats.kv_names import KV_ROLES
from fp8load.fusion import FusionPlan, Progress
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.backend import device_of
from fp8load.runtime.choices import choose_for
from fp8load.runtime.devices import torch_device
from fp8load.runtime.execute import execute
from fp8load.runtime.experts import ScaledExperts, experts_of
from fp8load.runtime.layers import ScaledLinear
from fp8load.runtime.memory import allocate
from fp8load.runtime.parameters import TypedParameter, make_parameter
from fp8load.runtime.place import place
from fp8load.runtime.requantize import checked, requantize_to_max_
from fp8load.runtime.seal import seal
from fp8load.runtime.segments import segments
from fp8load.runtime.stats import LoadStats
from fp8load.scheme import LinearScheme, Role

Layer = ScaledLinear | ScaledExperts


class LoadedModel(Mapping[str, Layer]):
    """Quantized layers by fused name ("model.layers.0.self_attn.qkv_proj"), and the rest in `tensors`.

    The experts of a layer are one `ScaledExperts`, under the name of their module ("model.layers.0.mlp.experts"). A
    quantized embedding is a layer too: its rows are `dequantize()[ids]`, and a head that is tied to it is the layer.

    tensors   every tensor of this rank that is no part of a quantized layer, by name: embeddings, norms, unquantized
              linear layers (fused where the family fuses them), KV-cache scales (float32 [1], "<attention>.k_scale")
    plan      what was loaded
    stats     how many bytes that were, and how long it took
    """

    def __init__(
        self, plan: FusionPlan, layers: dict[str, Layer], tensors: dict[str, torch.Tensor], stats: LoadStats
    ) -> None:
        self.plan, self.stats = plan, stats
        self.tensors: Mapping[str, torch.Tensor] = tensors
        self._layers = layers

    def __getitem__(self, name: str) -> Layer:
        layer = self._layers.get(name)
        if layer is None:
            raise KeyError(self._where(name))
        return layer

    def _where(self, name: str) -> str:
        """What to ask for instead of a name that is no quantized layer."""
        if f"{name}.weight" in self.tensors:
            return f"{name} is not quantized: model.tensors[{name + '.weight'!r}]"
        copy = next(self.plan.copies_of(f"{name}.weight"), None)
        if copy is not None:
            spec = self.plan.params[copy.param]
            return f"{name} is slot {copy.slot} of the fused layer {spec.module}"
        return f"no quantized layer {name}; the first of {len(self)} is {next(iter(self._layers), 'none')}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def into(self, module: torch.nn.Module, *, strict: bool = True) -> None:
        """Place everything in `module` by name: layers replace submodules, tensors become parameters or buffers.

        The module has the fused names (qkv_proj, gate_up_proj) and may lie on the meta device; memory is shared, not
        copied. `strict`: a name without a place, or a parameter that would stay as it is, raises `LoadError` before
        anything is changed.
        """
        place(self._layers, self.tensors, module, strict=strict)

    def __repr__(self) -> str:
        return f"LoadedModel({self.plan.rank}: {len(self)} quantized layers, {len(self.tensors)} other tensors)"


def load_plan(
    plan: FusionPlan, *, device: str, backend: str | None, requantize: str | None, progress: Progress | None
) -> LoadedModel:
    """Allocate, poison, read, seal, prepare. See `FusionPlan.load`."""
    start, where, to = time.perf_counter(), torch_device(device), checked(requantize)
    _choose_early(plan, where, backend)
    storage = allocate(plan.params.values(), where)
    typed = {layer.name: _parameters(plan, layer, storage) for layer in plan.layers.values()}
    tensors = {name: storage[name] for name, spec in plan.params.items() if spec.module not in typed}
    kv = {name for name in tensors if plan.params[name].role in KV_ROLES}
    start_read = time.perf_counter()
    nbytes = execute(plan, segments(iter(plan.copies), plan.tensors, storage), progress)
    seconds_read = time.perf_counter() - start_read
    by_name = {param.full_name: param for params in typed.values() for param in params.values()}
    for copy in plan.copies:
        if copy.param in by_name:
            by_name[copy.param].mark_written(copy.slot)
    _seal(plan, by_name)
    _check_kv(plan, {name: tensors[name] for name in kv})
    single = {
        name: ScaledLinear.from_spec(plan.layers[name], params, backend=backend)
        for name, params in typed.items()
        if plan.layers[name].experts is None
    }
    experts = experts_of(plan.layers, typed, backend)
    if to == "max":
        for layer in (*single.values(), *(stack for pair in experts.values() for stack in (pair.w13, pair.w2))):
            requantize_to_max_(layer)
    layers: dict[str, Layer] = {**single, **experts}
    stats = LoadStats(nbytes=nbytes, seconds_read=seconds_read, seconds=time.perf_counter() - start)
    return LoadedModel(plan, layers, tensors, stats)


def _choose_early(plan: FusionPlan, where: torch.device, backend: str | None) -> None:
    """Refuse a backend that cannot run before the first byte is read. Layers that are alike are asked once."""
    device = device_of(where)
    asked: set[tuple[LinearScheme, tuple[int, int], int]] = set()
    for layer in plan.layers.values():
        kind = (layer.scheme, layer.shape, 0 if layer.experts is None else len(layer.experts))
        if kind not in asked:
            asked.add(kind)
            choose_for(layer, device, backend)


def _parameters(plan: FusionPlan, layer: LayerSpec, storage: Mapping[str, torch.Tensor]) -> dict[Role, TypedParameter]:
    """The typed parameters of one layer, as views of their storage, scales poisoned."""
    weight = plan.params[f"{layer.name}.{Role.WEIGHT}"]
    num_rows = {source.slot: source.shape[0] for source in weight.layout.sources}
    params: dict[Role, TypedParameter] = {}
    for role in Role:
        spec = plan.params.get(f"{layer.name}.{role}")
        if spec is not None and role not in KV_ROLES:
            params[role] = make_parameter(
                spec.layout, spec.name, scheme=layer.scheme, num_rows=num_rows, storage=storage[spec.name]
            )
    return params


def _seal(plan: FusionPlan, params: Mapping[str, TypedParameter]) -> None:
    """Seal with the names of the tensors on disk, so that an error says which file to look at."""
    sources = {(copy.param, copy.slot): copy.source for copy in plan.copies}
    try:
        seal(params.values(), sources)
    except UnfilledSlotError as error:
        tensor = next((name for name in sources.values() if name in error.expected), "")
        file = plan.tensors[tensor].file if tensor else ""
        raise UnfilledSlotError(replace(error.problem, file=file)) from error


def _check_kv(plan: FusionPlan, scales: Mapping[str, torch.Tensor]) -> None:
    sources = {copy.param: copy.source for copy in plan.copies if copy.param in scales}
    for name, scale in scales.items():
        value = scale.item()
        if not 0 < value < float("inf"):
            source = sources[name]
            raise UnfilledSlotError(Problem(
                code="FILL701", message="a KV-cache scale is not a finite number > 0", tensor=source,
                file=plan.index.tensors[source].file, expected="a finite number > 0", got=str(value),
            ))  # fmt: skip
