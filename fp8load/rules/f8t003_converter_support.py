"""F8T003: a converter has no name for a tensor."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED, STATIC, TENSOR_WISE
from fp8load.rules.targets import engines

RULE = Rule(
    code="F8T003",
    name="converter-support",
    level="headers",
    severity=Severity.ERROR,
    what="With --engine llama.cpp: its converter knows the method, the kinds of layers and the names of all scales.",
    why="A converter stops at the first tensor that it has no name for, often after an hour.",
    fix="Give it the unquantized checkpoint: `Checkpoint.plain_tensors`.",
    check=engines("F8T003"),
    examples=(
        Example(title="names of AutoFP8: six weight scales, six input scales", skeleton=STATIC + TENSOR_WISE, count=12,
                engine="llama.cpp"),
        Example(title="names of DeepSeek", skeleton=BLOCK + QUANTIZED, count=0, engine="llama.cpp"),
        Example(title="no converter is named", skeleton=STATIC + TENSOR_WISE, count=0, engine="vllm@0.33"),
    ),
)  # fmt: skip
