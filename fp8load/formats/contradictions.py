"""Where a configuration and the tensors it speaks of disagree: each disagreement as a problem under its rule's code."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Unclaimed
from fp8load.index.index import TensorMeta
from fp8load.scheme import (
    Granularity,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    QuantSpec,
    Role,
    ScaleLayout,
    scale_shape,
)
from fp8load.swizzle import padded_shape

_MAY_BE_RAW = (
    "lost? re-export it: a scale of 1 serves wrong numbers. A raw cast? say so: --allow-unscaled, or "
    "allow_unscaled=True"
)


def twice(role: Role, meta: TensorMeta, other: TensorMeta) -> Problem:
    """Two tensors for one role."""
    return Problem(
        code="F8L203", message=f"a module has two tensors for its {role}", tensor=meta.name, file=meta.file,
        expected="one", got=f"also {other.name}", hint="which one is meant? remove the other",
    )  # fmt: skip


_TWO_EXPORTS = "one of the two is of another export: correct the configuration, or export the tensor again"


def contradiction(code: str, meta: TensorMeta, expected: str, got: str) -> Problem:
    """A tensor's dtype or shape is not what the configuration says."""
    return Problem(code=code, message="tensor and configuration contradict each other", tensor=meta.name,
                   file=meta.file, expected=expected, got=got, hint=_TWO_EXPORTS)  # fmt: skip


def quantized_without_claim(weight: TensorMeta, fmt: CheckpointFormat, claim: Claim) -> Problem:
    """A quantized weight that the configuration does not claim."""
    if fmt.name == "unquantized":
        return Problem(
            code="F8L101", message="the weight is quantized and no configuration says so", tensor=weight.name,
            file=weight.file, expected="a quantization_config in config.json", got=f"{weight} and no configuration",
            hint="its scale would be left out; if it has none and is a raw cast, say so: --allow-unscaled, or "
            "allow_unscaled=True",
        )  # fmt: skip
    if isinstance(claim, Ignored):
        return Problem(
            code="F8L303", message="the ignore list covers a module that is stored quantized", tensor=weight.name,
            file=weight.file, expected=f"an unquantized weight, by the entry {claim.by!r}", got=str(weight),
            hint="remove the entry from the list, or dequantize the module",
        )  # fmt: skip
    if isinstance(claim, Unclaimed) and claim.because:
        return Problem(
            code="F8L105", message=f"the weight's scheme cannot be known: {claim.because}", tensor=weight.name,
            file=weight.file, expected=f"an entry for {weight.name.rpartition('.')[0]} in {fmt.place}",
            got=str(weight), hint="sizes of blocks and groups would be guesses: add the list to the configuration",
        )  # fmt: skip
    return Problem(
        code="F8L105", message="no config group claims a module that is stored quantized", tensor=weight.name,
        file=weight.file, expected=f"a group of {fmt.place} whose targets match", got=str(weight),
        hint="add the module to a group's targets",
    )  # fmt: skip


def orphan(meta: TensorMeta, weight: TensorMeta, *, ignored: bool, explained: str | None) -> Problem:
    """A scale beside a weight of 16 bits or more."""
    return Problem(
        code="F8L202", message="a scale stands beside a weight that is not quantized", tensor=meta.name,
        file=meta.file, module=weight.name.rpartition(".")[0], expected=f"a quantized {weight.name}", got=str(weight),
        severity=Severity.WARNING if ignored else Severity.ERROR, refuses=not (ignored or explained),
        hint=explained or ("drop the scale" if ignored else "the weight was replaced, or the scale is a leftover"),
    )  # fmt: skip


def not_quantized(weight: TensorMeta, claim: Claimed, *, with_scale: bool) -> Problem:
    """A linear module that the configuration claims and the file holds in 16 bits or more."""
    return Problem(
        code="F8L302", message="the configuration quantizes a module that is stored unquantized", tensor=weight.name,
        file=weight.file, module=weight.name.rpartition(".")[0], got=str(weight), refuses=False,
        expected=f"{claim.scheme.weight.dtype}, by {claim.by}",
        hint="its scale is stored: was the weight replaced?" if with_scale else "add the module to the ignore list",
    )  # fmt: skip


def no_scale(weight: TensorMeta, template: LinearScheme, name: str) -> Problem:
    """A quantized weight without the scale that would be called `name`."""
    message, hint = "an FP8 weight has no scale", _MAY_BE_RAW
    if not weight.dtype.is_fp8:  # codes of four bits mean nothing alone: no tool casts to them without a scale
        message, hint = f"a weight in {weight.dtype} has no scale", "lost, or left out of this export: export it again"
    return Problem(
        code="F8L201", message=message, tensor=name, file=weight.file, got="no such tensor",
        expected=f"{list(scale_shape(template.weight.granularity, weight.shape))} for {weight.name} {weight}",
        hint=hint,
    )  # fmt: skip


def stray_input_scale(meta: TensorMeta) -> Problem:
    """An input scale that a dynamic scheme has no use for: harmless."""
    return Problem(
        code="F8L106", message="an input scale is stored although activations are dynamic", tensor=meta.name,
        file=meta.file, expected="none", got=str(meta), severity=Severity.INFO, refuses=False,
        hint="harmless, nothing reads it; where it should be read, declare activations static",
    )  # fmt: skip


def no_weight(meta: TensorMeta, weight: str) -> Problem:
    """A scale whose weight, which would be called `weight`, is gone."""
    return Problem(
        code="F8L202", message="a scale has no weight", tensor=meta.name, file=meta.file,
        module=weight.rpartition(".")[0], expected=f"{weight} beside it", got="no such tensor",
        hint="the weight was lost, or the scale is a leftover",
    )  # fmt: skip


def accepted_shapes(scheme: LinearScheme, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Every spelling in which the scale of a weight of `shape` [..., N, K] may be stored, the canonical one first.

    Leading axes (experts) stand in the scale as in the weight.
    """
    canonical = scale_shape(scheme.weight.granularity, shape)
    lead = shape[:-2]
    match scheme.weight.granularity:
        case PerTensor():
            return one_number(lead)
        case PerChannel():
            return (canonical, canonical[:-1])
        case PerBlock():  # ModelOpt's FP8_PB_WO keeps the axes within a block
            return (canonical, (*lead, canonical[-2], 1, canonical[-1], 1))
        case _:
            return (canonical,)


def one_number(lead: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Every spelling of one number for each weight; `lead` are the weight's axes before its rows (experts)."""
    return ((*lead, 1), lead, (*lead, 1, 1))


def scale_faults(scale: TensorMeta, weight: TensorMeta, template: LinearScheme) -> Iterator[Problem]:
    """Dtype and shape of a weight's scale. The template's scale dtype is one that the format fixes, if any."""
    fixed = template.weight.scale_dtype
    if not fits(scale.dtype, template):
        yield contradiction("F8L105", scale, str(fixed) if fixed is not None else "F32, BF16 or F16", str(scale.dtype))
    accepted = accepted_shapes(template, weight.shape)
    if template.storage.offset and isinstance(template.weight.granularity, PerGroup):
        yield from _words_faults(weight, template.weight.granularity)
    if template.storage.scale_layout is ScaleLayout.SWIZZLED_128X4:
        yield from _swizzled_faults(scale, weight, template, accepted[0])
    elif scale.shape not in accepted:
        yield _shape_fault(scale, weight, template, accepted[0])


def _words_faults(weight: TensorMeta, group: PerGroup) -> Iterator[Problem]:
    """Integers packed in words that end within a group: some of the last word's might be padding, and nothing in a
    header says how many."""
    if weight.shape[-1] % group.cols:
        expected = f"columns that fill groups of {group.cols} (eight in each word of 32 bits)"
        yield contradiction("F8L501", weight, expected, str(list(weight.shape)))


def fits(scale: DType, template: LinearScheme) -> bool:
    """Whether a scale's dtype is the one that the template fixes, or else one that says by itself how it is read.

    Floats are numbers; F8_E8M0 is exponents in every file, and a scale of blocks. U8 says nothing by itself.
    """
    fixed = template.weight.scale_dtype
    if fixed is not None:
        return scale is fixed
    in_blocks = isinstance(template.weight.granularity, PerBlock | PerGroup)
    return (scale.is_wide_float and scale is not DType.F64) or (scale is DType.F8_E8M0 and in_blocks)


def _shape_fault(scale: TensorMeta, weight: TensorMeta, template: LinearScheme, canonical: tuple[int, ...]) -> Problem:
    """A scale whose shape is another than the configuration's; where it has the shape of another kind, of which."""
    blocks = template.weight.granularity
    size = f" (weight_block_size [{blocks.rows}, {blocks.cols}])" if isinstance(blocks, PerBlock) else ""
    is_grid = len(scale.shape) == len(weight.shape) and scale.shape[-1] > 1
    undeclared = is_grid and isinstance(blocks, PerTensor)
    kinds = " or ".join(shaped_like(scale.shape, weight.shape))
    return Problem(
        code="F8L502" if undeclared else "F8L501", tensor=scale.name, file=scale.file,
        message="scales of blocks, and the configuration has no block size" if undeclared
        else "the scale's shape does not fit its weight",
        expected=f"{list(canonical)} for {weight.name} {list(weight.shape)}{size}", got=str(list(scale.shape)),
        hint=f"the scale has the shape of {kinds}: correct the configuration if the export used that" if kinds
        else "the scale belongs to another weight, or the block size in the configuration is wrong",
    )  # fmt: skip


_SQUARES = (PerBlock(128, 128), PerBlock(64, 64), PerBlock(32, 32))
USUAL: tuple[Granularity, ...] = (PerTensor(), PerChannel(), *_SQUARES, PerGroup(32), PerGroup(16))
"""What published checkpoints use; only ever named in a hint, because a shape does not prove a block size."""


def shaped_like(scale: tuple[int, ...], weight: tuple[int, ...]) -> list[str]:
    """The usual granularities under which a weight of shape `weight` [..., N, K] has a scale of shape `scale`."""
    specs = ((str(kind), LinearScheme(weight=QuantSpec(dtype=DType.F8_E4M3, granularity=kind))) for kind in USUAL)
    return [name for name, scheme in specs if scale in accepted_shapes(scheme, weight)]


def _swizzled_faults(
    scale: TensorMeta, weight: TensorMeta, template: LinearScheme, logical: tuple[int, ...]
) -> Iterator[Problem]:
    """A swizzled scale has its logical shape, and takes whole tiles of 128 x 4 in the file."""
    stored_rows = weight.shape[0] + template.storage.padded_rows
    padded = padded_shape((stored_rows, logical[1]))
    if scale.shape != logical or scale.nbytes != padded[0] * padded[1]:
        yield Problem(
            code="F8L501", message="the swizzled scale's shape does not fit its weight", tensor=scale.name,
            file=scale.file, got=str(scale),
            expected=f"{template.weight.scale_dtype} {list(padded)} (tiles of 128 x 4) for {weight.name} {weight}",
            hint="the scale belongs to another weight, or lies in rows and the marker is wrong",
        )  # fmt: skip


def bias_faults(bias: TensorMeta | None, weight: TensorMeta) -> Iterator[Problem]:
    """A bias that is not as long as its weight has rows, padding aside."""
    if bias is not None and bias.shape != weight.shape[:1]:
        yield contradiction("F8L501", bias, f"[{weight.shape[0]}] for {weight.name} {weight}", str(list(bias.shape)))


_MISSING = {
    Role.INPUT_SCALE: ("F8L204", "a static input scale is missing"),
    Role.INPUT_GLOBAL_SCALE: ("F8L204", "the global scale of the input is missing"),
    Role.WEIGHT_GLOBAL_SCALE: ("F8L205", "the global scale of the weight is missing"),
}


def scalar_faults(role: Role, weight: TensorMeta, scale: TensorMeta | None, name: str) -> Iterator[Problem]:
    """A scale that is one number for each weight: there, a float. `name` is what a missing one would be called."""
    if scale is None:
        code, message = _MISSING[role]
        yield Problem(
            code=code, message=message, tensor=name, file=weight.file, expected=f"[1] for {weight.name}",
            got="no such tensor", hint="not calibrated, or lost? engines read an arbitrary value: export it again",
        )  # fmt: skip
        return
    if scale.shape not in one_number(weight.shape[:-2]):
        yield Problem(code="F8L501", message=f"the {role} is not one number", tensor=scale.name, file=scale.file,
                      expected="[1]", got=str(list(scale.shape)), hint=_TWO_EXPORTS)  # fmt: skip
    if not scale.dtype.is_wide_float or scale.dtype is DType.F64:
        yield contradiction("F8L105", scale, "F32, BF16 or F16", str(scale.dtype))


def kv_faults(scale: TensorMeta) -> Iterator[Problem]:
    """Dtype and shape of a KV-cache scale: one number, a float."""
    if scale.shape not in ((), (1,), (1, 1)):
        yield Problem(code="F8L501", message="a KV-cache scale is not one number", tensor=scale.name, file=scale.file,
                      expected="[1]", got=str(list(scale.shape)), hint=_TWO_EXPORTS)  # fmt: skip
    if not scale.dtype.is_wide_float or scale.dtype is DType.F64:
        yield contradiction("F8L105", scale, "F32, BF16 or F16", str(scale.dtype))


def no_role(meta: TensorMeta, weight: TensorMeta) -> Problem:
    """A tensor beside a quantized weight that no format of this version knows: it may change what the weight means."""
    return Problem(
        code="F8L105", message="a tensor beside a quantized weight has no role that is known", tensor=meta.name,
        file=meta.file, expected=f"a scale or bias of {weight.name}", got=str(meta),
        hint="written by a newer tool, or a leftover? without it the numbers may be wrong",
    )  # fmt: skip
