"""F8L605: a scale was saved in the layout that a kernel wants in memory."""

from collections.abc import Iterator
from math import prod

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK
from fp8load.scheme import PerBlock, PerGroup, Role, scale_shape
from fp8load.swizzle import padded_shape

WORDS = frozenset({DType.I32, DType.U32})

WIDE = """\
m.down_proj.weight            F8_E4M3  [256, 1024]
m.down_proj.weight_scale_inv  %s
"""


def check(context: Context) -> Iterator[Problem]:
    """Scales that lowering refused for their dtype or shape, and that are as kernels have them."""
    wrong = {problem.tensor for code in ("F8L501", "F8L105") for problem in context.problems(code)}
    for info in context.checkpoint.lowered.modules.values():
        scale = info.tensors.get(Role.WEIGHT_SCALE)
        if scale is None or info.scheme is None or scale.name not in wrong:
            continue
        layout = _layout(info, scale)
        if layout:
            weight = info.tensors[Role.WEIGHT]
            grid = scale_shape(info.scheme.weight.granularity, weight.shape)
            yield Problem(
                code="F8L605", message=f"a scale is stored in a kernel's layout: {layout}", tensor=scale.name,
                file=scale.file, expected=f"{list(grid)} for {weight.name} {weight}", got=str(scale),
                hint="it was saved from a running engine: export the checkpoint from the weights as they were loaded",
            )  # fmt: skip


def _layout(info: ModuleInfo, scale: TensorMeta) -> str:
    """Which layout of kernels a scale has; empty for none that is known."""
    granularity = info.scheme.weight.granularity if info.scheme is not None else None
    if not isinstance(granularity, PerBlock | PerGroup):
        return ""
    num_rows, num_cols = info.tensors[Role.WEIGHT].shape
    grid = scale_shape(granularity, (num_rows, num_cols))
    if scale.dtype in WORDS:
        words = -(-grid[1] // 4)
        packed = {(rows, words) for rows in (grid[0], num_rows)}
        return "four exponents in a word" if {scale.shape, scale.shape[::-1]} & packed else ""
    tiles = padded_shape((num_rows, grid[1]))
    if scale.dtype.bits == 8 and scale.shape in (tiles, (prod(tiles),)) and scale.shape != grid:
        return "swizzled in tiles of 128 x 4"
    return "columns first" if scale.shape == grid[::-1] != grid else ""


RULE = Rule(
    code="F8L605",
    name="kernel-layout-persisted",
    level="headers",
    severity=Severity.ERROR,
    what="No scale has the dtype and shape of a kernel's layout: four exponents in a word of 32 bits, tiles of "
         "128 x 4, columns first.",
    why="Engines rearrange scales after loading. A checkpoint that was saved from there fits no reader, or one engine.",
    fix="Export again from the weights as they were loaded, or before the engine has prepared them.",
    check=check,
    examples=(
        Example(title="four exponents in a word", skeleton=BLOCK + WIDE % "I32 [256, 2]", count=1),
        Example(title="columns first", skeleton=BLOCK + WIDE % "F32 [8, 2]", count=1),
        Example(title="tiles, flat", count=1,
                skeleton=BLOCK.replace("[128, 128]", "[1, 32]") + WIDE % "U8 [8192]"),
        Example(title="a grid of blocks", skeleton=BLOCK + WIDE % "F32 [2, 8]", count=0),
    ),
)  # fmt: skip
