"""F8L101: weights are FP8 or packed and no configuration says so."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.raw import are_raw, packed
from fp8load.rules.samples import BLOCK, NVFP4, NVFP4_GATE_UP, QUANTIZED

_NOT_SAID = "the weight is quantized and no configuration says so"
_WANTED = "a quantization_config in config.json"


def check(context: Context) -> Iterator[Problem]:
    """What lowering found of FP8 weights, but for raw casts (F8L201); and packed weights, which are bytes to it."""
    said = list(context.problems("F8L101"))
    if not are_raw(context):
        yield from said
    unread = [problem for code in ("F8L107", "F8L110") for problem in context.problems(code)]
    if context.checkpoint.format.name == "unquantized" and not unread:  # one that cannot be read is there
        yield from _packed(context, {problem.tensor for problem in said})


def _packed(context: Context, said: set[str]) -> Iterator[Problem]:
    for meta, scale in packed(context.checkpoint.index.tensors):
        if meta.name not in said:
            yield Problem(
                code="F8L101", message=_NOT_SAID, tensor=meta.name, file=meta.file, expected=_WANTED,
                got=f"{meta} beside {scale}, and no configuration",
                hint="readers take its bytes for numbers, or skip them: put the quantization_config of the export back",
            )  # fmt: skip


RULE = Rule(
    code="F8L101",
    name="quantized-without-config",
    level="headers",
    severity=Severity.ERROR,
    what="Where a weight is FP8, or packed beside its scale, config.json or hf_quant_config.json says how it is "
    "quantized. FP8 weights of which none has a scale are F8L201's: raw casts, or every scale was lost.",
    why="Without a configuration readers cast the raw codes to BF16: every weight is wrong by its scale.",
    fix="Put the quantization_config of the export back into config.json. Raw casts are opened with "
    "allow_unscaled=True, or --allow-unscaled.",
    check=check,
    examples=(
        Example(title="no quantization_config", skeleton=QUANTIZED, count=1),
        Example(title="NVFP4 without one", skeleton=NVFP4_GATE_UP, count=2),
        Example(title="gpt-oss's experts without one", count=1,
                skeleton="m.experts.down_proj_blocks U8 [4, 64, 2, 16]\nm.experts.down_proj_scales U8 [4, 64, 2]\n"),
        Example(title="a raw cast, which is F8L201's", skeleton="blocks.{0..1}.mlp.weight F8_E4M3 [64, 64]\n", count=0),
        Example(title="with one", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="NVFP4 with one", skeleton=NVFP4 + NVFP4_GATE_UP, count=0),
    ),
)  # fmt: skip
