"""F8L505: rows or columns of a weight are no multiple of what kernels take."""

from collections.abc import Iterator

from fp8load.engines.ask import problem
from fp8load.engines.gpus import GPUS
from fp8load.engines.machines import aligned
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, STATIC

SCALARS = "m.o_proj.weight_scale F32 []\nm.o_proj.input_scale F32 []\n"


def check(context: Context) -> Iterator[Problem]:
    """For a named GPU its kernels, as warnings; without one a note of what any takes."""
    gpu = context.gpu or GPUS["sm89"]
    severity = Severity.WARNING if context.gpu is not None else Severity.INFO
    for verdict in aligned(context.checkpoint.stored, gpu, context.engines):
        text = verdict.text if context.gpu is not None else verdict.text.removesuffix(f" on {gpu.name}")
        yield problem("F8L505", verdict, text, severity)


RULE = Rule(
    code="F8L505",
    name="kernel-alignment",
    level="headers",
    severity=Severity.WARNING,
    what="Rows and columns of quantized weights are multiples of what kernels take: 16 for one scale a tensor or a "
         "row; with --arch sm120 also 128 for blocks. Engines that pad are known.",
    why="Kernels refuse other shapes while running, long after loading.",
    fix="Use an engine that pads, or leave the layer in 16 bits.",
    check=check,
    examples=(
        Example(title="two columns", count=1, arch="sm90",
                skeleton=STATIC + "m.o_proj.weight F8_E4M3 [64, 2]\n" + SCALARS),
        Example(title="in an engine that pads", count=0, arch="sm90", engine="vllm@0.33",
                skeleton=STATIC + "m.o_proj.weight F8_E4M3 [64, 2]\n" + SCALARS),
        Example(title="576 rows in blocks of 128, on an RTX 5090", count=1, arch="sm120",
                skeleton=BLOCK + "m.kv_a.weight F8_E4M3 [576, 256]\nm.kv_a.weight_scale_inv F32 [5, 2]\n"),
        Example(title="on a H100", count=0, arch="sm90",
                skeleton=BLOCK + "m.kv_a.weight F8_E4M3 [576, 256]\nm.kv_a.weight_scale_inv F32 [5, 2]\n"),
    ),
)  # fmt: skip
