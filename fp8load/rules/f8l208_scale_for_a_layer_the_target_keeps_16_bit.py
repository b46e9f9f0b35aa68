"""F8L208: a layer is quantized that an engine builds in 16 bits."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.targets import all_engines

HEAD = "lm_head.weight  F8_E4M3  [256, 256]\nlm_head.weight_scale_inv  F32  [2, 2]\n"
DYNAMIC = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", '
    '"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", '
    '"strategy": "channel"}, "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", '
    '"dynamic": true}}}}}\n'
)
CHANNELS = "lm_head.weight  F8_E4M3  [256, 256]\nlm_head.weight_scale  F32  [256, 1]\n"

RULE = Rule(
    code="F8L208",
    name="scale-for-a-layer-the-target-keeps-16-bit",
    level="headers",
    severity=Severity.ERROR,
    what="No layer is quantized that the engine builds in 16 bits whatever is stored. Without --engine, such layers "
         "are noted with the engines that do so.",
    why="The layer has no place for the scale. Loaders that are strict stop; others read the codes as numbers.",
    fix="Dequantize the layer and add it to the ignore list.",
    check=all_engines("F8L208"),
    examples=(
        Example(title="a head, where only linear layers are quantized", skeleton=BLOCK + QUANTIZED + HEAD, count=1,
                engine="vllm@0.33"),
        Example(title="a linear layer", skeleton=BLOCK + QUANTIZED, count=0, engine="vllm@0.33"),
        Example(title="a head of compressed-tensors, in an older version", skeleton=DYNAMIC + CHANNELS, count=1,
                engine="vllm@0.11"),
        Example(title="in a newer one", skeleton=DYNAMIC + CHANNELS, count=0, engine="vllm@0.33"),
        Example(title="no engine: a note", skeleton=DYNAMIC + CHANNELS, count=1),
    ),
)  # fmt: skip
