"""What a checkpoint holds, folded to what engines tell apart: a few entries, however many modules there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import DType
from fp8load.engines.kinds import kind_of
from fp8load.errors import Fp8LoadError
from fp8load.formats.locate import configurations
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.stacked import of_expert, stored_name
from fp8load.rules.fused import FusedGroup, expert_groups, find_groups, is_mixed
from fp8load.rules.listed import Candidates, known_modules
from fp8load.scheme import LinearScheme, Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.engines.ignore import Reading
    from fp8load.engines.profile import Layout
    from fp8load.engines.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Modules that are stored alike: kind and scheme, whether they are routed experts, and how those are stored."""

    kind: str
    scheme: LinearScheme
    is_expert: bool
    layout: Layout
    modules: tuple[ModuleInfo, ...]


class Stored:
    """A checkpoint as rules about engines look at it. Made once, and asked for each profile."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.disagreements: dict[Reading, Sequence[tuple[bool, Verdict]]] = {}
        """What `fp8load.engines.ignore` has found, by the reading of the ignore list."""

    @property
    def format(self) -> str:
        """The dialect, by the name of its file."""
        return self.checkpoint.format.name

    @property
    def family(self) -> str:
        """The model family, or nothing where it is not known."""
        arch = self.checkpoint.arch
        return "" if arch is None else arch.name

    @cached_property
    def held(self) -> tuple[Held, ...]:
        """Quantized modules, folded."""
        stacks = self.checkpoint.lowered.stacks
        groups: dict[tuple[int, bool, bool], tuple[LinearScheme, list[ModuleInfo]]] = {}
        for name, info in self.checkpoint.lowered.modules.items():
            if info.scheme is not None:
                is_stacked = name in stacks  # stacks are of experts, whatever the family calls what holds them
                is_expert = is_stacked or (".experts." in name and of_expert(name) is not None)
                key = (id(info.scheme), is_expert, is_stacked)
                groups.setdefault(key, (info.scheme, []))[1].append(info)
        return tuple(_held(*group, is_expert=key[1], stacked=key[2]) for key, group in groups.items())

    @cached_property
    def by_scale(self) -> Sequence[tuple[Held, DType, Sequence[ModuleInfo]]]:
        """The same, apart by the dtype in which the scales are stored."""
        tensors = self.checkpoint.index.tensors
        found: list[tuple[Held, DType, Sequence[ModuleInfo]]] = []
        for held in self.held:
            groups: dict[DType, list[ModuleInfo]] = {}
            for info in held.modules:
                if Role.WEIGHT_SCALE not in info.tensors:
                    continue
                name, _ = self.stored_tensor(info, Role.WEIGHT_SCALE)
                groups.setdefault(tensors[name].dtype, []).append(info)
            found += [(held, dtype, infos) for dtype, infos in groups.items()]
        return found

    @cached_property
    def ends(self) -> frozenset[str]:
        """Last components of the names of quantized modules."""
        return frozenset(info.name.rpartition(".")[2] for held in self.held for info in held.modules)

    @cached_property
    def experts(self) -> Mapping[str, Sequence[ModuleInfo]]:
        """Modules that hold routed experts, "model.layers.3.mlp.experts", with the linear layers in them."""
        found: dict[str, list[ModuleInfo]] = {}
        for name, info in self.checkpoint.lowered.modules.items():
            one = of_expert(name) if ".experts." in name else None
            if one is not None:
                found.setdefault(one[0], []).append(info)
        return found

    @cached_property
    def names(self) -> Candidates:
        """What entries of ignore lists may name."""
        return Candidates(known_modules(self.checkpoint))

    @cached_property
    def fused(self) -> tuple[FusedGroup, ...]:
        """Layers that engines fuse, with those of their parts that are stored."""
        return tuple(find_groups(self.checkpoint))

    @cached_property
    def routed(self) -> tuple[FusedGroup, ...]:
        """For each layer and projection that module of every routed expert."""
        return tuple(expert_groups(self.checkpoint))

    @cached_property
    def mixed(self) -> tuple[FusedGroup, ...]:
        """Those of them whose parts are stored in different ways."""
        return tuple(group for group in self.fused if is_mixed(group))

    @cached_property
    def beside_quantized(self) -> frozenset[str]:
        """Unquantized modules of layers that engines fuse, others of which are quantized: on the ignore list or not, no
        engine can make one parameter of them."""
        mixed = (*self.mixed, *(group for group in self.routed if is_mixed(group)))
        split = (group.members for group in mixed if any(info.scheme is not None for info in group.members))
        return frozenset(info.name for members in split for info in members if info.scheme is None)

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The quantization configuration that counts, as it is written; empty where there is none."""
        try:
            return next((located.document for located in configurations(self.checkpoint.index)), {})
        except Fp8LoadError:
            return {}  # F8L110 says so

    def stored_tensor(self, info: ModuleInfo, role: Role) -> tuple[str, str]:
        """Name and file of the stored tensor that holds a role of a module, or its weight where there is none."""
        meta = info.tensors.get(role) or info.tensors[Role.WEIGHT]
        return stored_name(meta.name, self.checkpoint.lowered.pieces), meta.file


def _held(scheme: LinearScheme, infos: list[ModuleInfo], *, is_expert: bool, stacked: bool) -> Held:
    layout: Layout = "single"
    if stacked:
        layout = "stacked"
    elif "[" in scheme.suffix(Role.WEIGHT_SCALE):
        layout = "scales-stacked"
    return Held(kind=kind_of(scheme), scheme=scheme, is_expert=is_expert, layout=layout, modules=tuple(infos))
