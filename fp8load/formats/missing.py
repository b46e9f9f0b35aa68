"""What a scale that is missing would be called, so that an error names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fp8load.formats.base import CheckpointFormat, Claim, Claimed
from fp8load.formats.stacked import Unstacked, shared_name
from fp8load.index.index import TensorMeta
from fp8load.scheme import Role


class Beside(NamedTuple):
    """What a module's missing scale would be called: as its claim says, where it does, else as in the rest of the
    files. `spelling` is theirs."""

    module: str
    weight: TensorMeta
    claim: Claim
    spelling: Mapping[Role, str]
    apart: Unstacked

    def __call__(self, role: Role) -> str:
        """The tensor for a role."""
        stack = self.apart.stacks.get(self.module)
        if stack is not None:  # as another stack's, if there is one that has it
            return stack.base + self.apart.tails.get(role, f"_{self.spelling[role]}")
        own = dict(self.claim.scheme.suffixes) if isinstance(self.claim, Claimed) else {}
        module = self.weight.name.rpartition(".")[0]
        among = shared_name(module, self.apart.shared[role]) if role in self.apart.shared else None
        return among or f"{module}.{own.get(role) or self.spelling[role]}"


def spelling_of(grouped: Iterable[Mapping[Role, TensorMeta]], fmt: CheckpointFormat) -> dict[Role, str]:
    """What a missing scale would be called: as this checkpoint's first one, else by the format's first suffix."""
    spelling = {role: role.value for role in Role}
    spelling |= {role: suffix for suffix, role in reversed([*fmt.suffixes.items()])}
    spelling |= {role: suffix for suffix, known in fmt.by_module.items() for role in known.roles}
    wanted = {Role.WEIGHT_SCALE, Role.INPUT_SCALE, Role.WEIGHT_GLOBAL_SCALE, Role.INPUT_GLOBAL_SCALE}
    for roles in grouped:
        for role in wanted & roles.keys():
            if not roles[role].name.endswith("]"):
                spelling[role] = roles[role].name.rpartition(".")[2]
                wanted = wanted - {role}
        if not wanted:
            break
    return spelling
