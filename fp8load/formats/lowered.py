"""What lowering gives: a checkpoint in the one vocabulary, module by module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.formats.stacked import Stack, of_expert
from fp8load.index.index import TensorMeta
from fp8load.scheme import LinearScheme, Repack, Role


class ModuleInfo(NamedTuple):
    """A module with a weight: its tensors by role, and its scheme; None where the weight is not quantized.

    `transposed` are the roles whose bytes lie columns first; shapes are [N, K] all the same.
    """

    name: str
    tensors: Mapping[Role, TensorMeta]
    scheme: LinearScheme | None
    transposed: frozenset[Role] = frozenset()

    @property
    def bias_dtype(self) -> DType | None:
        """The dtype of its bias, None without one."""
        bias = self.tensors.get(Role.BIAS)
        return None if bias is None else bias.dtype


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A checkpoint in the one vocabulary.

    modules   every module that has a weight, quantized or not
    kv        (attention module, role) -> its stored KV scale, under one spelling
    loose     tensors that are no module's weight, bias or scale
    unused    tensors that are left out, with the reason
    logical   tensors whose header does not say what they hold (packed bytes), as what they are; and pieces of tensors
    pieces    tensor that holds all experts -> the names of its pieces, one for each
    stacks    module of one expert -> the module of all of them that is stored
    repacks   tensors whose bytes lie in another order than memory has them
    problems  where claims and tensors disagree
    weight    module -> what its weight is called on disk, or would be called
    """

    modules: Mapping[str, ModuleInfo]
    kv: Mapping[tuple[str, Role], TensorMeta]
    loose: Mapping[str, TensorMeta]
    unused: Mapping[str, str]
    logical: Mapping[str, TensorMeta]
    pieces: Mapping[str, Sequence[str]]
    stacks: Mapping[str, Stack]
    problems: tuple[Problem, ...]
    weight: Callable[[str], str]
    repacks: Mapping[str, Repack] = field(default_factory=dict)

    def stacked_name(self, module: str, role: Role) -> str | None:
        """What the tensor of all experts would be called that holds `role` of one expert's module, where this
        checkpoint stacks modules of this name, or others of these experts; else None."""
        one = of_expert(module)
        if one is None:
            return None
        above, last = one
        alike = self._alike.get(last, self._beside.get(above))
        return None if alike is None else f"{above}.{last}{alike.get(role, f'_{role}')}"

    def are_stacked(self, experts: str) -> bool:
        """Whether the experts that a module holds are stored as one tensor for all, in part at least."""
        return experts in self._beside

    @cached_property
    def _beside(self) -> Mapping[str, Mapping[Role, str]]:
        """Modules that hold stacks -> what stands behind the names of their tensors."""
        return {stack.base.rpartition(".")[0]: stack.tails for stack in self.stacks.values()}

    @cached_property
    def _alike(self) -> Mapping[str, Mapping[Role, str]]:
        """Last component of stacks -> what stands behind the names of their tensors."""
        tails: dict[str, dict[Role, str]] = {}
        for stack in {stack.base: stack for stack in self.stacks.values()}.values():
            tails.setdefault(stack.base.rpartition(".")[2], {}).update(stack.tails)
        return tails
