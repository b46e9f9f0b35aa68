"""F8C002: the names of layers in a file's metadata have another prefix than the tensors."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found

LAYER = "%sa.weight F8_E4M3 [256, 256]\n%sa.weight_scale F32 []\n"
PREFIX = "model.diffusion_model."

RULE = Rule(
    code="F8C002",
    name="comfy-hint-prefix",
    level="headers",
    severity=Severity.WARNING,
    what="_quantization_metadata names layers as the file's tensors are named. A prefix that no tensor has is a "
         "warning, because some readers find the layers all the same; one that only the tensors have is noted, because "
         "loaders strip it.",
    why="ComfyUI turns each name into a marker beside the layer. Under a name that no tensor has it is lost, and the "
        "layer's codes are taken for its weights.",
    fix="Write the names of the tensors into the metadata.",
    check=found("F8C002"),
    examples=(
        Example(title="a prefix that no tensor has", count=1,
                skeleton=f'inside comfy_metadata {{"{PREFIX}a": {{"format": "float8_e4m3fn"}}}}\n' + LAYER % ("", "")),
        Example(title="a prefix that only the tensors have", count=1,
                skeleton='inside comfy_metadata {"a": {"format": "float8_e4m3fn"}}\n' + LAYER % (PREFIX, PREFIX)),
        Example(title="the same names", count=0,
                skeleton='inside comfy_metadata {"a": {"format": "float8_e4m3fn"}}\n' + LAYER % ("", "")),
    ),
)  # fmt: skip
