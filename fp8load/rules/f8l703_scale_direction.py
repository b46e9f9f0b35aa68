"""F8L703: a scale is the reciprocal of what its name says."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.direction import reciprocals
from fp8load.rules.samples import BLOCK, NVFP4, NVFP4_GATE_UP, QUANTIZED
from fp8load.rules.scale_stats import ScaleStats
from fp8load.scheme import Role

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"
GLOBALS = [f"model.layers.0.mlp.{part}_proj.weight_scale_2" for part in ("gate", "up")]
LAYERS = QUANTIZED.replace("layers.0", "layers.{0..3}")
DIVIDES = NVFP4_GATE_UP.replace("weight_scale_2", "weight_global_scale").replace(".weight  ", ".weight_packed  ")
DIVIDES = DIVIDES.replace("input_scale", "input_global_scale")
CT = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", '
    '"quantization_status": "compressed", "ignore": [], "config_groups": {"group_0": {"targets": ["Linear"], '
    '"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", '
    '"group_size": 16, "dynamic": false, "symmetric": true}, "input_activations": {"num_bits": 4, "type": "float", '
    '"strategy": "tensor_group", "group_size": 16, "dynamic": "local", "symmetric": true}}}}}\n'
)


def check(context: Context) -> Iterator[Problem]:
    """Weight scales whose reciprocal is what a multiplier, or a divisor, would be. Input scales have no usual size."""
    for info, role, stats in reciprocals(context):
        yield _global(info, stats) if role is Role.WEIGHT_GLOBAL_SCALE else _multiplier(stats)


def _global(info: ModuleInfo, stats: ScaleStats) -> Problem:
    divides = info.scheme is not None and info.scheme.second_level is not None and info.scheme.second_level.divides
    meta = stats.meta
    suffix = meta.name.rpartition(".")[2].partition("[")[0]
    return Problem(
        code="F8L703", message=f"{suffix} {'multiplies' if divides else 'divides'}, as it looks, and its name says "
        f"that it {'divides' if divides else 'multiplies'}", tensor=meta.name, file=meta.file,
        expected="above 1: 2688 / largest weight" if divides else "below 1: largest weight / 2688",
        got=f"{stats.smallest:.4g}", refuses=False, hint=_HINT,
    )  # fmt: skip


def _multiplier(stats: ScaleStats) -> Problem:
    meta = stats.meta
    return Problem(
        code="F8L703", message="a weight scale looks like a divisor, and the format multiplies by it", tensor=meta.name,
        file=meta.file, expected="largest weight / largest code, far below 1",
        got=f"a median of {2.0 ** stats.median_log2:.4g}", refuses=False, hint=_HINT,
    )  # fmt: skip


_HINT = "one tool's 1 / scale under another tool's name: store the reciprocal, or the name that divides"


RULE = Rule(
    code="F8L703",
    name="scale-direction",
    level="scales",
    severity=Severity.ERROR,
    what="Scales point the way that their name says. `weight_scale_2` (ModelOpt) multiplies and is below 1; "
    "`weight_global_scale` (compressed-tensors) divides and is above 1; other weight scales multiply: they are not "
    "above 1024, nor the reciprocal of what other layers have, nor above 1 where most of them are, and some "
    "above 1024.",
    why="1/scale in place of scale makes weights wrong by its square, millions of times, and every shape still fits.",
    fix="Store the reciprocal, or use the other tool's name for it.",
    check=check,
    examples=(
        Example(title="3,584 under ModelOpt's name", skeleton=NVFP4 + NVFP4_GATE_UP, count=2,
                values=dict.fromkeys(GLOBALS, 3584.0)),
        Example(title="0.0003 under ModelOpt's name", skeleton=NVFP4 + NVFP4_GATE_UP, count=0,
                values=dict.fromkeys(GLOBALS, 3e-4)),
        Example(title="0.0003 under compressed-tensors' name", skeleton=CT + DIVIDES, count=2,
                values={name.replace("scale_2", "global_scale"): 3e-4 for name in GLOBALS}),
        Example(title="3,584 under compressed-tensors' name", skeleton=CT + DIVIDES, count=0,
                values={name.replace("scale_2", "global_scale"): 3584.0 for name in GLOBALS}),
        Example(title="scales of 5,000", skeleton=BLOCK + QUANTIZED, count=1, values={SCALE: 5000.0}),
        Example(title="1/scale in one layer of four", skeleton=BLOCK + LAYERS, count=1,
                values={SCALE.replace("0", str(layer), 1): 2e-3 if layer else 500.0 for layer in range(4)}),
        Example(title="scales of 0.002", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 2e-3}),
    ),
)  # fmt: skip
