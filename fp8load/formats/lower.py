"""From tensors and a format's claims to schemes: what each module really is, and where claims and tensors disagree.

Total: every tensor ends as a module's role, a KV scale, a loose tensor or an unused one, and every contradiction
becomes a `Problem`. `verify` reports the problems; `plan` and `load` raise the first that refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType

from fp8load.errors import Problem
from fp8load.formats.aliases import ROLES, under_other_names
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored
from fp8load.formats.contradictions import (
    accepted_shapes,
    bias_faults,
    contradiction,
    no_role,
    no_scale,
    no_weight,
    not_quantized,
    orphan,
    quantized_without_claim,
    scalar_faults,
    scale_faults,
    stray_input_scale,
    twice,
)
from fp8load.formats.grouping import group, suffixes_of
from fp8load.formats.logical import Choices, decided, logical_tensors, num_padding_rows, repacks_of, with_padding
from fp8load.formats.lowered import Lowered, ModuleInfo
from fp8load.formats.match import is_embedding, is_router
from fp8load.formats.microscaling import PACKED
from fp8load.formats.missing import Beside, spelling_of
from fp8load.formats.stacked import stored_problems, unstack
from fp8load.formats.transforms import ROLES as TRANSFORMS
from fp8load.formats.transforms import missing_transforms, transform_faults, with_transforms
from fp8load.formats.uniform import mixed_dtypes
from fp8load.formats.unscaled import is_bare, raw_cast
from fp8load.index.index import TensorMeta
from fp8load.scheme import LinearScheme, Repack, Role, ScaleLayout


def lower(
    tensors: Mapping[str, TensorMeta],
    fmt: CheckpointFormat,
    *,
    known: bool = True,
    stacks: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    transposed: bool = False,
    free: Collection[str] = (),
    heads: Collection[str] = (),
    allow_unscaled: bool = False,
) -> Lowered:
    """Join tensors and claims.

    `known`: the family is, which makes a single odd dtype a fault, but for what is `free`, and for F32 in `heads`.
    `stacks` and `transposed`: which tensors hold all experts, and whether they lie columns first, as in
    `fp8load.formats.stacked`. `allow_unscaled`: FP8 weights without a scale are raw casts.
    """
    sorted_out = group(tensors, fmt, suffixes_of(fmt))
    grouped, kv, loose = sorted_out.modules, sorted_out.kv, sorted_out.loose
    scales = _scale_names(grouped, kv)
    apart = unstack(grouped, fmt, stacks, transposed=transposed)
    problems, unused = [*sorted_out.problems, *apart.problems], dict(sorted_out.unused)
    modules: dict[str, ModuleInfo] = {}
    logical: dict[str, TensorMeta] = dict(apart.metas)
    repacks: dict[str, Repack] = {}
    clean, choices = _Clean(), Choices()
    spelling = spelling_of(grouped.values(), fmt)
    for base, roles in grouped.items():
        if Role.WEIGHT not in roles:
            problems.extend(_without_weight(_weight_name(base, fmt), roles, loose))
            continue
        if allow_unscaled and is_bare(roles):
            scheme, faults, left_out = *raw_cast(roles[Role.WEIGHT]), _NOTHING
        else:
            claim = _claim(fmt, apart.stored(base), roles)
            if isinstance(claim, Claimed):
                claim = _understood(decided(claim, roles, choices), roles, logical, repacks)
            alike = _alike(claim, roles)
            if alike in clean:
                scheme, faults, left_out = clean[alike][1], [], _NOTHING
            else:
                beside = Beside(base, roles[Role.WEIGHT], claim, spelling, apart)
                scheme, faults, left_out = _lower_module(base, roles, fmt, claim, beside=beside)
                if scheme is not None and not faults and not left_out:
                    clean[alike] = claim, scheme
        problems.extend(faults)
        for role, reason in left_out.items():
            unused[roles.pop(role).name] = reason
        modules[base] = ModuleInfo(base, roles, scheme, apart.transposed.get(base, frozenset()))
    problems = list(under_other_names(problems, loose))
    problems += [*_without_role(modules, loose, {problem.tensor for problem in problems}), *missing_transforms(modules)]
    problems.extend(mixed_dtypes(tensors, scales, unused, known=known, free=free, heads=heads))
    problems = list(stored_problems(problems, apart.pieces)) if apart.pieces else problems
    return Lowered(modules=modules, kv=kv, loose=loose, unused=unused, logical=logical, pieces=apart.pieces,
                   stacks=apart.stacks, problems=tuple(problems), weight=lambda module: _weight_name(module, fmt),
                   repacks=repacks)  # fmt: skip


def _claim(fmt: CheckpointFormat, module: str, roles: Mapping[Role, TensorMeta]) -> Claim:
    """What the configuration says of a module; of one that it leaves as it was in FP8, what was said before.

    A scale of the tensor or of its rows, where that had blocks, is this tool's: the module is not as it was.
    """
    claim = fmt.claim(module)
    if not isinstance(claim, Ignored) or claim.base is None or not roles[Role.WEIGHT].dtype.is_fp8:
        return claim
    scale, shape = roles.get(Role.WEIGHT_SCALE), roles[Role.WEIGHT].shape
    if scale is None or scale.shape in accepted_shapes(claim.base.scheme, shape):
        return claim.base
    return claim if scale.num_elements in (1, prod(shape[:-1])) else claim.base


def _understood(
    claim: Claimed, roles: dict[Role, TensorMeta], logical: dict[str, TensorMeta], repacks: dict[str, Repack]
) -> Claimed:
    """Replace a module's tensors by what they hold, and note what the reader has to put in order."""
    weight, storage = claim.scheme.weight, claim.scheme.storage
    if weight.scale_dtype is None and weight.dtype.bits >= 8:  # the dialect leaves the bytes open
        return claim
    changed = logical_tensors(roles, claim.scheme)
    if storage.scale_layout is ScaleLayout.SWIZZLED_128X4:
        claim = replace(claim, scheme=with_padding(claim.scheme, num_padding_rows(roles, changed)))
    if storage != PACKED:
        repacks |= repacks_of(changed, claim.scheme)
    roles.update(changed)
    logical.update((meta.name, meta) for meta in changed.values())
    return claim


def _weight_name(module: str, fmt: CheckpointFormat) -> str:
    """A module's weight by its name on disk: dialects call a packed weight, or every quantized one, by another name."""
    claim = fmt.claim(module)
    if isinstance(claim, Claimed):
        packed = claim.scheme.weight.dtype.bits < 8
        alias = next((suffix for suffix, role in fmt.suffixes.items() if role is Role.WEIGHT), None)
        if alias is not None and (packed or fmt.renames_weights):
            return f"{module}.{alias}"
    return f"{module}.{Role.WEIGHT}"


_NO_SCALES = frozenset({Role.WEIGHT, Role.BIAS})


def _scale_names(
    modules: Mapping[str, Mapping[Role, TensorMeta]], kv: Mapping[tuple[str, Role], TensorMeta]
) -> set[str]:
    names = {meta.name for roles in modules.values() for role, meta in roles.items() if role not in _NO_SCALES}
    return names | {meta.name for meta in kv.values()}


def _without_weight(weight: str, roles: dict[Role, TensorMeta], loose: dict[str, TensorMeta]) -> Iterator[Problem]:
    """Scales whose weight is absent are faults; a bias alone is a loose tensor (a LayerNorm's, or a router's)."""
    for role, meta in roles.items():
        if role is Role.BIAS:
            loose[meta.name] = meta
            continue
        yield no_weight(meta, weight)


def _without_role(
    modules: Mapping[str, ModuleInfo], loose: Mapping[str, TensorMeta], said: Collection[str]
) -> Iterator[Problem]:
    """Tensors of a quantized module, or of a part of it, that are no weight, bias or scale: a zero point; or that are
    its second scale, under the name of another dialect."""
    for name, meta in loose.items():
        parent = name.rpartition(".")[0]
        info = modules.get(parent) or modules.get(parent.rpartition(".")[0])
        if info is not None and info.scheme is not None and name not in said:
            role = ROLES.get(name.removeprefix(f"{info.name}."))
            if role is not None and role in info.tensors:
                yield twice(role, meta, info.tensors[role])
            else:
                yield no_role(meta, info.tensors[Role.WEIGHT])


_NOTHING: dict[Role, str] = {}
_Alike = tuple[object, ...]
_Clean = dict[_Alike, tuple[Claim, LinearScheme]]
"""Modules that are alike but for their names -> what is claimed, kept alive because a key has its scheme's id, and the
scheme that they have: nothing is wrong with them, and tens of thousands share it."""
_Lowering = tuple[LinearScheme | None, list[Problem], dict[Role, str]]


def _lower_module(
    name: str,
    roles: Mapping[Role, TensorMeta],
    fmt: CheckpointFormat,
    claim: Claim,
    *,
    beside: Beside,
) -> _Lowering:
    """One module: its scheme, what is wrong, and which of its tensors are left out and why."""
    weight = roles[Role.WEIGHT]
    if weight.dtype.is_wide_float:
        return None, *_unquantized(name, roles, fmt, claim)
    claimed = isinstance(claim, Claimed) and claim.scheme.weight.dtype is weight.dtype
    if isinstance(claim, Ignored) and not weight.dtype.is_fp8 and Role.WEIGHT_SCALE in roles:
        return None, [quantized_without_claim(weight, fmt, claim)], {}  # packed
    if not weight.dtype.is_fp8 and weight.dtype.bits >= 8 and not claimed:
        # Integers and bytes that the configuration does not explain.
        expected = f"{claim.scheme.weight.dtype}, by {claim.by}" if isinstance(claim, Claimed) else "a float"
        fault = Problem(code="F8L105", message="the weight's dtype belongs to no known scheme", tensor=weight.name,
                        file=weight.file, expected=expected, got=str(weight),
                        hint="packed by a tool that the configuration does not name? take both from one export",
                        )  # fmt: skip
        return None, [fault] if len(weight.shape) == 2 else [], {}
    if not isinstance(claim, Claimed):
        return None, [quantized_without_claim(weight, fmt, claim)], {}
    return _quantized(roles, claim.scheme, beside)


def _unquantized(
    name: str, roles: Mapping[Role, TensorMeta], fmt: CheckpointFormat, claim: Claim
) -> tuple[list[Problem], dict[Role, str]]:
    """A weight of 16 bits or more: scales beside it are orphans; a claim that lists it explicitly is contradicted."""
    weight = roles[Role.WEIGHT]
    orphans = {role: meta for role, meta in roles.items() if role not in (Role.WEIGHT, Role.BIAS)}
    problems: list[Problem] = []
    if not orphans and (len(weight.shape) != 2 or is_embedding(name) or is_router(name)):
        return problems, {}
    explained = fmt.unconverted(weight.shape) if isinstance(claim, Claimed) else None
    ignored = isinstance(claim, Ignored)
    problems += [orphan(meta, weight, ignored=ignored, explained=explained) for meta in orphans.values()]
    listed = not orphans and any(fmt.may_cover(entry, name) for entry in fmt.ignore)
    if isinstance(claim, Claimed) and not explained and not listed and (claim.explicit or orphans):
        problems.append(not_quantized(weight, claim, with_scale=bool(orphans)))
    reason = explained or "the weight beside it is not quantized"
    return problems, dict.fromkeys(orphans, reason)


def _alike(claim: Claim, roles: Mapping[Role, TensorMeta]) -> _Alike:
    """What decides how a claimed module is lowered, its name aside."""
    if not isinstance(claim, Claimed):
        return ()
    cut = roles[Role.WEIGHT].name.rfind(".") + 1
    return (id(claim.scheme), *[(role, meta.dtype, meta.shape, meta.name[cut:]) for role, meta in roles.items()])


def _quantized(roles: Mapping[Role, TensorMeta], template: LinearScheme, beside: Beside) -> _Lowering:
    """A quantized weight that the configuration claims: dtype and scales against the template."""
    weight = roles[Role.WEIGHT]
    problems: list[Problem] = []
    if weight.dtype is not template.weight.dtype:
        problems.append(contradiction("F8L105", weight, str(template.weight.dtype), str(weight.dtype)))
    if len(weight.shape) != 2:
        problems.append(contradiction("F8L501", weight, "a matrix [N, K]", str(list(weight.shape))))
        return None, problems, {}
    scale = roles.get(Role.WEIGHT_SCALE)
    if scale is None:
        problems.append(no_scale(weight, template, beside(Role.WEIGHT_SCALE)))
        return None, problems, {}
    problems.extend(scale_faults(scale, weight, template))
    if template.storage.scale_layout is ScaleLayout.SWIZZLED_128X4:  # a bias decides which rows are padding
        problems.extend(bias_faults(roles.get(Role.BIAS), weight))
    used = _used(template)
    left_out = {role: f"no role in {template}" for role in roles if role not in used | TRANSFORMS}
    if Role.INPUT_SCALE in left_out:
        left_out[Role.INPUT_SCALE] = "activations are quantized dynamically, a stored input scale has no use"
        problems.append(stray_input_scale(roles[Role.INPUT_SCALE]))
    for role in used - {Role.WEIGHT, Role.WEIGHT_SCALE, Role.BIAS}:
        problems.extend(scalar_faults(role, weight, roles.get(role), beside(role)))
    problems.extend(transform_faults(roles, template))
    kept = {role: meta for role, meta in roles.items() if role not in left_out}
    return _filled(with_transforms(template, kept), kept), problems, left_out


def _used(template: LinearScheme) -> set[Role]:
    """The roles that a scheme has; all but the bias are needed."""
    used = {Role.WEIGHT, Role.WEIGHT_SCALE, Role.BIAS}
    if template.input_static:
        used.add(Role.INPUT_SCALE)
    if template.second_level is not None:
        used.add(Role.WEIGHT_GLOBAL_SCALE)
    if template.input_global is not None:
        used.add(Role.INPUT_GLOBAL_SCALE)
    return used


def _filled(template: LinearScheme, roles: Mapping[Role, TensorMeta]) -> LinearScheme:
    """The template with the dtypes and the suffixes that the tensors have."""
    activation, second, input_global = template.input, template.second_level, template.input_global
    if activation is not None and Role.INPUT_SCALE in roles:
        activation = replace(activation, scale_dtype=roles[Role.INPUT_SCALE].dtype)
    if second is not None and Role.WEIGHT_GLOBAL_SCALE in roles:
        second = replace(second, dtype=roles[Role.WEIGHT_GLOBAL_SCALE].dtype)
    if input_global is not None and Role.INPUT_GLOBAL_SCALE in roles:
        input_global = replace(input_global, dtype=roles[Role.INPUT_GLOBAL_SCALE].dtype)
    weight = replace(template.weight, scale_dtype=roles[Role.WEIGHT_SCALE].dtype)
    suffixes = tuple((role, meta.name.rpartition(".")[2]) for role, meta in roles.items())
    return replace(template, weight=weight, input=activation, second_level=second, input_global=input_global,
                   suffixes=suffixes)  # fmt: skip
