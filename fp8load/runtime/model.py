"""What a plan loads into: quantized layers under their fused names, and every other tensor of this rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import ref

import torch

from fp8load.errors import Problem, UnfilledSlotError
from fp8load.formats.kv_names import KV_ROLES
from fp8load.fusion import FusionPlan, Progress
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.backend import device_of
from fp8load.runtime.choices import asked_of, choose_all
from fp8load.runtime.choose import Asked
from fp8load.runtime.devices import torch_device
from fp8load.runtime.execute import execute, nbytes_kept
from fp8load.runtime.experts import ScaledExperts, experts_of
from fp8load.runtime.intake import MAX_HELD_NBYTES
from fp8load.runtime.layers import ScaledLinear
from fp8load.runtime.live import Live
from fp8load.runtime.load_online import read_online
from fp8load.runtime.memory import allocate
from fp8load.runtime.parameters import TypedParameter, make_parameter
from fp8load.runtime.place import place, refuse_moved
from fp8load.runtime.reload import Reloaded, Reloader, Update
from fp8load.runtime.requantize import Requantize, checked, requantize_to_max_
from fp8load.runtime.seal import seal
from fp8load.runtime.segments import Segment, segments
from fp8load.runtime.stats import LoadStats
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.runtime.sharing import Group

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
        self,
        plan: FusionPlan,
        layers: dict[str, Layer],
        tensors: dict[str, torch.Tensor],
        *,
        stats: LoadStats,
        requantize_max: bool = False,
    ) -> None:
        self.plan, self.stats = plan, stats
        self.tensors: Mapping[str, torch.Tensor] = tensors
        self._layers = layers
        self._placed: list[ref[torch.nn.Module]] = []
        self._reloader = Reloader(Live(plan, layers, tensors), requantize_max=requantize_max)

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
        copied. A parameter that several modules share gets its tensor, or its layer, in all of them. `strict`: a name
        without a place, a parameter that would stay as it is, or a buffer of the module's state that would stay on the
        meta device, raises `LoadError` FILL711; so does, strict or not, a name that something else has. Nothing is
        changed then. Buffers that are computed (rotary tables) are the module's own affair.
        """
        place(self._layers, self.tensors, module, strict=strict)
        self._placed.append(ref(module))

    def reload(self, update: Update, *, max_held_nbytes: int = MAX_HELD_NBYTES) -> Reloaded:
        """New weights into the parameters that are there: addresses stay, and what was derived follows.

        `update` is a checkpoint (a `Checkpoint`, a path or a repository), a mapping or an iterable of (name, tensor),
        or an iterator of chunks, each of them a mapping or a list of pairs. Names, shapes and dtypes are those of files
        (`plan.contract`), tensors are whole, and this rank takes its piece; a part of the model is enough. A weight
        comes with its scales, or alone in 16 or 32 bits, and is quantized to its layer's scheme. docs/reload.md has the
        rules.

        What does not fit is refused before anything is written: with a mapping, all of it; with chunks, what came in
        whole groups before is new, and `mixed` says so. Chunks may hold back `max_held_nbytes` of what is incomplete.
        Each decoder layer is made ready in memory of its own, and then written as a whole: one that cannot be has its
        old weights again (`torn`, where not even that can be done).
        Raises `LoadError` (FILL720 to FILL730), and for a checkpoint what `open` and `plan` raise.
        """
        for module in filter(None, (placed() for placed in self._placed)):
            refuse_moved(self.tensors, module)
        return self._reloader.reload(update, max_held_nbytes)

    @property
    def mixed(self) -> tuple[str, ...]:
        """The layers, and other tensors, that are newer than the rest, after an update that broke off; usually none."""
        return self._reloader.mixed

    @property
    def torn(self) -> tuple[str, ...]:
        """The layers, and other tensors, that hold neither old nor new weights, because an update broke off while one
        was written and its old values could not be put back; usually none.

        Such a layer raises `UnfilledSlotError` when it is called, until an update brings all of what was torn. Other
        tensors, and captured graphs, cannot refuse: look here after a reload that raised FILL730.
        """
        return self._reloader.torn

    def __repr__(self) -> str:
        return f"LoadedModel({self.plan.rank}: {len(self)} quantized layers, {len(self.tensors)} other tensors)"


def load_plan(
    plan: FusionPlan,
    *,
    device: str,
    backend: Asked,
    requantize: str | None,
    progress: Progress | None,
    group: Group | None = None,
) -> LoadedModel:
    """Allocate, poison, read, seal, prepare. See `FusionPlan.load`."""
    where, to = torch_device(device), checked(requantize)

    def load(read: Callable[[Iterable[Segment]], None]) -> LoadedModel:
        return _loaded(plan, where, read, backend=backend, requantize=to, progress=progress)

    if group is None:
        return load(lambda found: execute(plan, found, where, progress))
    from fp8load.runtime.sharing import Host, execute_together

    host = Host(group, where)
    with host.together():
        return load(lambda found: execute_together(plan, found, where, host, progress))


def _loaded(
    plan: FusionPlan,
    where: torch.device,
    read: Callable[[Iterable[Segment]], None],
    *,
    backend: Asked,
    requantize: Requantize | None,
    progress: Progress | None,
) -> LoadedModel:
    """`read` reads what is stored as it will be held; what is quantized first is read alone on every rank."""
    start = time.perf_counter()
    choose_all(plan, device_of(where), backend)  # a backend that refuses is known before the first byte is read
    storage = allocate(plan.params.values(), where)
    typed = {layer.name: _parameters(plan, layer, storage) for layer in plan.layers.values()}
    tensors = {name: storage[name] for name, spec in plan.params.items() if spec.module not in typed}
    kv = {name for name in tensors if plan.params[name].role in KV_ROLES}
    start_read = time.perf_counter()
    if plan.base is None:
        read(segments(plan.copies, plan.tensors, storage))
    else:
        read_online(plan, plan.base, storage, progress)
    seconds_read = time.perf_counter() - start_read
    by_name = {param.full_name: param for params in typed.values() for param in params.values()}
    for copy in plan.copies:
        if copy.param in by_name:
            by_name[copy.param].mark_written(copy.slot)
    _seal(plan, by_name)
    _check_kv(plan, {name: tensors[name] for name in kv})
    single = {
        name: ScaledLinear.from_spec(
            plan.layers[name], params, backend=asked_of(plan.layers[name], backend, device_of(where))
        )
        for name, params in typed.items()
        if plan.layers[name].experts is None
    }
    experts = experts_of(plan.layers, typed, backend)
    if requantize == "max":
        for layer in (*single.values(), *(stack for pair in experts.values() for stack in (pair.w13, pair.w2))):
            requantize_to_max_(layer)
    layers: dict[str, Layer] = {**single, **experts}
    stats = LoadStats(
        nbytes=nbytes_kept(plan.base or plan), seconds_read=seconds_read, seconds=time.perf_counter() - start
    )
    return LoadedModel(plan, layers, tensors, stats=stats, requantize_max=requantize == "max")


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
