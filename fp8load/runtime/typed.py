"""The typed parameter: a torch Parameter that knows its slots, what fills each of them, and which are filled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch

from fp8load.boxes import Box
from fp8load.dtypes import DType
from fp8load.errors import LoadError, Problem
from fp8load.plan.layout import ParamLayout, SlotSource
from fp8load.runtime.dtypes import describe, fill_poison, stored_shape, torch_dtype
from fp8load.runtime.slots import ShardId, cut, is_scale, refuse_shared_blocks, select, slots_of_expert
from fp8load.scheme import Granularity, PerBlock, Role


class TypedParameter(torch.nn.Parameter):
    """One parameter of a linear layer, on one rank.

    param_layout  role, dtype, shape on this rank, and for each slot the tensor and the piece of it that fills it
                  (`layout` is taken: torch tensors have one)
    full_name     module and role, e.g. "model.layers.0.self_attn.qkv_proj.weight_scale"
    granularity   of the scale that it holds; None for weights and biases
    num_rows      slot -> rows of its weight on disk; only block scales need it, to be cut where they are fused on disk
    written       slot -> whether it was written
    torn          slots that hold neither old nor new values, because an update broke off while it wrote them
    num_writes    counts writes, so that a layer sees that what it derived from the parameter is stale

    Given `storage`, a tensor of the right dtype and shape, the parameter is a view of it, else it allocates. Scales
    start as NaN bytes, weights and biases uninitialised. Never requires a gradient. Raises `LoadError` FILL706 where
    `storage` does not fit.
    """

    param_layout: ParamLayout
    full_name: str
    granularity: Granularity | None
    num_rows: dict[str, int]
    written: dict[str, bool]
    torn: set[str]
    num_writes: int

    def __new__(
        cls,
        layout: ParamLayout,
        name: str,
        *,
        granularity: Granularity | None = None,
        num_rows: Mapping[str, int] | None = None,
        storage: torch.Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Allocate, or take `storage`."""
        shape, dtype = stored_shape(layout.dtype, layout.shape), torch_dtype(layout.dtype)
        if storage is None:
            storage = torch.empty(shape, dtype=dtype, device=device)
        elif tuple(storage.shape) != shape or storage.dtype != dtype:
            raise LoadError(Problem(
                code="FILL706", message="the storage does not fit the parameter", tensor=name,
                expected=f"{layout.dtype} {list(shape)}", got=f"{describe(storage.dtype)} {list(storage.shape)}",
            ))  # fmt: skip
        made = torch.Tensor._make_subclass(cls, storage.detach(), False)
        made.param_layout = layout
        made.full_name = name
        made.granularity = granularity
        made.num_rows = dict(num_rows or {})
        made.written = {source.slot: False for source in layout.sources}
        made.torn = set()
        made.num_writes = 0
        if is_scale(layout.role) and made.device.type != "meta":
            fill_poison(made.detach(), layout.dtype)
        return made

    def weight_loader(
        self, param: TypedParameter, loaded: torch.Tensor, shard_id: ShardId = None, expert_id: int | None = None
    ) -> None:
        """Write a whole tensor, as it is on disk, into the slots that `shard_id` names; this rank takes its piece.

        `param` is the parameter to write, by the engines' convention usually the one that the loader was taken from.
        `loaded` is [N, K] for a weight, and a scale in any dialect of its granularity. A written slot may be written
        again: in place, same address. In a stack of experts `expert_id` says whose tensor it is, by the checkpoint's
        count, and one that another rank holds is left out; without it the tensor has all experts on its first axis, or
        is one number for all. A tensor of several parts has one after the other: q, k and v that lie in groups of rows
        go through `fp8load.runtime.groups.ungroup_qkv` first. Raises `LoadError` (FILL702 dtype, FILL703 shape, FILL704
        shard id, FILL705 blocks that span two slots), and then nothing was written.
        """
        param.load(loaded, shard_id, expert_id)

    def load(self, loaded: torch.Tensor, shard_id: ShardId = None, expert_id: int | None = None) -> None:
        """`weight_loader` of this parameter itself."""
        if self.experts:
            self._load_experts(loaded, shard_id, expert_id)
            return
        if expert_id is not None:
            raise LoadError(Problem(code="FILL704", message="the parameter holds no experts", tensor=self.full_name,
                                    expected="no expert_id", got=str(expert_id)))  # fmt: skip
        self._load_slots(loaded, shard_id)

    def _load_experts(self, loaded: torch.Tensor, shard_id: ShardId, expert_id: int | None) -> None:
        """Fill slots of one expert, or of all that this rank holds. What does not fit is refused before any is."""
        wanted = self.experts if expert_id is None else [expert_id]
        named = [(expert, slots_of_expert(self.param_layout, expert, shard_id)) for expert in wanted]
        each = loaded.numel() == 1 or expert_id is not None
        if not each and (loaded.dim() == 0 or loaded.shape[0] <= max(wanted)):
            raise LoadError(Problem(
                code="FILL703", message="a tensor of this shape does not hold every expert", tensor=self.full_name,
                expected=f"[more than {max(wanted)}, ...], or an expert_id",
                got=f"{describe(loaded.dtype)} {list(loaded.shape)}",
            ))  # fmt: skip
        for expert, slots in named:
            if slots:
                self._load_slots(loaded.reshape(()) if each and loaded.numel() == 1 and expert_id is None
                                 else loaded if each else loaded[expert], slots)  # fmt: skip

    def _load_slots(self, loaded: torch.Tensor, shard_id: ShardId) -> None:
        sources = select(self.param_layout, shard_id, self.full_name)
        data = self.checked(loaded, sources)
        for source, part in list(self._cut(data, sources)):
            self._write(source, part)

    def load_column_parallel_weight(self, loaded: torch.Tensor) -> None:
        """Write the tensor of a layer that is split over its output rows: all slots, one in most layers."""
        self.load(loaded)

    def load_row_parallel_weight(self, loaded: torch.Tensor) -> None:
        """Write the tensor of a layer that is split over its input columns."""
        self.load(loaded)

    def load_merged_column_weight(self, loaded: torch.Tensor, shard_id: ShardId = None) -> None:
        """Write one, several or all parts of a merged layer: "gate", 0, (0, 1), None."""
        self.load(loaded, shard_id)

    def load_qkv_weight(self, loaded: torch.Tensor, shard_id: ShardId = None) -> None:
        """Write "q", "k", "v", a tuple of them, or all from one tensor. KV heads that ranks share are repeated."""
        self.load(loaded, shard_id)

    def mark_written(self, slot: str) -> None:
        """Record that `slot` was written, by `weight_loader` or straight into the memory.

        Raises `LoadError` FILL704 for a slot that the parameter does not have.
        """
        if slot not in self.written:
            select(self.param_layout, slot, self.full_name)  # says what is wrong with it
        self.written[slot] = True
        self.torn.discard(slot)
        self.num_writes += 1

    def mark_torn(self, slot: str) -> None:
        """Record that what `slot` holds is of no use: the layer refuses to run until it is written again."""
        self.written[slot] = False
        self.torn.add(slot)
        self.num_writes += 1

    @property
    def experts(self) -> list[int]:
        """The experts of a stack, in its order; none for the parameter of one layer."""
        numbers = (source.slot.partition(".") for source in self.param_layout.sources)
        return list(dict.fromkeys(int(number) for number, dot, _ in numbers if dot and number.isdigit()))

    @property
    def slot_rows(self) -> list[slice]:
        """Each slot's place along axis 0, in fused order."""
        return [slice(source.dst.lo[0], source.dst.hi[0]) for source in self.param_layout.sources]

    def slot_view(self, source: SlotSource) -> torch.Tensor:
        """The slot's place in the parameter, sharing its memory."""
        return self.detach()[self._stored(source.dst).slices()]

    def _write(self, source: SlotSource, part: torch.Tensor) -> None:
        view = self.slot_view(source)
        piece = part[self._stored(source.src).slices()]
        view.copy_(piece.reshape(view.shape))
        self.mark_written(source.slot)

    def _cut(self, loaded: torch.Tensor, sources: tuple[SlotSource, ...]) -> Iterator[tuple[SlotSource, torch.Tensor]]:
        if isinstance(self.granularity, PerBlock) and len(sources) > 1:
            refuse_shared_blocks(sources, self.granularity, self.num_rows, self.full_name)
        stored = [source._replace(shape=stored_shape(self.param_layout.dtype, source.shape)) for source in sources]
        for source, (_, part) in zip(sources, cut(loaded, stored, self.granularity, self.full_name), strict=True):
            yield source, part

    def _stored(self, box: Box) -> Box:
        return Box(stored_shape(self.param_layout.dtype, box.lo), stored_shape(self.param_layout.dtype, box.hi))

    def checked(self, loaded: torch.Tensor, sources: tuple[SlotSource, ...]) -> torch.Tensor:
        """The tensor, if its dtype may go into this parameter: the same one, or 16-bit floats into F32 (exact).

        Names that files have for the same bytes (U8 for F8_E8M0, U8 and I8 for two F4) are taken as this parameter's
        dtype, sharing memory. Raises `LoadError` FILL702.
        """
        if loaded.dtype in _SAME_BYTES.get(self.param_layout.dtype, ()):
            return loaded.view(self.dtype)
        widens = loaded.dtype in (torch.bfloat16, torch.float16) and self.param_layout.dtype is DType.F32
        if loaded.dtype == self.dtype or (widens and self.param_layout.role is not Role.WEIGHT):
            return loaded
        slots = ", ".join(source.slot for source in sources)
        raise LoadError(Problem(
            code="FILL702", message=f"a tensor of this dtype may not be written into slot {slots}",
            tensor=self.full_name, expected=f"{self.param_layout.dtype} {[list(s.shape) for s in sources]}",
            got=f"{describe(loaded.dtype)} {list(loaded.shape)}", hint=_dtype_hint(self.param_layout, loaded.dtype),
        ))  # fmt: skip

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        del protocol
        return _restore, (type(self), self.detach(), self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if id(self) not in memo:
            memo[id(self)] = _restore(type(self), self.detach().clone(), copy.deepcopy(self.__dict__, memo))
        found: Self = memo[id(self)]
        return found


_SAME_BYTES: dict[DType, tuple[torch.dtype, ...]] = {
    DType.I4: (torch.int8,),
    DType.F4: (torch.int8, torch.float4_e2m1fn_x2),
    DType.F6_E2M3: (torch.int8,),
    DType.F6_E3M2: (torch.int8,),
    DType.F8_E8M0: (torch.uint8,),
    DType.U8: (torch.float8_e8m0fnu,),
}
"""What files and torch call the bytes of a parameter of this dtype, beside its own torch dtype."""


def _restore(cls: type[TypedParameter], data: torch.Tensor, attributes: dict[str, Any]) -> TypedParameter:
    """A copied or unpickled parameter: what it holds and what it knows, without poisoning it again."""
    param = torch.Tensor._make_subclass(cls, data, False)
    param.__dict__.update(attributes)
    return param


def _dtype_hint(layout: ParamLayout, got: torch.dtype) -> str:
    if layout.role is Role.WEIGHT and got.is_floating_point and got.itemsize > 1:
        return "the checkpoint keeps this module unquantized: leave it out of the scheme, or quantize it first"
    if is_scale(layout.role) and got in (torch.uint8, torch.float8_e8m0fnu):
        return "these bytes are exponents (2 ** (byte - 127)), not numbers: the scheme must say so in scale_dtype"
    return ""
