"""An unquantized checkpoint lowered as if it held FP8: what it becomes where it is quantized while it is loaded.

Weights of linear layers and experts that the family names within its layers keep their names and get a scheme, and a
scale that no file has stands beside each. Routers, embeddings, heads, norms and towers stay as they are. Everything
after lowering (fusing, splitting, the proof, backends, contracts) then sees an FP8 checkpoint; the loader reads the
files by the plan of what they really hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fp8load.archs.base import Experts, Linear
from fp8load.archs.model import Model, expert_entries, is_fused_on_disk
from fp8load.dtypes import BITS, DType, nbytes_of
from fp8load.errors import PlanError, Problem, UsageError
from fp8load.formats.lowered import Lowered, ModuleInfo
from fp8load.formats.match import is_router
from fp8load.formats.stacked import stored_name
from fp8load.index.index import Index, TensorMeta
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    scale_shape,
)

_E4M3 = DType.F8_E4M3
NARROW = (DType.BF16, DType.F16, DType.F32)
SCALE_TAIL = "_scale"

BATCH_NBYTES = 256 << 20
"""Weights that are read together while loading, in bytes as they are stored, unless one alone is larger."""

SCHEMES: Mapping[str, LinearScheme] = {
    "fp8-tensor": LinearScheme(
        weight=QuantSpec(dtype=_E4M3, granularity=PerTensor(), scale_dtype=DType.F32),
        input=QuantSpec(dtype=_E4M3, granularity=PerTensor()),
    ),
    "fp8-channel": LinearScheme(
        weight=QuantSpec(dtype=_E4M3, granularity=PerChannel(), scale_dtype=DType.F32),
        input=QuantSpec(dtype=_E4M3, granularity=PerToken()),
    ),
    "fp8-block": LinearScheme(
        weight=QuantSpec(dtype=_E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
        input=QuantSpec(dtype=_E4M3, granularity=PerGroup(128)),
    ),
}
"""Ways to quantize while loading: inputs are quantized while running, as their kernels want them."""


@dataclass(frozen=True, slots=True)
class Online:
    """A checkpoint as it will be in memory: lowered, its index, and every tensor as what it then is."""

    lowered: Lowered
    index: Index
    tensors: Mapping[str, TensorMeta]


def scheme_of(quantize: str) -> LinearScheme:
    """The scheme of a name. Raises `UsageError` USE016."""
    if quantize not in SCHEMES:
        raise UsageError(Problem(code="USE016", message="no such way to quantize while loading",
                                 expected=", ".join(SCHEMES), got=repr(quantize)))  # fmt: skip
    return SCHEMES[quantize]


def online(model: Model | None, held: Online, quantize: str) -> Online:
    """The checkpoint with the scheme that `quantize` names.

    Raises `UsageError` USE016 for another name, `PlanError` PLAN007 for a checkpoint that is quantized, or that has no
    linear layer of a known family.
    """
    scheme, lowered, tensors = scheme_of(quantize), held.lowered, held.tensors
    done = next((info for info in lowered.modules.values() if info.scheme is not None), None)
    if done is not None:
        raise PlanError(Problem(
            code="PLAN007", message="a checkpoint that is quantized cannot be quantized while it is loaded",
            tensor=done.tensors[Role.WEIGHT].name, file=done.tensors[Role.WEIGHT].file, expected="16 or 32 bits",
            got=str(done.scheme), hint="load it as it is, or dequantize it first",
        ))  # fmt: skip
    names = [] if model is None else list(dict.fromkeys(_modules(model, lowered)))
    if not names:
        raise PlanError(Problem(
            code="PLAN007", message="which of its modules are linear layers is not known",
            tensor=next(iter(tensors), ""), expected="a checkpoint of a known family",
            got="none" if model is None else model.arch.name,
            hint="add the family (one file, docs/adding-a-family.md)",
        ))  # fmt: skip
    return _Lowering(held, scheme).run(names)


def _modules(model: Model, lowered: Lowered) -> Iterator[str]:
    """The modules, as they are stored, of linear layers and experts within the family's layers."""
    for at, entry in model.entries():
        if at in ("", model.prefix):
            continue
        if isinstance(entry, Linear) and not entry.free:
            fused = is_fused_on_disk(entry, at, lowered.modules)
            found = [at + entry.target] if fused else [at + part.module for part in entry.parts]
            yield from (name for name in found if not is_router(name))
        elif isinstance(entry, Experts):
            for linear, prefix in expert_entries(model, lowered.modules, at, entry):
                fused = is_fused_on_disk(linear, prefix, lowered.modules)
                yield from [prefix + linear.target] if fused else [prefix + part.module for part in linear.parts]


class _Lowering:
    """Rewrites modules one by one; shapes of scales follow from those of weights."""

    def __init__(self, held: Online, scheme: LinearScheme) -> None:
        self._lowered, self._index, self._scheme = held.lowered, held.index, scheme
        self._tensors = dict(held.tensors)
        self._stored = dict(held.index.tensors)
        self._pieces = {name: list(pieces) for name, pieces in held.lowered.pieces.items()}
        self._modules = dict(held.lowered.modules)

    def run(self, names: list[str]) -> Online:
        """Every module of `names`, in FP8."""
        for name in names:
            info = self._lowered.modules.get(name)
            if info is not None and info.tensors[Role.WEIGHT].dtype in NARROW:
                self._modules[name] = self._quantized(info)
        lowered = replace(self._lowered, modules=self._modules, pieces=self._pieces)
        return Online(lowered, replace(self._index, tensors=self._stored), self._tensors)

    def _quantized(self, info: ModuleInfo) -> ModuleInfo:
        weight = info.tensors[Role.WEIGHT]
        stored = self._index.tensors[stored_name(weight.name, self._lowered.pieces)]
        itemsize = BITS[stored.dtype] // 8
        begin, end = (weight.begin - stored.begin) // itemsize, (weight.end - stored.begin) // itemsize
        narrow = weight._replace(dtype=self._scheme.weight.dtype, begin=begin, end=end)
        self._stored[stored.name] = stored._replace(dtype=narrow.dtype, begin=0, end=stored.num_elements)
        self._tensors[narrow.name] = narrow
        scale = self._scale(narrow, stored, begin, end)
        return info._replace(
            tensors={**info.tensors, Role.WEIGHT: narrow, Role.WEIGHT_SCALE: scale}, scheme=self._scheme
        )

    def _scale(self, weight: TensorMeta, stored: TensorMeta, begin: int, end: int) -> TensorMeta:
        """A scale that no file has; of a piece, its part of the scales of all."""
        shape = scale_shape(self._scheme.weight.granularity, weight.shape)
        name, nbytes = stored.name + SCALE_TAIL, nbytes_of(DType.F32, shape)
        if weight.name == stored.name:
            scale = TensorMeta(name, DType.F32, shape, stored.file, 0, nbytes)
            self._stored[name] = self._tensors[name] = scale
            return scale
        count = stored.num_elements // (end - begin)
        self._stored[name] = TensorMeta(name, DType.F32, (count, *shape), stored.file, 0, count * nbytes)
        at = begin // (end - begin)
        piece = TensorMeta(f"{name}[{at}]", DType.F32, shape, stored.file, at * nbytes, (at + 1) * nbytes)
        self._pieces.setdefault(name, []).append(piece.name)
        self._tensors[piece.name] = piece
        return piece
