"""From schemes and a family to a layout for one rank: which parameters exist and which bytes fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import assert_never

from fp8load.archs.base import Dim, Head, Linear, Table, Tower, Unused, Vector
from fp8load.archs.expected import Model, is_fused_on_disk
from fp8load.boxes import Box, rows, whole
from fp8load.dtypes import DType
from fp8load.errors import PlanError, Problem
from fp8load.formats.lower import Lowered, ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.plan.layout import PartSpan, linear_layout
from fp8load.plan.plan import Copy, LayerSpec, Layout, ParamLayout, ParamSpec, Rank, Skip, SlotSource
from fp8load.plan.shard import CutError, Shard, Span, even_span, kv_head_span, vocab_span, whole_span
from fp8load.scheme import LinearScheme, PerBlock, Role

MIXED = "F8L306"


class SplitError(PlanError):
    """A layer cannot be split for this rank. The caller adds which sizes work."""


class _Builder:
    """Collects parameters and copies; one instance builds one layout."""

    def __init__(self, lowered: Lowered, rank: Rank) -> None:
        self.lowered = lowered
        self.rank = rank
        self.layers: dict[str, LayerSpec] = {}
        self.params: dict[str, ParamSpec] = {}
        self.copies: list[Copy] = []
        self.skips: list[Skip] = [Skip(name, reason) for name, reason in lowered.unused.items()]

    def layout(self) -> Layout:
        return Layout(
            rank=self.rank,
            layers=self.layers,
            params=self.params,
            copies=tuple(self.copies),
            skips=tuple(self.skips),
        )

    def tensor(self, meta: TensorMeta, *, name: str, role: Role, box: Box | None = None) -> None:
        """One tensor, or a box of it, as a parameter of its own."""
        src = whole(meta.shape) if box is None else box
        shape = src.shape if role is Role.WEIGHT else (1,)
        dtype = meta.dtype if role is Role.WEIGHT else DType.F32
        module = name.rpartition(".")[0]
        source = SlotSource("", meta.shape if role is Role.WEIGHT else (1,), src if role is Role.WEIGHT else whole(shape), whole(shape))
        self.params[name] = ParamSpec(name, module, ParamLayout(role, dtype, shape, (source,)))
        cast = dtype if dtype is not meta.dtype else None
        self.copies.append(Copy(meta.name, src, name, "", whole(shape), cast))

    def parameter(self, module: str, layout: ParamLayout, fill: Callable[[int], tuple[TensorMeta, Box]]) -> None:
        """A stacked parameter; `fill` gives the tensor and the box in it for each of the layout's sources."""
        name = f"{module}.{layout.role}"
        self.params[name] = ParamSpec(name, module, layout)
        for position, source in enumerate(layout.sources):
            meta, src = fill(position)
            cast = layout.dtype if layout.dtype is not meta.dtype else None
            self.copies.append(Copy(meta.name, src, name, source.slot, source.dst, cast))


def build(model: Model | None, lowered: Lowered, rank: Rank) -> Layout:
    """The layout for one rank. Raises `SplitError` for a layer that this rank count cannot split.

    Without a family (`model` None) every module is a layer of its own, and tensor parallelism is refused: how an unknown
    family splits is not a thing to guess.
    """
    builder = _Builder(lowered, rank)
    if rank.ep_size != 1:
        raise PlanError(Problem(code="PLAN004", message="expert parallelism needs a family with experts",
                                expected="ep_size=1", got=f"ep_size={rank.ep_size}"))  # fmt: skip
    if model is None:
        _generic(builder)
    else:
        for at, entry in model.entries():
            _entry(builder, model, at, entry)
    for (attention, role), meta in lowered.kv.items():
        builder.tensor(meta, name=f"{attention}.{role}", role=role)
    return builder.layout()


def build_entry(model: Model, lowered: Lowered, at: str, entry: Linear | Head, rank: Rank) -> None:
    """Build one layer and throw it away: only whether it splits is asked. Raises `SplitError`."""
    _entry(_Builder(lowered, rank), model, at, entry)


def _entry(
    builder: _Builder, model: Model, at: str, entry: Linear | Vector | Table | Head | Unused | Tower
) -> None:
    modules, loose = builder.lowered.modules, builder.lowered.loose
    match entry:
        case Linear():
            _linear(builder, model, at, entry)
        case Vector():
            meta = modules[(at + entry.name).rpartition(".")[0]].tensors[Role.WEIGHT]
            builder.tensor(meta, name=meta.name, role=Role.WEIGHT)
        case Table():
            meta = modules[(at + entry.name).rpartition(".")[0]].tensors[Role.WEIGHT]
            span = vocab_span(meta.shape[0], builder.rank)
            builder.tensor(meta, name=meta.name, role=Role.WEIGHT, box=rows(meta.shape, span.begin, span.end))
        case Head():
            if at + entry.module in modules:
                _layer(builder, at + entry.module, _head_parts(model, entry), [modules[at + entry.module]], Shard.VOCAB)
        case Unused():
            if at + entry.name in loose:
                builder.skips.append(Skip(at + entry.name, entry.reason))
        case Tower():
            _tower(builder, entry)
        case _:
            assert_never(entry)


def _tower(builder: _Builder, entry: Tower) -> None:
    prefix = entry.prefix + "."
    for name, info in builder.lowered.modules.items():
        if name.startswith(prefix):
            _one(builder, name, info)
    for name, meta in builder.lowered.loose.items():
        if name.startswith(prefix):
            builder.tensor(meta, name=name, role=Role.WEIGHT)


def _generic(builder: _Builder) -> None:
    if builder.rank.tp_size != 1:
        raise PlanError(Problem(
            code="PLAN002", message="the model's family is not known, so how it splits is not either",
            expected="tp_size=1", got=f"tp_size={builder.rank.tp_size}",
            hint="add the family (one file, docs/adding-a-family.md), or load it whole",
        ))  # fmt: skip
    for name, info in builder.lowered.modules.items():
        _one(builder, name, info)
    for name, meta in builder.lowered.loose.items():
        builder.tensor(meta, name=name, role=Role.WEIGHT)


def _one(builder: _Builder, name: str, info: ModuleInfo) -> None:
    """A module by itself, whole on every rank."""
    weight = info.tensors[Role.WEIGHT]
    if info.scheme is not None:
        _layer(builder, name, [_Rows(name.rpartition(".")[2], weight.shape[0], None)], [info], Shard.REPLICATED)
        return
    for role in (Role.WEIGHT, Role.BIAS):
        if role in info.tensors:
            builder.tensor(info.tensors[role], name=info.tensors[role].name, role=Role.WEIGHT)


class _Rows:
    """A part's slot, its rows on disk, and what its rows count (None: nothing that constrains a split)."""

    __slots__ = ("dim", "num_rows", "slot", "unit")

    def __init__(self, slot: str, num_rows: int, dim: Dim | None, unit: int = 1) -> None:
        self.slot, self.num_rows, self.dim, self.unit = slot, num_rows, dim, unit


def _head_parts(model: Model, entry: Head) -> list[_Rows]:
    return [_Rows(entry.module, model.sizes.vocab_size, Dim.VOCAB)]


def _linear(builder: _Builder, model: Model, at: str, entry: Linear) -> None:
    modules = builder.lowered.modules
    parts = [_Rows(part.slot, model.sizes.of(part.rows), part.rows, model.sizes.head_dim) for part in entry.parts]
    fused = is_fused_on_disk(entry, at, modules)
    infos = [modules[at + entry.target]] if fused else [modules[at + part.module] for part in entry.parts]
    unit = model.sizes.head_dim if entry.cols is Dim.Q else 1
    _layer(builder, at + entry.target, parts, infos, entry.shard, unit)


def _spans(parts: Sequence[_Rows], shard: Shard, rank: Rank) -> list[PartSpan]:
    spans = []
    for part in parts:
        try:
            spans.append(PartSpan(part.slot, part.num_rows, _row_span(part, shard, rank)))
        except CutError as error:
            error.slot = part.slot
            raise
    return spans


def _row_span(part: _Rows, shard: Shard, rank: Rank) -> Span:
    match shard:
        case Shard.ROW | Shard.REPLICATED:
            return whole_span(part.num_rows, rank)
        case Shard.VOCAB:
            return vocab_span(part.num_rows, rank)
        case Shard.COLUMN if part.dim is Dim.KV:
            return kv_head_span(part.num_rows // part.unit, part.unit, rank)
        case Shard.COLUMN:
            return even_span(part.num_rows, rank, unit=part.unit if part.dim is Dim.Q else 1)
        case _:
            assert_never(shard)


def _same_scheme(name: str, infos: Sequence[ModuleInfo]) -> LinearScheme | None:
    """The scheme that all members share; members that are stored differently cannot be one parameter."""
    kinds = {_kind(info): info for info in infos}
    if len(kinds) == 1:
        return infos[0].scheme
    listed = "; ".join(f"{info.name}: {info.scheme or info.tensors[Role.WEIGHT].dtype}" for info in kinds.values())
    raise PlanError(Problem(
        code=MIXED, message=f"members of {name} are stored in different ways", tensor=infos[0].tensors[Role.WEIGHT].name,
        module=name, expected="one scheme for all members", got=listed,
        hint="dequantize the quantized members, or quantize the others",
    ))  # fmt: skip


def _kind(info: ModuleInfo) -> tuple[object, ...]:
    """What must be equal among members: suffixes on disk and scale dtypes may differ, they are widened alike."""
    scheme = info.scheme
    if scheme is None:
        return (info.tensors[Role.WEIGHT].dtype, Role.BIAS in info.tensors)
    stored_input = scheme.input is not None and scheme.input.scale_dtype is not None
    return (scheme.weight.dtype, scheme.weight.granularity, scheme.input and scheme.input.granularity,
            scheme.input_static, stored_input, Role.BIAS in info.tensors)  # fmt: skip


def _layer(
    builder: _Builder, name: str, parts: list[_Rows], infos: list[ModuleInfo], shard: Shard, unit: int = 1
) -> None:
    """A linear layer: its parameters, and from which tensors their slots are filled."""
    rank = builder.rank
    scheme = _same_scheme(name, infos)
    fused = len(infos) < len(parts)
    weight = infos[0].tensors[Role.WEIGHT]
    if fused and scheme is not None and _straddles(parts, scheme):
        # Blocks run across the parts' boundaries on disk, so the parts share scales and can only stay together.
        parts, fused = [_Rows("+".join(part.slot for part in parts), weight.shape[0], None)], False
        shard = Shard.COLUMN
    num_cols = weight.shape[1]
    try:
        spans = _spans(parts, shard, rank)
        cols = even_span(num_cols, rank, unit=unit) if shard is Shard.ROW else whole_span(num_cols, rank)
        bias = infos[0].tensors.get(Role.BIAS)
        keep_bias = bias is not None and not (shard is Shard.ROW and rank.tp_rank > 0)
        layouts = linear_layout(tuple(spans), num_cols, cols, scheme=scheme, dtype=weight.dtype,
                                bias=bias.dtype if bias is not None and keep_bias else None)  # fmt: skip
    except CutError as error:
        at = next((i for i, part in enumerate(parts) if part.slot == error.slot), 0)
        culprit = infos[at if len(infos) == len(parts) else 0].tensors[Role.WEIGHT]
        raise SplitError(Problem(
            code="F8L504", message=f"a layer cannot be split over tp={rank.tp_size}", tensor=culprit.name, module=name,
            file=culprit.file, expected="a split into whole heads and whole blocks", got=str(error),
        )) from error  # fmt: skip
    if bias is not None and not keep_bias:
        builder.skips.append(Skip(bias.name, "a row-parallel bias is added once, by rank 0"))
    if scheme is not None:
        sizes = tuple((span.slot, span.span.end - span.span.begin) for span in spans)
        builder.layers[name] = LayerSpec(name=name, scheme=scheme, parts=sizes, num_cols=cols.end - cols.begin,
                                         fused_on_disk=fused, row_parallel=shard is Shard.ROW)  # fmt: skip
    for layout in layouts:
        builder.parameter(name, layout, _filler(layout, infos, fused=fused))


def _straddles(parts: Sequence[_Rows], scheme: LinearScheme) -> bool:
    granularity = scheme.weight.granularity
    if not isinstance(granularity, PerBlock):
        return False
    return any(part.num_rows % granularity.rows for part in parts[:-1])


def _filler(layout: ParamLayout, infos: list[ModuleInfo], *, fused: bool) -> Callable[[int], tuple[TensorMeta, Box]]:
    """For each source of a parameter: the tensor that holds it, and the box in that tensor's own shape."""
    if not fused:
        return lambda i: _on_disk(infos[i].tensors[layout.role], layout.sources[i].src, layout.sources[i].shape)
    meta = infos[0].tensors[layout.role]
    offsets = list(_offsets(layout, meta))

    def fill(position: int) -> tuple[TensorMeta, Box]:
        src = layout.sources[position].src
        lo = (offsets[position], *(0 for _ in src.lo[1:]))
        return _on_disk(meta, src.shift(lo), None)

    return fill


def _offsets(layout: ParamLayout, meta: TensorMeta) -> Iterator[int]:
    """Where each part begins in the fused tensor; one scale for all parts fills every slot."""
    shared = meta.num_elements == 1 and len(layout.sources) > 1
    offset = 0
    for source in layout.sources:
        yield offset
        offset += 0 if shared else source.shape[0]


def _on_disk(meta: TensorMeta, box: Box, canonical: tuple[int, ...] | None) -> tuple[TensorMeta, Box]:
    """A box of the canonical shape as a box of the shape on disk: [] and [1, 1] for [1], [N] for [N, 1]."""
    shape = meta.shape
    if len(shape) == len(box.lo) and canonical in (None, shape):
        return meta, box
    if meta.num_elements == 1:
        return meta, whole(shape)
    if len(shape) < len(box.lo):
        return meta, Box(box.lo[: len(shape)], box.hi[: len(shape)])
    return meta, box
