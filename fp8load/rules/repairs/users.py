"""Which modules a stored tensor is for: a stack of experts is for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.stacked import stored_name
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context
from fp8load.rules.repairs.once import once
from fp8load.scheme import Role


class Use(NamedTuple):
    """A module, and what a tensor (a piece of the stored one, where it is a stack) is in it."""

    module: ModuleInfo
    role: Role

    @property
    def meta(self) -> TensorMeta:
        """The tensor, or the piece."""
        return self.module.tensors[self.role]


@once
def users(context: Context) -> Mapping[str, list[Use]]:
    """Stored tensor -> its uses, in the order of their bytes."""
    lowered = context.checkpoint.lowered
    pieces = lowered.pieces
    table: dict[str, list[Use]] = {}
    for info in lowered.modules.values():
        for role, meta in info.tensors.items():
            name = stored_name(meta.name, pieces) if pieces else meta.name
            table.setdefault(name, []).append(Use(info, role))
    for uses in table.values():
        if len(uses) > 1:
            uses.sort(key=lambda use: use.meta.begin)
    return table
