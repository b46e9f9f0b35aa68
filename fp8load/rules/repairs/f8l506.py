"""F8L506: a weight that is stored transposed is turned, and its scale with it where that lies the same way."""

from collections.abc import Iterator
from functools import partial

from fp8load.errors import Problem
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.users import Use, users
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerTensor, Role, scale_shape
from fp8load.writing.actions import Remake
from fp8load.writing.transpose import transposed


def actions(context: Context, problem: Problem) -> Iterator[Remake]:
    """Matrices of whole bytes. Of a quantized one the scale has to say which way it lies: a grid that fits both ways
    does not."""
    weight = context.checkpoint.index.tensors.get(problem.tensor)
    if weight is None or len(weight.shape) != 2 or weight.dtype.bits < 8:
        return
    use, *others = users(context).get(weight.name, [None])
    scheme = None if use is None else use.module.scheme
    if use is None or scheme is None:
        yield _turned(context, weight)
        return
    scale = use.module.tensors.get(Role.WEIGHT_SCALE)
    if others or use.meta.dtype is not weight.dtype or use.meta.shape != weight.shape or scale is None:
        return  # packed, or several modules' own
    if scale.name not in context.checkpoint.index.tensors:
        return  # a part of a tensor that other modules share
    turns = _turns(use, scheme, scale)
    if turns is not None:
        yield _turned(context, weight)
        if turns:
            yield _turned(context, scale)


def _turns(use: Use, scheme: LinearScheme, scale: TensorMeta) -> bool | None:
    """Whether the scale lies like the stored weight and turns with it; None where that cannot be told."""
    wrong = use.meta.shape
    right = wrong[::-1]
    match scheme.weight.granularity:
        case PerTensor():
            return False
        case PerChannel() if scale.num_elements == right[0]:
            return False
        case PerBlock() as block:
            fits_right = scale.shape == scale_shape(block, right)
            fits_wrong = scale.shape == scale_shape(block, wrong) and block.rows == block.cols
            return None if fits_right == fits_wrong else fits_wrong
        case _:
            return None


def _turned(context: Context, meta: TensorMeta) -> Remake:
    right = meta.shape[::-1]
    data = partial(transposed, context.checkpoint.source, meta)
    return Remake(meta, meta.dtype, right, data, f"transposed to {list(right)}")


REPAIR = Repair(title="transposes the weight, and its scale where that lies the same way", actions=actions)
