"""F8L008: exponents and FP4 codes are tagged as bytes, which every reader of safetensors knows."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.tags import packed
from fp8load.rules.repairs.users import Use, users
from fp8load.scheme import PerGroup, Role, ScaleRounding
from fp8load.writing.actions import Convert, Remake


def actions(context: Context, problem: Problem) -> Iterator[Convert | Remake]:
    """Exponents only where the configuration says that bytes are exponents. Of the fnuz floats a tag of bytes would say
    nothing, and FP6 is packed in several ways."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None:
        return
    uses = users(context).get(meta.name, [])
    if meta.dtype is DType.F4:
        yield from packed(context, meta)
    elif meta.dtype is DType.F8_E8M0 and uses and all(map(_are_exponents, uses)):
        yield Convert(meta, DType.U8, bytes, "the same bytes as U8", "same")


def _are_exponents(use: Use) -> bool:
    scheme = use.module.scheme
    if scheme is None or use.role is not Role.WEIGHT_SCALE:
        return False
    return scheme.weight.granularity == PerGroup(32) or scheme.rounding is ScaleRounding.POWER_OF_TWO


REPAIR = Repair(
    title="tags exponents and FP4 codes as bytes", actions=actions,
    only_if="newer readers need no configuration to know what the tag says",
)  # fmt: skip
