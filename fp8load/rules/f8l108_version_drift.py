"""F8L108: the configuration is written for another version than the engine's."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule
from fp8load.rules.samples import LISTED, QUANTIZED
from fp8load.rules.targets import engines

RULE = Rule(
    code="F8L108",
    name="version-drift",
    level="headers",
    severity=Severity.WARNING,
    what="With --engine, every key of the quantization configuration has the meaning that this version gives it.",
    why="Keys are renamed from version to version. A list under a key that is not read is an empty list, without a "
        "message.",
    fix="Write the key that the engine reads beside the other one.",
    check=engines("F8L108"),
    examples=(
        Example(title="a list under a key of later versions", skeleton=LISTED + QUANTIZED, count=1,
                engine="sglang@0.5.4"),
        Example(title="in a later version", skeleton=LISTED + QUANTIZED, count=0, engine="sglang@0.5.23"),
        Example(title="a key that has to be there", count=1, engine="vllm@0.33",
                skeleton=LISTED.replace('"activation_scheme": "dynamic", ', "") + QUANTIZED),
        Example(title="no engine is named", skeleton=LISTED + QUANTIZED, count=0),
    ),
)  # fmt: skip
