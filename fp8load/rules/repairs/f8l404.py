"""F8L404: a tensor of all experts that lies across is turned, expert by expert."""

from collections.abc import Iterator
from functools import partial

from fp8load.errors import Problem, Severity
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.config import number
from fp8load.rules.f8l404_expert_3d_layout import PAIRS
from fp8load.rules.repairs.users import users
from fp8load.scheme import PerBlock, PerTensor, Role, scale_shape
from fp8load.source.base import Source
from fp8load.writing.actions import Remake
from fp8load.writing.transpose import transposed


def actions(context: Context, problem: Problem) -> Iterator[Remake]:
    """To [E, out, in], as linear layers lie: the hidden size says which tensor does not, and what its scale does.

    Nothing for a note: a layer that lies as linear layers do may be the odd one where the transpose is published."""
    tensors = context.checkpoint.index.tensors
    found, hidden = tensors.get(problem.tensor), number(context.checkpoint.index.config, "hidden_size")
    if found is None or hidden is None or problem.severity is Severity.INFO:
        return
    uses = users(context).get(found.name, [])
    if uses and uses[0].role is Role.WEIGHT_SCALE:
        weight = tensors.get(uses[0].module.tensors[Role.WEIGHT].name.rpartition("[")[0])
        if weight is not None and _is_linear(weight, hidden) and len(found.shape) == 3:
            yield _turned(context, found)
        return
    pair = [tensors.get(name) for name in (_partner(found.name), found.name)]
    across = [meta for meta in pair if meta is not None and _is_linear(meta, hidden) is False]
    if len(across) == 1:
        yield from _with_scale(context, across[0])


def _partner(down: str) -> str:
    """gate_up_proj of the layer that this down_proj is of."""
    names = (f"{stem}experts.{first}{tail}" for first, second in PAIRS
             for stem, sep, tail in [down.rpartition(f"experts.{second}")] if sep)  # fmt: skip
    return next(names, "")


def _is_linear(weight: TensorMeta, hidden: int) -> bool | None:
    """Whether it is [E, out, in]: the hidden size goes into gate and up, and comes out of down. None where both other
    axes have it."""
    _, num_rows, num_cols = weight.shape
    if num_rows == num_cols:
        return None
    is_down = any(f"experts.{second}" in weight.name for _, second in PAIRS)
    return (num_rows if is_down else num_cols) == hidden


def _with_scale(context: Context, weight: TensorMeta) -> Iterator[Remake]:
    """A weight and the scale that lies as it does; nothing where that cannot be told."""
    stacks = context.checkpoint.lowered.stacks.values()
    roles = next((stack.roles for stack in stacks if stack.roles[Role.WEIGHT].name == weight.name), {})
    uses = users(context).get(weight.name, [])
    scheme = uses[0].module.scheme if uses else None
    if weight.dtype.bits < 8 or (scheme is None and not weight.dtype.is_wide_float):
        return
    scale = roles.get(Role.WEIGHT_SCALE)
    if scheme is not None and scheme.weight.granularity != PerTensor():
        block = scheme.weight.granularity
        if scale is None or not isinstance(block, PerBlock) or scale.shape != scale_shape(block, weight.shape):
            return
        yield _turned(context, scale)
    yield _turned(context, weight)


def _turned(context: Context, meta: TensorMeta) -> Remake:
    count, num_rows, num_cols = meta.shape
    data = partial(_each, context.checkpoint.source, meta)
    return Remake(meta, meta.dtype, (count, num_cols, num_rows), data, f"transposed to {[count, num_cols, num_rows]}")


def _each(source: Source, meta: TensorMeta) -> Iterator[bytes]:
    count, *shape = meta.shape
    size = meta.nbytes // count
    for begin in range(meta.begin, meta.end, size):
        yield from transposed(source, meta._replace(shape=tuple(shape), begin=begin, end=begin + size))


REPAIR = Repair(
    title="transposes the experts to the layout of linear layers", actions=actions,
    only_if="some families publish their experts the other way round",
)  # fmt: skip
