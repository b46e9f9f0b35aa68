"""What a tensor holds, where a file cannot say it: elements of 4 or 6 bits in bytes or words, exponents in bytes of U8.

The header says U8 [N, K/2] and U8 [N, K/32]; the format says that these are F4 [N, K] and F8_E8M0 [N, K/32]. Four 6-bit
floats fill three bytes: U8 [N, K * 3 / 4]. Eight 4-bit integers fill a word: I32 [N, K / 8], whose bytes
in the file (which are little endian) hold two of them each, in the order that `Storage` says. From here on only the
logical dtype and shape count; the bytes stay where and what they are. Where the reader has to change them (`Repack`),
or the file has rows that only pad, shapes are those after reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import prod

from fp8load.dtypes import DType, nbytes_of
from fp8load.formats.base import Claimed
from fp8load.formats.contradictions import fits
from fp8load.index.index import TensorMeta
from fp8load.scheme import LinearScheme, NibbleOrder, PerGroup, Repack, Role, ScaleLayout, scale_shape
from fp8load.swizzle import padded_shape

_BYTES = frozenset({DType.U8, DType.I8})
_WORDS = frozenset({DType.I32})
_SIGNED = frozenset({DType.I8})
_REORDERED = {NibbleOrder.HIGH_FIRST: Repack.SWAP_NIBBLES, NibbleOrder.EVEN_FIRST: Repack.ORDER_WORDS}


def packed_in(scheme: LinearScheme) -> frozenset[DType]:
    """The dtypes under which a header shows packed elements: bytes; of integers signed ones, or words of 32 bits.

    Words in order are the same bytes as signed ones.
    """
    if scheme.weight.dtype is not DType.I4:
        return _BYTES
    in_words = scheme.storage.offset or scheme.storage.nibble_order is NibbleOrder.EVEN_FIRST
    return _WORDS if in_words else _SIGNED | _WORDS


Choices = dict[tuple[int, DType, DType | None], tuple[Claimed, Claimed]]
"""What was decided: (id of a claim, weight dtype, scale dtype) -> that claim, kept alive, and it with one scheme."""


def decided(claim: Claimed, roles: Mapping[Role, TensorMeta], choices: Choices) -> Claimed:
    """The claim with the first of its schemes that the tensors' dtypes agree with; with its own where none does.

    Dtypes decide, names do not: DeepSeek-V4 without an `expert_dtype` stores experts as I8 (two E2M1 floats in a byte)
    or as F8_E4M3. Whether the shapes agree too is for the checks that follow. `choices` remembers: tens of thousands
    of modules are alike.
    """
    if not claim.alternatives:
        return claim
    scale = roles.get(Role.WEIGHT_SCALE)
    key = (id(claim), roles[Role.WEIGHT].dtype, None if scale is None else scale.dtype)
    if key not in choices:
        schemes = (claim.scheme, *claim.alternatives)
        scheme = next((scheme for scheme in schemes if _holds(scheme, roles)), claim.scheme)
        choices[key] = claim, replace(claim, scheme=scheme, alternatives=())
    return choices[key][1]


def _holds(scheme: LinearScheme, roles: Mapping[Role, TensorMeta]) -> bool:
    logical = {**roles, **logical_tensors(roles, scheme)}
    scale = logical.get(Role.WEIGHT_SCALE)
    return logical[Role.WEIGHT].dtype is scheme.weight.dtype and (scale is None or fits(scale.dtype, scheme))


def logical_tensors(roles: Mapping[Role, TensorMeta], template: LinearScheme) -> dict[Role, TensorMeta]:
    """The tensors of a module that are something else than their headers say, as what they are."""
    found: dict[Role, TensorMeta] = {}
    weight, scale = roles[Role.WEIGHT], roles.get(Role.WEIGHT_SCALE)
    bits = template.weight.dtype.bits
    if bits < 8 and weight.dtype in packed_in(template) and weight.shape:
        rows = weight.shape[:-1] if len(weight.shape) < 3 else weight.shape[:-2]  # gpt-oss: [N, K/32, 16]
        row_nbytes = weight.num_elements * weight.dtype.bits // 8 // max(prod(rows), 1)
        if row_nbytes * 8 % bits == 0:
            found[Role.WEIGHT] = weight._replace(dtype=template.weight.dtype, shape=(*rows, row_nbytes * 8 // bits))
    if template.weight.scale_dtype is DType.F8_E8M0 and scale is not None and scale.dtype is DType.U8:
        found[Role.WEIGHT_SCALE] = scale._replace(dtype=DType.F8_E8M0)
    if template.storage.scale_layout is ScaleLayout.SWIZZLED_128X4 and len(weight.shape) == 2:
        _unpadded(roles, template, found)
    return found


def _unpadded(roles: Mapping[Role, TensorMeta], template: LinearScheme, found: dict[Role, TensorMeta]) -> None:
    """Weight and scale of a padded layer. Both are padded to a multiple of the group; only a bias tells the true rows.

    The scale keeps its place in the file, padding included; the weight's first rows are the layer's.
    """
    weight, scale, bias = found.get(Role.WEIGHT, roles[Role.WEIGHT]), roles.get(Role.WEIGHT_SCALE), roles.get(Role.BIAS)
    group = template.weight.granularity
    if not isinstance(group, PerGroup):
        raise TypeError(f"swizzled scales are of groups, not {group}")
    num_rows, num_cols = weight.shape
    if bias is not None and len(bias.shape) == 1 and bias.shape[0] < num_rows <= bias.shape[0] + group.cols - 1:
        shape = (bias.shape[0], num_cols)
        found[Role.WEIGHT] = weight._replace(shape=shape, end=weight.begin + nbytes_of(weight.dtype, shape))
    if scale is None or scale.dtype not in (template.weight.scale_dtype, DType.U8):
        return
    canonical = scale_shape(group, (num_rows, num_cols))
    if scale.shape == padded_shape((canonical[0], canonical[1])):
        rows = found.get(Role.WEIGHT, weight).shape[0]
        dtype = template.weight.scale_dtype or scale.dtype
        found[Role.WEIGHT_SCALE] = scale._replace(dtype=dtype, shape=(rows, canonical[1]))


def num_padding_rows(roles: Mapping[Role, TensorMeta], changed: Mapping[Role, TensorMeta]) -> int:
    """Rows of the stored weight that are beyond the logical one."""
    stored, weight = roles[Role.WEIGHT], changed.get(Role.WEIGHT, roles[Role.WEIGHT])
    return stored.shape[0] - weight.shape[0] if stored.shape and weight.shape else 0


@cache
def with_padding(scheme: LinearScheme, num_rows: int) -> LinearScheme:
    """The scheme of a layer that is stored with `num_rows` more rows; equal questions share one object."""
    return replace(scheme, storage=replace(scheme.storage, padded_rows=num_rows)) if num_rows else scheme


def repacks_of(changed: Mapping[Role, TensorMeta], scheme: LinearScheme) -> dict[str, Repack]:
    """Tensors of a module whose bytes the reader has to change, of those that `logical_tensors` gave."""
    found: dict[str, Repack] = {}
    if scheme.storage.nibble_order in _REORDERED and Role.WEIGHT in changed:
        found[changed[Role.WEIGHT].name] = _REORDERED[scheme.storage.nibble_order]
    if scheme.storage.offset and Role.WEIGHT in changed:
        found[changed[Role.WEIGHT].name] = Repack.REMOVE_OFFSET
    if scheme.storage.scale_layout is ScaleLayout.SWIZZLED_128X4 and Role.WEIGHT_SCALE in changed:
        found[changed[Role.WEIGHT_SCALE].name] = Repack.UNSWIZZLE
    return found
