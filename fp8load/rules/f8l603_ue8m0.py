"""F8L603: scales are powers of two, and either stored as bytes of exponents or said to be so in another dtype."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, POWERS, QUANTIZED
from fp8load.rules.targets import both, engines
from fp8load.scheme import LinearScheme, PerGroup, Role, ScaleRounding

_NUMBERS = "scale_fmt says ue8m0, and the scales are stored as numbers"
_BYTES = "scales of FP8 blocks are bytes of exponents"
_CONTRADICTED = "scale_fmt says that scales are numbers, and they are bytes of exponents"


def check(context: Context) -> Iterator[Problem]:
    """Block scales of FP8 weights; in MX formats scales are exponents by definition."""
    declared = _scale_fmt(context)
    for info in context.checkpoint.lowered.modules.values():
        scheme, meta = info.scheme, info.tensors.get(Role.WEIGHT_SCALE)
        if scheme is None or meta is None or not scheme.weight.dtype.is_fp8 or _is_mx(scheme):
            continue
        are_bytes = meta.dtype in (DType.F8_E8M0, DType.U8)
        if not are_bytes and scheme.rounding is not ScaleRounding.POWER_OF_TWO:
            continue
        contradicted = are_bytes and declared == "float"
        expected = f"scale_fmt {declared}" if declared else "F32"
        yield Problem(
            code="F8L603", message=_CONTRADICTED if contradicted else _BYTES if are_bytes else _NUMBERS,
            tensor=meta.name, file=meta.file, expected=expected, got=str(meta), refuses=False,
            severity=Severity.WARNING if contradicted else Severity.INFO,
            hint="engines that do not know this pair take the bytes for numbers" if are_bytes
            else "exact where the numbers are powers of two; the values are looked at by F8L707",
        )  # fmt: skip


def _is_mx(scheme: LinearScheme) -> bool:
    return scheme.weight.granularity == PerGroup(32)


def _scale_fmt(context: Context) -> str:
    document = context.checkpoint.index.config.get("quantization_config")
    return str(document.get("scale_fmt") or "") if isinstance(document, dict) else ""


EXPONENTS = QUANTIZED.replace("F32     ", "F8_E8M0 ")
BYTES = POWERS + QUANTIZED.replace("F32    ", "U8     ")

RULE = Rule(
    code="F8L603",
    name="ue8m0",
    level="headers",
    severity=Severity.WARNING,
    what="Notes FP8 blocks whose scales are bytes of exponents (F8_E8M0, U8), and scale_fmt ue8m0 beside scales that "
         "are numbers. Bytes under `scale_fmt: float` are a warning, as is with --engine what it copies as numbers.",
    why="DeepSeek publishes both. An engine that copies such bytes into floats computes with 120.0 where 2 ** -7 is "
        "meant; one that expects bytes fails on numbers.",
    fix="Nothing for readers of both; else store the scales as F32, which is exact.",
    check=both(check, engines("F8L603")),
    examples=(
        Example(title="bytes of exponents", skeleton=POWERS + EXPONENTS, count=1),
        Example(title="numbers under ue8m0", skeleton=POWERS + QUANTIZED, count=1),
        Example(title="bytes under float", skeleton=POWERS.replace("ue8m0", "float") + EXPONENTS, count=1),
        Example(title="bytes in an engine that copies them as numbers", count=1, engine="vllm@0.33",
                skeleton=BYTES),
        Example(title="tagged as exponents, which copies convert", count=0, engine="vllm@0.33",
                skeleton=POWERS + EXPONENTS),
        Example(title="numbers", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
