"""The contract of a checkpoint, from its headers and schemes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from fp8load.contract import Contract, ContractScheme, ContractTensor
from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.formats.lowered import Lowered, ModuleInfo
from fp8load.formats.stacked import stored_name
from fp8load.index.index import Index, TensorMeta
from fp8load.inspection import source_report
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, PerToken, Repack, Role, Transform
from fp8load.source.base import Source

OF_THE_WEIGHT = (Role.WEIGHT, Role.WEIGHT_SCALE, Role.WEIGHT_GLOBAL_SCALE, Role.PRE_QUANT_SCALE, Role.LOW_RANK_A,
                 Role.LOW_RANK_B)  # fmt: skip
"""What a quantized weight is made of. Scales of the input are not: they are calibrated, and outlive an update."""

_ORDERS = {
    Repack.SWAP_NIBBLES: "the high half of a byte first",
    Repack.REMOVE_OFFSET: "integers with 8 added",
    Repack.ORDER_WORDS: "elements 0, 2, 4, 6, 1, 3, 5, 7 of a word",
    Repack.UNSWIZZLE: "tiles of 128 x 4",
}


def contract_of(source: Source, index: Index, lowered: Lowered) -> Contract:
    """Every tensor of the index, with what it is for."""
    terms = {
        meta.name: ContractTensor(meta.name, meta.dtype.value, meta.shape, "plain") for meta in index.tensors.values()
    }
    groups = _groups(lowered)
    single = _single_scales(lowered)
    for info in lowered.modules.values():
        for term in _terms(info, lowered, groups, online=is_online(info, lowered, single)):
            terms[term.name] = _of_header(term, index.tensors[term.name])
    for (_, role), meta in lowered.kv.items():
        terms[meta.name] = ContractTensor(meta.name, meta.dtype.value, meta.shape, role.value)
    for name in lowered.unused:
        terms[name] = _of_header(ContractTensor(name, "", (), "unused"), index.tensors[name])
    return Contract(
        source=source_report(source, index), digest=index.digest(), schemes=list(_schemes(lowered)),
        tensors=[*terms.values()],
    )  # fmt: skip


def _of_header(term: ContractTensor, meta: TensorMeta) -> ContractTensor:
    return ContractTensor(
        meta.name, meta.dtype.value, meta.shape, term.role, term.group, term.scheme, term.online, term.layout
    )  # fmt: skip


def _groups(lowered: Lowered) -> Mapping[str, str]:
    """Stored tensor -> the name of the group that it comes with: modules that share a tensor are one group."""
    group: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for info in lowered.modules.values():
        if info.scheme is None:
            continue
        names = dict.fromkeys(
            stored_name(info.tensors[role].name, lowered.pieces) for role in OF_THE_WEIGHT if role in info.tensors
        )
        known = list(dict.fromkeys(group[name] for name in names if name in group))
        one = known[0] if known else stored_module(info, lowered)
        members.setdefault(one, [])
        for other in known[1:]:
            for name in members.pop(other):
                group[name] = one
                members[one].append(name)
        for name in names:
            if name not in group:
                group[name] = one
                members[one].append(name)
    return {name: one for name, one in group.items() if len(members[one]) > 1}


def stored_module(info: ModuleInfo, lowered: Lowered) -> str:
    """The module as it is stored: of one expert's, the one of all where these are stacked."""
    stack = lowered.stacks.get(info.name)
    return info.name if stack is None else stack.base


def _single_scales(lowered: Lowered) -> frozenset[str]:
    """Scales, or pieces of them, that belong to one weight alone."""
    uses = Counter(
        info.tensors[Role.WEIGHT_SCALE].name for info in lowered.modules.values() if Role.WEIGHT_SCALE in info.tensors
    )
    return frozenset(name for name, count in uses.items() if count == 1)


def is_online(info: ModuleInfo, lowered: Lowered, single: frozenset[str]) -> bool:
    """Whether a weight of 16 or 32 bits can be quantized to what the module holds."""
    scale, scheme = info.tensors.get(Role.WEIGHT_SCALE), info.scheme
    if scheme is None or scale is None or scale.name not in single or scale.name in lowered.repacks:
        return False
    weight = info.tensors[Role.WEIGHT]
    numbers = scheme.weight.scale_dtype is not None and (
        scheme.weight.scale_dtype.is_wide_float or scheme.weight.scale_dtype in (DType.U8, DType.F8_E8M0)
    )
    plain = (
        not scheme.transforms and scheme.second_level is None and not isinstance(scheme.weight.granularity, PerToken)
    )
    padded = scheme.storage.padded_rows or scheme.storage.padded_cols
    return weight.dtype is scheme.weight.dtype and weight.dtype.is_fp8 and numbers and plain and not padded


def _terms(info: ModuleInfo, lowered: Lowered, groups: Mapping[str, str], *, online: bool) -> Iterator[ContractTensor]:
    for role, meta in info.tensors.items():
        name = stored_name(meta.name, lowered.pieces)
        if info.scheme is None:
            yield ContractTensor(name, "", (), "plain")
            continue
        order = _ORDERS.get(repack) if (repack := lowered.repacks.get(meta.name)) else None
        layout = order or ("columns first" if role in info.transposed else "")
        scheme = str(info.scheme) if role is Role.WEIGHT else None
        yield ContractTensor(
            name, "", (), role.value, groups.get(name), scheme, online and role is Role.WEIGHT, layout
        )  # fmt: skip


def _schemes(lowered: Lowered) -> Iterator[ContractScheme]:
    schemes = [info.scheme for info in lowered.modules.values() if info.scheme is not None]
    counts = Counter(map(id, schemes))
    alike: Counter[str] = Counter()
    first: dict[str, LinearScheme] = {}
    for scheme in {id(scheme): scheme for scheme in schemes}.values():
        alike[str(scheme)] += counts[id(scheme)]
        first.setdefault(str(scheme), scheme)
    for text, count in alike.most_common():
        yield _scheme(first[text], count)


def _scheme(scheme: LinearScheme, count: int) -> ContractScheme:
    weight, how = scheme.weight, "not quantized"
    if scheme.input is not None:
        how = f"{'static' if scheme.input_static else 'dynamic'} {scheme.input.granularity}"
    block = None
    if isinstance(weight.granularity, PerBlock):
        block = (weight.granularity.rows, weight.granularity.cols)
    elif isinstance(weight.granularity, PerGroup):
        block = (1, weight.granularity.cols)
    return ContractScheme(
        scheme=str(scheme), count=count, real=_real(scheme), weight_dtype=weight.dtype.value,
        granularity=str(weight.granularity), block=block, scale_dtype=weight.scale_dtype and weight.scale_dtype.value,
        rounding=scheme.rounding.value, largest=LARGEST_FINITE.get(weight.dtype), input=how,
    )  # fmt: skip


def _real(scheme: LinearScheme) -> str:
    """What a code means, as a formula of the roles."""
    text = "code"
    if scheme.weight.scale_dtype in (DType.U8, DType.F8_E8M0):
        text += " * 2 ** (weight_scale - 127)"
    elif scheme.weight.scale_dtype is not None:
        text += " * weight_scale"
    if scheme.second_level is not None:
        text += " / weight_global_scale" if scheme.second_level.divides else " * weight_global_scale"
    if Transform.LOW_RANK_RESIDUAL in scheme.transforms:
        text = f"({text} + low_rank_b @ low_rank_a)"
    return f"{text} * pre_quant_scale" if Transform.PRE_QUANT_SCALE in scheme.transforms else text
