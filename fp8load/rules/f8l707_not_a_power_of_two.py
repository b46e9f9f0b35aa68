"""F8L707: a scale is no power of two, where the configuration says so or an engine makes it one."""

from collections.abc import Iterator
from dataclasses import replace

from fp8load.engines.ask import of_named
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.f8l706_exponent_bytes_as_numbers import are_bytes
from fp8load.rules.samples import BLOCK, POWERS, QUANTIZED
from fp8load.rules.scale_stats import ScaleStats
from fp8load.rules.targets import target_of

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"


def check(context: Context) -> Iterator[Problem]:
    """Float scales with elements that are no power of two: under `scale_fmt: ue8m0`, and those that an engine that was
    named rounds on the GPU that was named."""
    if context.scales is None:
        return
    uneven = {stats.meta.name: stats for stats in context.scales.stats if stats.num_uneven}
    uneven = {name: stats for name, stats in uneven.items()
              if name not in context.scales.powers or not are_bytes(stats)}  # fmt: skip
    rounded: set[str] = set()
    for problem in of_named("F8L707", context.engines, context.checkpoint.stored, target_of(context)):
        if problem.tensor in uneven:
            rounded.add(problem.tensor)
            yield replace(problem, expected=_expected(uneven[problem.tensor]), got=_got(uneven[problem.tensor]))
    for name, stats in uneven.items():
        if name in context.scales.powers and name not in rounded:
            yield Problem(
                code="F8L707", message="a scale is no power of two although the configuration says ue8m0",
                tensor=name, file=stats.meta.file, expected=_expected(stats), got=_got(stats),
                severity=Severity.INFO, refuses=False,
                hint="read as stored, it is exact; engines that round scales to exponents change the weights by it",
            )  # fmt: skip


def _expected(stats: ScaleStats) -> str:
    return f"{stats.meta.num_elements:,} powers of two"


def _got(stats: ScaleStats) -> str:
    return f"{stats.num_uneven:,} others, the first at {stats.position(stats.first_uneven)}"


RULE = Rule(
    code="F8L707",
    name="not-a-power-of-two",
    level="scales",
    severity=Severity.INFO,
    what="Where `scale_fmt` is ue8m0, every stored scale is a power of two, whatever its dtype. With `--engine` and "
    "`--arch`, scales that the engine rounds to powers of two there are a warning, if they are none.",
    why="DeepGEMM on Blackwell multiplies with exponents only, and engines bring block scales into that form while "
    "they load: each weight is rounded a second time, which changes it by some 2.6 % in the mean.",
    fix="Set the switch that the finding names, or quantize again with scales that are powers of two. Where only "
    "scale_fmt is wrong, drop it from the configuration.",
    check=check,
    examples=(
        Example(title="0.003", skeleton=POWERS + QUANTIZED, count=1, values={SCALE: 0.003}),
        Example(title="0.003, and no ue8m0", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 0.003}),
        Example(title="1/128", skeleton=POWERS + QUANTIZED, count=0, values={SCALE: 2**-7}),
        Example(title="0.003 in vLLM 0.33 on Blackwell", skeleton=BLOCK + QUANTIZED, count=1, values={SCALE: 0.003},
                engine="vllm@0.33", arch="sm100"),
        Example(title="120 in vLLM 0.33, which is no byte of an exponent here", skeleton=BLOCK + QUANTIZED, count=1,
                values={SCALE: 120.0}, engine="vllm@0.33", arch="sm100"),
        Example(title="1/128 in vLLM 0.33 on Blackwell", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 2**-7},
                engine="vllm@0.33", arch="sm100"),
        Example(title="0.003 in vLLM 0.11 on Hopper", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 0.003},
                engine="vllm@0.11", arch="sm90"),
    ),
)  # fmt: skip
