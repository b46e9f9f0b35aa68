"""The numbers that come out at the end: both ways out of a checkpoint give the reference logits of its own tool."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oracle import decoder
from oracle.catalog import DECODER_NAMES, FOLDER, config_of, reference_logits
from oracle.plain_model import logits_of_plain_model


class LoadedWeights:
    """The small decoder's weights from a loaded model: quantized layers are called, the rest are tensors."""

    def __init__(self, model) -> None:
        self.model = model

    def linear(self, module: str) -> decoder.Linear:
        """The loaded layer, or a plain product with an unquantized (or tied) weight."""
        if module in self.model:
            return self.model[module]
        weight = self.tensor(f"{module}.weight")
        if weight is None:
            weight = self.tensor("model.embed_tokens.weight")
        bias = self.tensor(f"{module}.bias")
        return lambda x: torch.nn.functional.linear(x, weight, bias)

    def tensor(self, name: str) -> torch.Tensor | None:
        """A norm or the embedding in float32."""
        found = self.model.tensors.get(name)
        return None if found is None else found.float()


def test_plain_tensors_in_the_transformers_model_give_the_reference_logits(checkpoint: Path):
    import fp8load

    input_ids, expected = reference_logits(checkpoint)
    weights = dict(fp8load.open(checkpoint).plain_tensors(dtype=torch.float32))

    assert decoder.relative_error(logits_of_plain_model(checkpoint, weights, input_ids), expected) < 1e-4


def test_plain_tensors_can_be_had_in_sixteen_bits(checkpoint: Path):
    import fp8load

    wide = dict(fp8load.open(checkpoint).plain_tensors(dtype=torch.float32))
    narrow = dict(fp8load.open(checkpoint).plain_tensors(dtype=torch.bfloat16))

    assert narrow.keys() == wide.keys()
    for name, tensor in narrow.items():
        assert torch.equal(tensor, wide[name].bfloat16()), name


@pytest.mark.parametrize("name", DECODER_NAMES)
def test_the_loaded_layers_with_the_reference_backend_give_the_reference_logits(name):
    import fp8load

    config = config_of(FOLDER / name)
    input_ids, expected = reference_logits(FOLDER / name)
    weights = LoadedWeights(fp8load.load(FOLDER / name, device="cpu", backend="reference"))

    assert decoder.relative_error(decoder.logits(input_ids, weights, config), expected) < 1e-4


@pytest.mark.parametrize("name", DECODER_NAMES)
def test_the_reference_backend_is_a_float32_product_with_the_dequantized_weight(name):
    import fp8load

    model = fp8load.load(FOLDER / name, device="cpu", backend="reference")
    generator = torch.Generator().manual_seed(0)
    for module, layer in model.items():
        weight = layer.dequantize()
        x = torch.randn(2, 3, weight.shape[1], generator=generator)
        expected = torch.nn.functional.linear(x, weight, layer.bias if layer.bias is None else layer.bias.float())
        assert layer.backend.name == "reference"
        torch.testing.assert_close(
            layer(x).float(), expected, rtol=1e-5, atol=1e-5, msg=lambda m, at=module: f"{at}: {m}"
        )
