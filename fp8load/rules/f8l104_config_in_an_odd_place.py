"""F8L104: the quantization configuration lies where some readers do not look."""

from collections.abc import Iterator, Mapping
from typing import Any

from fp8load.errors import Problem, Severity
from fp8load.formats.locate import BESIDE
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.config import documents
from fp8load.rules.samples import BLOCK, QUANTIZED

USUAL = "quantization_config at the top of config.json"
ODD = ("config.json compression_config", "config.json text_config.quantization_config", *BESIDE)
NESTED = "quantization"
"""The key under which hf_quant_config.json has everything."""

_WORDS = ("fp8", "fp4", "quantized", "float8")

FLAG = 'config {"use_fp8_experts": true}\n'
NESTED_CONFIG = (
    'config {"quantization_config": {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}}\n'
    "m.down_proj.weight F8_E4M3 [8, 8]\nm.down_proj.{weight,input}_scale F32 []\n"
)
INNER = BLOCK.replace("config {", 'config {"text_config": {').replace("}}\n", "}}}\n")


def check(context: Context) -> Iterator[Problem]:
    """A configuration in another place than the usual one; and flags of a model's own where there is none at all."""
    checkpoint = context.checkpoint
    if "config.json" not in checkpoint.index.configs:
        return
    place = checkpoint.format.place
    if place in ODD:
        yield Problem(
            code="F8L104", message="the quantization configuration is not where every reader looks", file=place,
            expected=USUAL, got=place, severity=Severity.INFO, refuses=False,
            hint="readers that look in the usual place only load the checkpoint as unquantized: copy it there",
        )  # fmt: skip
        return
    document = checkpoint.index.config.get("quantization_config")
    if isinstance(document, Mapping) and isinstance(document.get(NESTED), Mapping):
        yield Problem(
            code="F8L104", message="the quantization configuration is nested as in hf_quant_config.json", file=place,
            expected="its keys, and quant_method, without a key around them", got=f"a key {NESTED!r} that holds them",
            severity=Severity.INFO, refuses=False, hint="readers of config.json expect the flat form",
        )  # fmt: skip
    flag = _flag(checkpoint.index.config)
    if flag and any(problem.code == "F8L101" for problem in checkpoint.problems):
        yield Problem(
            code="F8L104", message="a flag of the model's own stands for the quantization configuration",
            file="config.json", expected=USUAL, got=flag, severity=Severity.WARNING, refuses=False,
            hint="no engine knows the flag: add a quantization_config",
        )  # fmt: skip


def _flag(config: Mapping[str, Any]) -> str:
    """The first key that speaks of quantization and is set, with its value; empty without one."""
    for document in documents(config):
        for key, value in document.items():
            if value and not isinstance(value, Mapping) and any(word in key.lower() for word in _WORDS):
                return f"{key}: {str(value)[:40]}"
    return ""


RULE = Rule(
    code="F8L104",
    name="config-in-an-odd-place",
    level="headers",
    severity=Severity.WARNING,
    what="The quantization configuration is `quantization_config` at the top of config.json. Other places that tools "
         "use are noted, and ModelOpt's nested form there; a flag such as use_fp8_experts in its stead is a warning.",
    why="An engine that finds no configuration builds 16-bit layers: it runs out of memory, or casts the codes.",
    fix="Copy the configuration to the top of config.json.",
    check=check,
    examples=(
        Example(title="inside text_config", skeleton=INNER + QUANTIZED, count=1),
        Example(title="use_fp8_experts", skeleton=FLAG + QUANTIZED, count=1),
        Example(title="the nested form of hf_quant_config.json", skeleton=NESTED_CONFIG, count=1),
        Example(title="at the top", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="the flag of an unquantized model", count=0,
                skeleton=FLAG + "model.layers.0.mlp.down_proj.weight  BF16  [256, 256]\n"),
    ),
)  # fmt: skip
