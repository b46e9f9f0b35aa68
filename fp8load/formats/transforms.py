"""Tensors that change a weight beside its scales: a factor for each input column, and a low-rank residual.

Source: Model-Optimizer `modelopt.torch.export` and `SVDQuantLinear`: y = Q(x * s) @ W.T + (x * s) @ A.T @ B.T, with
s [K], A [r, K] and B [N, r]. So the weight that acts on x is (W + B @ A) * s. A tool folds s into the layer before
where it can, so which modules keep theirs is not in the configuration: a claim lists what a module may have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.formats.contradictions import contradiction, no_role
from fp8load.index.index import TensorMeta
from fp8load.scheme import LinearScheme, Role, Transform

if TYPE_CHECKING:
    from fp8load.formats.lowered import ModuleInfo

TRANSFORM_ROLES: Mapping[Transform, tuple[Role, ...]] = {
    Transform.PRE_QUANT_SCALE: (Role.PRE_QUANT_SCALE,),
    Transform.LOW_RANK_RESIDUAL: (Role.LOW_RANK_A, Role.LOW_RANK_B),
}
ROLES = frozenset(role for roles in TRANSFORM_ROLES.values() for role in roles)
_NUMBER = re.compile(r"\.\d+(?=\.)")


def transform_roles(scheme: LinearScheme) -> frozenset[Role]:
    """The roles of the tensors that a scheme's transforms consist of."""
    return frozenset(role for transform in scheme.transforms for role in TRANSFORM_ROLES.get(transform, ()))


def with_transforms(scheme: LinearScheme, roles: Mapping[Role, TensorMeta]) -> LinearScheme:
    """A claim's scheme with the transforms that the module really has."""
    if not scheme.transforms:
        return scheme
    kept = tuple(one for one in scheme.transforms if any(role in roles for role in TRANSFORM_ROLES.get(one, ())))
    rank = roles[Role.LOW_RANK_A].shape[0] if Role.LOW_RANK_A in roles and roles[Role.LOW_RANK_A].shape else 0
    return replace(scheme, transforms=kept, residual_rank=rank)


def transform_faults(roles: Mapping[Role, TensorMeta], template: LinearScheme) -> Iterator[Problem]:
    """Transforms that the claim does not know, half of a residual, and shapes and dtypes that do not fit the weight."""
    weight = roles[Role.WEIGHT]
    found = {role: roles[role] for role in sorted(ROLES & roles.keys())}
    allowed = transform_roles(template)
    num_rows, num_cols = weight.shape
    a, b = found.get(Role.LOW_RANK_A), found.get(Role.LOW_RANK_B)
    if (a is None) != (b is None):
        yield _absent(_partner(found, weight), weight, "the other half of a low-rank residual is missing")
    rank = (a.shape or (0,))[0] if a is not None else 0
    shapes = {Role.PRE_QUANT_SCALE: ((num_cols,), (1, num_cols)), Role.LOW_RANK_A: ((rank, num_cols),),
              Role.LOW_RANK_B: ((num_rows, rank),)}  # fmt: skip
    for role, meta in found.items():
        if role not in allowed:
            yield no_role(meta, weight)
            continue
        if meta.shape not in shapes[role] and not (role is Role.LOW_RANK_B and a is None):
            yield Problem(code="F8L501", message=f"the {role} does not fit its weight", tensor=meta.name,
                          file=meta.file, expected=f"{list(shapes[role][0])} for {weight.name} {list(weight.shape)}",
                          got=str(list(meta.shape)), hint="it belongs to another weight: export the layer again",
                          )  # fmt: skip
        if not meta.dtype.is_wide_float or meta.dtype is DType.F64:
            yield contradiction("F8L105", meta, "F32, BF16 or F16", str(meta.dtype))


def _partner(found: Mapping[Role, TensorMeta], weight: TensorMeta) -> str:
    """What the other half of a residual would be called: this half's name, with its last letter changed."""
    half = found.get(Role.LOW_RANK_A) or found[Role.LOW_RANK_B]
    letter = {"a": "b", "b": "a"}.get(half.name[-1])
    return half.name[:-1] + letter if letter else weight.name


def _absent(name: str, weight: TensorMeta, message: str) -> Problem:
    return Problem(
        code="F8L201", message=message, tensor=name, file=weight.file, expected=f"a tensor beside {weight.name}",
        got="no such tensor", hint="without it the layer computes something else: export it again",
    )  # fmt: skip


def missing_transforms(modules: Mapping[str, ModuleInfo]) -> Iterator[Problem]:
    """Quantized modules that lack a transform which the same module of other layers has."""
    having: dict[tuple[str, Role], TensorMeta] = {}
    for info in modules.values():
        if info.scheme is not None and info.scheme.transforms:
            family = _NUMBER.sub(".#", info.name)
            having.update({(family, role): info.tensors[role] for role in ROLES & info.tensors.keys()})
    for info in modules.values() if having else ():
        family = _NUMBER.sub(".#", info.name)
        for role in sorted(ROLES - info.tensors.keys()):
            other = having.get((family, role))
            if other is None or info.scheme is None:
                continue
            suffix = other.name.split(".", info.name.count(".") + 1)[-1]
            message = f"the {role} that the same module of other layers has is missing"
            yield _absent(f"{info.name}.{suffix}", info.tensors[Role.WEIGHT], message)
