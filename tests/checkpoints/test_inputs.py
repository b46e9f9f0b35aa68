"""Inputs that a scheme quantizes while running: the logits of the tools' own models, which do so too.

The tools run in BF16 with eager attention, and so does the plain model here: with scaled-dot-product attention the
tool that wrote qk-llama128-mxfp6e3m2 is 0.044 from its own logits. A scheme with another rule for the shared exponent
is off by 0.03 to 0.3.
"""

from __future__ import annotations

import pytest
import torch

from fp8load.runtime.linear import ScaledLinear
from fp8load_kernels.quantize import quantize_input
from oracle.catalog import FOLDER, reference_logits
from oracle.decoder import relative_error
from oracle.plain_model import logits_of_plain_model

REFERENCES = {
    "ar-llama128-mxfp4-ar": "logits_hfload",
    "ct-llama128-mxfp4": "logits_hfload",
    "ct-qwen3-mxfp8": "logits_hfload",
    "mo-llama128-mxfp8": "logits_inmem",
    "qk-llama128-mxfp4": "logits_toolreload",
    "qk-llama128-mxfp6e3m2": "logits_toolreload",
}

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


def rounded_inputs(layer: ScaledLinear):
    def change(x: torch.Tensor) -> torch.Tensor:
        quantized = quantize_input(x.reshape(-1, x.shape[-1]), layer.scheme, None)
        return quantized.dequantize().to(x.dtype).reshape(x.shape)

    return change


@pytest.mark.parametrize("name", REFERENCES)
def test_quantized_inputs_give_the_tools_logits(name: str) -> None:
    import fp8load

    checkpoint = fp8load.open(FOLDER / name)
    input_ids, expected = reference_logits(FOLDER / name, REFERENCES[name])
    inputs = {}
    for module, layer in checkpoint.plan().load().items():
        assert isinstance(layer, ScaledLinear)
        head, _, last = module.rpartition(".")
        inputs |= {f"{head}.{part}": rounded_inputs(layer) for part in FUSED.get(last, (last,))}
    assert len(inputs) == 14  # 7 in each of 2 layers
    weights = dict(checkpoint.plain_tensors(dtype=torch.bfloat16))

    got = logits_of_plain_model(FOLDER / name, weights, input_ids, dtype=torch.bfloat16, inputs=inputs)

    assert relative_error(got, expected) < 1e-4
