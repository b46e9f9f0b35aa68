"""Experts that one tensor holds for all: taken apart, so that each expert is a module of its own.

Sources: transformers' fused experts (`experts.gate_up_proj` [E, 2I, H], or [E, H, 2I] in gpt-oss and Llama 4, with
`_bias`, `_scale`, `_scale_inv`, `_weight_scale`, ... behind the parameter's name); gpt-oss (`_blocks` [E, 2I, H/32, 16]
and `_scales`); Step (`moe.gate_proj.weight` [E, I, H]); transformers' FP8 export, which writes weights expert by expert
and their scales for all experts in one tensor.

A piece is a part of a stored tensor: its bytes are a range of the tensor's, its name is the tensor's with the expert's
number behind, "...experts.gate_up_proj_blocks[3]". From here on it is a tensor like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.formats.base import CheckpointFormat, Claimed
from fp8load.index.index import TensorMeta
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, Role

FUSED_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "w13": ("w1", "w3")}
"""What a tensor that holds the scales of two modules of each expert is called, and the modules in its order."""

_BYTES = frozenset({DType.U8, DType.I8})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One module of all experts, as it is stored: `experts.gate_up_proj` with the tensors of its roles."""

    base: str
    roles: Mapping[Role, TensorMeta]

    @property
    def tails(self) -> dict[Role, str]:
        """What stands behind the stack's name in each role's: "_scales", ".weight"."""
        return {role: meta.name[len(self.base) :] for role, meta in self.roles.items()}


@dataclass(kw_only=True)
class Unstacked:
    """What `unstack` found.

    stacks      module of one expert -> the stack that it was taken from
    transposed  module of one expert -> its roles whose bytes lie columns first
    pieces      stored tensor -> the names of its pieces, which hold it exactly
    metas       piece -> its place in the file
    shared      what stands behind the names of tensors that hold the scales of modules stored one by one, by role
    """

    stacks: dict[str, Stack] = field(default_factory=dict)
    transposed: dict[str, frozenset[Role]] = field(default_factory=dict)
    pieces: dict[str, list[str]] = field(default_factory=dict)
    metas: dict[str, TensorMeta] = field(default_factory=dict)
    shared: dict[Role, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def stored(self, module: str) -> str:
        """The module as it is stored: of one expert's, the one of all."""
        stack = self.stacks.get(module)
        return module if stack is None else stack.base

    @cached_property
    def tails(self) -> Mapping[Role, str]:
        """What stands behind the names of stacks, by role; of several, the last stack's."""
        return {role: tail for stack in self.stacks.values() for role, tail in stack.tails.items()}


def unstack(
    modules: dict[str, dict[Role, TensorMeta]],
    fmt: CheckpointFormat,
    known: Mapping[str, tuple[int, int]],
    *,
    transposed: bool,
) -> Unstacked:
    """Replace stacked modules in `modules` by those of each expert.

    `known` are the last two components of stacks that the family has, with the shape [N, K] of one expert; what is
    quantized and has three axes is a stack in any family. `transposed`: the family publishes its stacks columns first,
    which counts where shapes do not say it.
    """
    found = Unstacked()
    for base in [*modules]:
        roles = modules[base]
        weight = roles.get(Role.WEIGHT)
        if weight is None:
            _share_scales(modules, base, found)
        elif _is_stack(base, weight, known):
            stack = Stack(base=base, roles=modules.pop(base))
            claim = fmt.claim(base)
            scheme = claim.scheme if isinstance(claim, Claimed) else None
            columns_first = _columns_first(stack, scheme, known.get(_in_stack(base)), transposed=transposed)
            modules.update(_taken_apart(stack, found, columns_first=columns_first))
    return found


def member(base: str, expert: int) -> str:
    """The module of one expert: "mlp.experts.gate_up_proj" -> "mlp.experts.3.gate_up_proj"."""
    parent, _, last = base.rpartition(".")
    return f"{parent}.{expert}.{last}"


def stored_name(name: str, pieces: Mapping[str, object]) -> str:
    """The stored tensor that a piece is a part of; any other name is its own."""
    whole = name.rpartition("[")[0]
    return whole if whole in pieces else name


def stored_problems(problems: Iterable[Problem], pieces: Mapping[str, object]) -> Iterator[Problem]:
    """Problems under the names of stored tensors; what is wrong with every piece of a tensor is said once."""
    said: set[tuple[str, str, str]] = set()
    for problem in problems:
        name = stored_name(problem.tensor, pieces)
        key = (problem.code, name, problem.message)
        if not name or key not in said:
            said.add(key)
            yield problem if name == problem.tensor else replace(problem, tensor=name)


def of_expert(module: str) -> tuple[str, str] | None:
    """The other way round: "mlp.experts.3.up_proj" -> ("mlp.experts", "up_proj"); None for a module of no expert."""
    parent, _, last = module.rpartition(".")
    above, _, number = parent.rpartition(".")
    return (above, last) if number.isdigit() else None


def shared_name(module: str, tail: str) -> str | None:
    """The tensor that holds the scales of all experts' modules of this kind: of "mlp.experts.3.up_proj" and "_scale"
    "mlp.experts.gate_up_proj_scale"; None for a module of no expert."""
    one = of_expert(module)
    if one is None:
        return None
    above, last = one
    fused = next((name for name, parts in FUSED_PARTS.items() if last in parts), last)
    return f"{above}.{fused}{tail}"


def _is_stack(base: str, weight: TensorMeta, known: Mapping[str, object]) -> bool:
    if len(weight.shape) < 3:
        return False
    if len(weight.shape) == 4:
        return weight.dtype is DType.U8  # gpt-oss: bytes of a block are an axis of their own
    narrow = weight.dtype.is_fp8 or weight.dtype is DType.F4 or weight.dtype in _BYTES
    return len(weight.shape) == 3 and (narrow or _in_stack(base) in known)


def _in_stack(base: str) -> str:
    """The last two components: "experts.gate_up_proj"."""
    return ".".join(base.split(".")[-2:])


def _taken_apart(
    stack: Stack, found: Unstacked, *, columns_first: bool
) -> Iterator[tuple[str, dict[Role, TensorMeta]]]:
    weight = stack.roles[Role.WEIGHT]
    count = weight.shape[0]
    for meta in stack.roles.values():
        if meta.num_elements > 1 and (not meta.shape or meta.shape[0] != count):
            found.problems.append(Problem(
                code="F8L501", message="a tensor of stacked experts does not have one part for each", tensor=meta.name,
                file=meta.file, expected=f"[{count}, ...], as {weight.name} {weight}", got=str(meta),
                hint="experts were lost or added to one of the two: export both again",
            ))  # fmt: skip
            return
    for expert in range(count):
        name = member(stack.base, expert)
        roles = {role: _piece(meta, expert, count, found) for role, meta in stack.roles.items()}
        swapped = set()
        for role in (Role.WEIGHT, Role.WEIGHT_SCALE) if columns_first else ():
            if role in roles and len(roles[role].shape) == 2:
                shape, num_rows = roles[role].shape[::-1], roles[Role.WEIGHT].shape[0]
                if role is Role.WEIGHT_SCALE and roles[role].num_elements == num_rows:
                    shape = (num_rows, 1)  # one for each row, whichever way round: [E, 1, 2I] and [E, H, 1] in one file
                else:
                    swapped.add(role)
                roles[role] = found.metas[roles[role].name] = roles[role]._replace(shape=shape)
        if swapped:
            found.transposed[name] = frozenset(swapped)
        found.stacks[name] = stack
        yield name, roles


def _piece(meta: TensorMeta, expert: int, count: int, found: Unstacked) -> TensorMeta:
    """One expert's part of a tensor; one number is shared by all."""
    if meta.num_elements == 1 and count > 1:
        return meta
    size = meta.nbytes // count
    begin = meta.begin + expert * size
    name = f"{meta.name}[{expert}]"
    return _add(found, meta, meta._replace(name=name, shape=meta.shape[1:], begin=begin, end=begin + size))


def _add(found: Unstacked, meta: TensorMeta, piece: TensorMeta) -> TensorMeta:
    found.pieces.setdefault(meta.name, []).append(piece.name)
    found.metas[piece.name] = piece
    return piece


def _columns_first(
    stack: Stack, scheme: LinearScheme | None, expert: tuple[int, int] | None, *, transposed: bool
) -> bool:
    """Whether a stack's matrices lie columns first: by the shape of the scale, else by the configured one."""
    weight, scale = stack.roles[Role.WEIGHT], stack.roles.get(Role.WEIGHT_SCALE)
    if len(weight.shape) != 3:
        return False
    if expert is not None and expert[0] != expert[1] and weight.shape[1:] in (expert, expert[::-1]):
        transposed = weight.shape[1:] != expert
    if scheme is None or scale is None or len(scale.shape) < 2:
        return transposed
    per_byte = scheme.storage.elements_per_byte if weight.dtype in _BYTES else 1
    rows, cols = weight.shape[1], weight.shape[2]
    stored = scale.shape[1:] if len(scale.shape) > 2 else (scale.shape[1], 1)
    match scheme.weight.granularity:
        case PerGroup(cols=group):
            straight, swapped = (rows, -(-cols * per_byte // group)), (-(-rows * per_byte // group), cols)
        case PerBlock(rows=bn, cols=bk):
            straight, swapped = (-(-rows // bn), -(-cols // bk)), (-(-rows // bk), -(-cols // bn))
        case PerChannel():
            straight, swapped = (rows, 1), (cols, 1)
            stored = (prod(stored), 1)
        case _:
            return transposed
    if (stored == straight) == (stored == swapped):
        return transposed
    return stored == swapped


def _share_scales(modules: dict[str, dict[Role, TensorMeta]], base: str, found: Unstacked) -> None:
    """Scales of all experts in one tensor, beside weights expert by expert: each module gets its own part."""
    parent, _, last = base.rpartition(".")
    parts = FUSED_PARTS.get(last, (last,))
    bases = [f"{parent}.{part}" for part in parts]
    owners = [[member(base, expert) for base in bases] for expert in range(_count(modules, bases[0]))]
    if not owners or not all(name in modules for names in owners for name in names):
        return
    for role, meta in [*modules[base].items()]:
        if not _divides(meta, len(owners), len(parts)):
            continue
        del modules[base][role]
        found.shared[role] = meta.name[len(base) :]
        shape = (meta.shape[1] // len(parts), *meta.shape[2:]) if len(meta.shape) > 1 else ()
        size = meta.nbytes // len(owners) // len(parts)
        for expert, names in enumerate(owners):
            for position, name in enumerate(names):
                begin = meta.begin + (expert * len(parts) + position) * size
                at = f"{expert}" if len(parts) == 1 else f"{expert}, {parts[position]}"
                piece = meta._replace(name=f"{meta.name}[{at}]", shape=shape, begin=begin, end=begin + size)
                modules[name].setdefault(role, _add(found, meta, piece))
    if not modules[base]:
        del modules[base]


def _count(modules: Mapping[str, object], base: str) -> int:
    """How many experts are stored one by one, of modules named as `member` does."""
    count = 0
    while member(base, count) in modules:
        count += 1
    return count


def _divides(meta: TensorMeta, num_experts: int, num_parts: int) -> bool:
    """Whether a tensor has one equal part for each module of each expert."""
    shape = meta.shape
    if not shape or shape[0] != num_experts:
        return False
    return num_parts == 1 or (len(shape) > 1 and shape[1] % num_parts == 0)
